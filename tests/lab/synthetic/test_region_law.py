import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression

from parfocal.lab.synthetic.ceilings import reliability
from parfocal.lab.synthetic.feature_model import COARSE, FINE, FeatureModel, FeatureSpace, RegionFactors
from parfocal.lab.synthetic.xscale import StratSettings

RegionLaw = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "region_law.py"))["RegionLaw"]
DIM = 32
SETTINGS = StratSettings(n_types=3, orientation=True, model=FeatureModel(dim=DIM, shared_nuisance=1))


def draw(settings: StratSettings, n: int, seed: int = 0) -> tuple[np.ndarray, FeatureSpace]:
    """Regions of as many slides, so that the slide's vector is drawn for each of them."""
    rng, space = np.random.default_rng(seed), FeatureSpace(settings.model)
    signs = (-1.0, 1.0)
    regions = []
    for _ in range(n):
        factors = RegionFactors(
            a=rng.random(1) < 0.5,
            c=rng.random(1) < 0.5,
            tissue_type=rng.integers(0, settings.n_types, 1),
            orientation=rng.choice(signs if settings.orientation else (0.0,), 1),
            h1=rng.choice(signs, 1),
            h2=rng.choice(signs, 1),
        )
        tokens = space.draw("s", factors, rng)
        regions.append(np.concatenate([tokens.features[mpp] for mpp in tokens.mpps]))
    return np.stack(regions), space


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, RegionLaw, np.ndarray]:
    """Regions, their law, and masks: the finest hidden, the coarsest hidden, or one 10x tile with its children."""
    tokens, _ = draw(SETTINGS, 1500)
    law = RegionLaw.of(SETTINGS)
    visible = np.ones((3, 21), dtype=bool)
    visible[0, 5:], visible[1, :1], visible[2, [2, 7, 8, 11, 12]] = False, False, False
    return tokens, law, visible[np.arange(len(tokens)) % 3]


def test_the_law_has_the_moments_of_simulated_regions(drawn: tuple[np.ndarray, RegionLaw, np.ndarray]) -> None:
    tokens, law, _ = drawn
    mean, loading = law.centre.mean(axis=0), law.loading
    for tile in (0, 2, 12):
        mpp = float(law.tile_mpp[tile])
        axes = np.concatenate([law.space.directions(mpp)[name] for name in ("a", "c", "h1", "h2", "product")])
        along = law.space.whitened(tokens[:, tile].astype(np.float64), mpp) @ axes.T
        # The five signs are the first axes; a mean of 1,500 draws of a variance of at most 3.3 has a se of .05.
        assert along.mean(axis=0) == pytest.approx(mean[tile, :5], abs=0.2)
        states = law.centre[:, tile, :5]
        variance = states.var(axis=0) + np.square(loading[tile, :5]).sum(axis=1) + 1
        assert along.var(axis=0) == pytest.approx(variance, rel=0.2)


def test_hidden_tiles_are_never_read_and_visible_ones_stay(drawn: tuple[np.ndarray, RegionLaw, np.ndarray]) -> None:
    tokens, law, visible = drawn
    tokens, visible = tokens[:6], visible[:6]
    poisoned = np.where(visible[..., None], tokens, np.nan)

    for predict in (law.predict, law.predict_linearly):
        predicted = predict(tokens, visible)
        assert np.array_equal(predict(poisoned, visible), predicted, equal_nan=False)
        assert np.array_equal(predicted[visible], tokens[visible].astype(np.float64))


