import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from parfocal.lab.synthetic.ceilings import reliability
from parfocal.lab.synthetic.feature_model import COARSE, FINE, MIDDLE, FeatureModel, FeatureSpace, RegionFactors
from parfocal.stats.auc import auc

N = 6000


def _factors(n: int, seed: int = 0) -> RegionFactors:
    rng = np.random.default_rng(seed)
    return RegionFactors(
        a=rng.random(n) < 0.5,
        c=rng.random(n) < 0.5,
        tissue_type=rng.integers(0, 3, n),
        orientation=rng.choice([-1.0, 1.0], n),
        h1=rng.choice([-1.0, 1.0], n),
        h2=rng.choice([-1.0, 1.0], n),
    )


@pytest.fixture(scope="module")
def drawn() -> tuple[FeatureSpace, RegionFactors, dict[float, np.ndarray]]:
    """A large "slide" in whitened coordinates, (region, tile, dim)."""
    space, factors = FeatureSpace(FeatureModel(dim=32)), _factors(N)
    tokens = space.draw("slide", factors, np.random.default_rng(1), slide_vector=np.zeros(6))
    rows = {mpp: space.whitened(tokens.features[mpp].astype(np.float64), mpp).reshape(N, -1, 32) for mpp in tokens.mpps}
    return space, factors, rows


def test_a_slide_has_the_tokens_of_its_regions() -> None:
    tokens = FeatureSpace(FeatureModel(dim=40)).draw("s", _factors(11), np.random.default_rng(0))

    assert tokens.mpps == (COARSE, MIDDLE, FINE)
    assert {mpp: rows.shape for mpp, rows in tokens.features.items()} == {2.0: (11, 40), 1.0: (44, 40), 0.5: (176, 40)}
    assert tokens.region_xy_um[9].tolist() == [448.0, 448.0]
    # Slots row by row: the second fine tile lies right of the first.
    assert tokens.center_um[FINE][:2].tolist() == [[-168.0, -168.0], [-56.0, -168.0]]
    assert tokens.center_um[COARSE][0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("directions", ["leading", "anywhere"])
def test_separations_are_exact_and_factors_do_not_mix(directions: str) -> None:
    space, factors = FeatureSpace(FeatureModel(dim=32, directions=directions)), _factors(N)
    tokens = space.draw("slide", factors, np.random.default_rng(1))
    along_a = space.component(tokens.features[COARSE].astype(np.float64), COARSE, "a")
    along_c = space.component(tokens.features[FINE].astype(np.float64), FINE, "c").reshape(N, 16)

    assert along_a[factors.a].mean() - along_a[~factors.a].mean() == pytest.approx(3.0, abs=0.1)
    assert along_a[factors.a].std() == pytest.approx(1.0, abs=0.04)
    assert along_c[factors.c].mean() - along_c[~factors.c].mean() == pytest.approx(0.75, abs=0.03)
    assert along_c.std(axis=0)[0] < 1.1
    for other in (factors.h1 > 0, factors.h2 > 0, factors.orientation > 0, factors.c):
        assert abs(along_a[other].mean() - along_a[~other].mean()) < 0.2  # a correlation of N signs: +-.04


def test_evidence_is_calibrated() -> None:
    model = FeatureModel(dim=32, separation_a=2.0, shift_c=1.5, tiles_with_c=4)
    space, factors = FeatureSpace(model), _factors(N)
    tokens = space.draw("slide", factors, np.random.default_rng(2))

    for evidence, truth, eta in (
        (space.log_odds_a(tokens), factors.a, reliability(2.0)),
        (space.log_odds_c(tokens), factors.c, 0.50),  # quoted for 4 of 16 tiles, shift 1.5
    ):
        posterior = np.tanh(evidence / 2)
        assert float((posterior**2).mean()) == pytest.approx(eta, abs=0.025)
        # Calibrated: the mean of the sign given the posterior is the posterior, so their product has its mean square.
        sign = 2.0 * truth - 1
        assert float((posterior * sign).mean()) == pytest.approx(float((posterior**2).mean()), abs=0.04)


def test_noise_is_white_before_the_spectrum_and_falls_with_it() -> None:
    model = FeatureModel(
        dim=32,
        separation_a=0,
        shift_c=0,
        separation_h=0,
        size_product=0,
        size_type=0,
        size_orientation=0,
        size_slide=0,
        size_local=0,
    )
    space = FeatureSpace(model)
    rows = space.draw("slide", _factors(2000), np.random.default_rng(3)).features[COARSE].astype(np.float64)

    assert np.abs(np.cov(space.whitened(rows, COARSE).T) - np.eye(32)).max() < 0.15  # 500 of them, each +-.03
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    np.testing.assert_allclose(spectrum, 1 / np.arange(1, 33), rtol=0.2)


def test_leading_factors_lie_among_the_leading_components(
    drawn: tuple[FeatureSpace, RegionFactors, dict[float, np.ndarray]],
) -> None:
    _, factors, rows = drawn
    effect = rows[COARSE][factors.a, 0].mean(axis=0) - rows[COARSE][~factors.a, 0].mean(axis=0)

    assert np.linalg.norm(effect[:6]) == pytest.approx(3.0, abs=0.15)
    assert np.abs(effect[6:]).max() < 0.3


def test_the_product_has_no_linear_prediction_and_the_known_bayes_prediction(
    drawn: tuple[FeatureSpace, RegionFactors, dict[float, np.ndarray]],
) -> None:
    space, factors, rows = drawn
    sign = factors.h1 * factors.h2
    coarse = rows[COARSE][:, 0]
    half = N // 2

    linear = LinearRegression().fit(coarse[:half], sign[:half])
    assert linear.score(coarse[half:], sign[half:]) < 0.01
    directions = {name: space._spaces[COARSE].directions[name][0] for name in ("h1", "h2")}
    bayes = np.tanh(1.5 * coarse @ directions["h1"]) * np.tanh(1.5 * coarse @ directions["h2"])
    r2 = 1 - ((sign - bayes) ** 2).mean()
    assert r2 == pytest.approx(reliability(3.0) ** 2, abs=0.03)
    along = rows[FINE] @ space._spaces[FINE].directions["product"][0]
    assert along[sign > 0].mean() - along[sign < 0].mean() == pytest.approx(3.0, abs=0.05)


def test_the_orientation_needs_positions_at_the_fine_magnification(
    drawn: tuple[FeatureSpace, RegionFactors, dict[float, np.ndarray]],
) -> None:
    space, factors, rows = drawn
    along = rows[FINE] @ space._spaces[FINE].directions["orientation"][0]
    turned = factors.orientation > 0
    checkerboard = np.array([1.0, -1, 1, -1, -1, 1, -1, 1] * 2)

    assert auc(turned, along.mean(axis=1)) == pytest.approx(0.5, abs=0.03)
    assert auc(turned, along @ checkerboard) > 0.99
    assert auc(turned, rows[COARSE][:, 0] @ space._spaces[COARSE].directions["orientation"][0]) > 0.9


def test_a_middle_tile_shares_local_structure_with_its_four_children() -> None:
    model = FeatureModel(dim=32, size_type=0, size_product=0, shift_c=0, size_orientation=0, size_local=2.0)
    space = FeatureSpace(model)
    tokens = space.draw("slide", _factors(800), np.random.default_rng(4), slide_vector=np.zeros(6))
    local = {
        mpp: space.whitened(tokens.features[mpp].astype(np.float64), mpp) @ space._spaces[mpp].directions["local"][0]
        for mpp in (MIDDLE, FINE)
    }
    middle, fine = local[MIDDLE].reshape(-1, 2, 2), local[FINE].reshape(-1, 4, 4)

    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        correlation = np.corrcoef(middle[:, row // 2, column // 2], fine[:, row, column])[0, 1]
        assert correlation == pytest.approx(4 / 5, abs=0.06)
        assert abs(np.corrcoef(middle[:, 1 - row // 2, column // 2], fine[:, row, column])[0, 1]) < 0.12


def test_louder_fine_tiles_show_a_but_leave_c_as_it_was() -> None:
    space, factors = FeatureSpace(FeatureModel(dim=32, fine_noise=2.0)), _factors(1000)
    tokens = space.draw("slide", factors, np.random.default_rng(5))
    rows = tokens.features[FINE].astype(np.float64)

    along_c = space.component(rows, FINE, "c").reshape(1000, 16)
    assert (along_c[factors.a & ~factors.c].std(), along_c[~factors.a & ~factors.c].std()) == pytest.approx(
        (1.0, 1.0), abs=0.05
    )
    spread = space.whitened(rows, FINE).reshape(1000, -1).std(axis=1)
    assert auc(factors.a, spread) > 0.99


def test_an_xor_is_in_no_mean_and_in_no_single_direction_but_can_be_read_exactly() -> None:
    model = FeatureModel(dim=32, shift_c=0.75, c_shown_as="xor")
    space, factors = FeatureSpace(model), _factors(N)
    tokens = space.draw("slide", factors, np.random.default_rng(3), slide_vector=np.zeros(6))
    fine = space.whitened(tokens.features[FINE].astype(np.float64), FINE).reshape(N, 16, 32).mean(axis=1)
    half = N // 2

    linear = LinearRegression().fit(fine[:half], factors.c[:half])
    assert linear.score(fine[half:], factors.c[half:]) < 0.01
    posterior = np.tanh(space.log_odds_c(tokens) / 2)
    # Two signs of sixteen tiles each, both needed: the reliabilities multiply.
    assert float((posterior**2).mean()) == pytest.approx(reliability(3.0) ** 2, abs=0.025)
    assert float((posterior * (2.0 * factors.c - 1)).mean()) == pytest.approx(float((posterior**2).mean()), abs=0.04)


def test_an_xor_in_a_part_of_the_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="Leave tiles_with_c at 16"):
        FeatureModel(c_shown_as="xor", tiles_with_c=4)