def test_the_prediction_is_that_of_all_states_with_their_dense_covariances() -> None:
    """The second way: each state's density of all visible numbers, noise included, by scipy."""
    settings = StratSettings(n_types=2, model=FeatureModel(dim=DIM))
    law, (tokens, space) = RegionLaw.of(settings), draw(settings, 4, seed=3)
    shown, asked = np.array([0, 1, 5, 6]), 9  # 5x, the 10x tile over the asked 20x tile, two of its 20x sisters
    visible = np.zeros((4, 21), dtype=bool)
    visible[:, shown] = True
    names = ("a", "c", "h1", "h2", "product", "orientation", "type", "slide", "local", "shared")
    axes = {mpp: np.concatenate([space.directions(mpp)[name] for name in names]) for mpp in (2.0, 1.0, 0.5)}
    along = [space.whitened(tokens[:, t].astype(np.float64), law.tile_mpp[t]) @ axes[law.tile_mpp[t]].T for t in shown]
    seen = np.stack(along, axis=1).reshape(4, -1)
    own = law.loading[shown].reshape(seen.shape[1], -1)
    covariance = own @ own.T + np.eye(len(own))
    density = np.stack([multivariate_normal(one[shown].ravel(), covariance).logpdf(seen) for one in law.centre], axis=1)
    weight = np.exp(density - density.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    cross = law.loading[asked] @ own.T
    means = [
        one[asked] + (seen - one[shown].ravel()) @ np.linalg.solve(covariance, cross.T) for one in law.centre
    ]  # a list over states of (region, axis)
    expected = np.einsum("rs,sra->ra", weight, np.stack(means))

    predicted = law.predict(tokens, visible)[:, asked]

    assert space.whitened(predicted, FINE) @ axes[FINE].T == pytest.approx(expected, abs=1e-6)


def test_the_product_follows_from_what_5x_shows_as_the_closed_form_says(
    drawn: tuple[np.ndarray, RegionLaw, np.ndarray],
) -> None:
    tokens, law, _ = drawn
    visible = np.zeros((len(tokens), 21), dtype=bool)
    visible[:, 0] = True
    separation, size = SETTINGS.model.separation_h, SETTINGS.model.size_product

    predicted = law.space.component(law.predict(tokens, visible)[:, 5:], FINE, "product")
    straight = law.space.component(law.predict_linearly(tokens, visible)[:, 5:], FINE, "product")
    coarse = tokens[:, 0].astype(np.float64)
    signs = [np.tanh(separation / 2 * law.space.component(coarse, COARSE, one)) for one in ("h1", "h2")]

    assert predicted == pytest.approx(np.repeat((size / 2 * signs[0] * signs[1])[:, None], 16, axis=1), abs=1e-5)
    assert straight == pytest.approx(0, abs=1e-5)  # stored as float32
    # R2 of the sign itself is eta^2 = .645; 1,500 draws.
    assert np.square(predicted[:, 0]).mean() / (size / 2) ** 2 == pytest.approx(reliability(separation) ** 2, abs=0.04)


def test_nothing_fitted_on_a_simulation_is_better_and_the_linear_optimum_is_what_regression_finds(
    drawn: tuple[np.ndarray, RegionLaw, np.ndarray],
) -> None:
    tokens, law, _ = drawn
    visible = np.ones((len(tokens), 21), dtype=bool)
    visible[:, 5:] = False
    truth = law.space.whitened(tokens[:, 5].astype(np.float64), FINE)
    best, straight = (
        law.space.whitened(predict(tokens, visible)[:, 5], FINE) for predict in (law.predict, law.predict_linearly)
    )
    seen = tokens[:, :5].reshape(len(tokens), -1).astype(np.float64)
    half = len(tokens) // 2
    fitted = LinearRegression().fit(seen[:half], truth[:half]).predict(seen[half:])
    error = {
        name: np.square(truth[half:] - one).sum(axis=1).mean()
        for name, one in (("best", best[half:]), ("linear", straight[half:]), ("fitted", fitted))
    }

    assert error["best"] < error["linear"] < error["fitted"]
    # An expectation is uncorrelated with its own error: the slope of truth on prediction is 1.
    for name in ("product", "type", "orientation", "local"):
        for along in law.space.directions(FINE)[name][:2]:
            x, y = best @ along, truth @ along
            if x.std() > 0.1:
                assert np.polyfit(x, y, 1)[0] == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("model", [FeatureModel(tiles_with_c=4), FeatureModel(fine_noise=2.0)])
def test_what_is_no_such_mixture_is_refused(model: FeatureModel) -> None:
    with pytest.raises(ValueError, match="needs 16 and 1"):
        RegionLaw.of(StratSettings(model=model))
