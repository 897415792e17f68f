"""The regions come first whose fine tiles are expected to move the score of a head most."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.bags import TileDecoder, bag_of_slide
from parfocal.errors import ConfigError, MismatchError
from parfocal.heads import FittedProbe, score_partly_read
from parfocal.heads.linear import FittedMean
from parfocal.zoom import POLICIES, Glance, HeadOfBags
from parfocal.zoom.policies.value import value_of_reading

from ...region_encoder.toy import DIM, model_of
from ..bound import BAGS, head
from ..glances import full, glance_of

DECODER = TileDecoder(model_of(), 0.5, whitened=False)


def linear(coefficient: np.ndarray) -> HeadOfBags:
    """A head of one column or several that looks at the fine tiles alone."""
    none = np.zeros_like(coefficient)
    offset = (np.zeros(DIM),) * 3
    return HeadOfBags(FittedMean(offset, (none, none, coefficient), np.zeros(coefficient.shape[1]), ""), BAGS)


def predicted(glance: Glance) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every planned tile."""
    found = np.full((2, glance.n_tiles, DIM), np.nan)
    for rows, mean, variance in DECODER.ask_tiles(glance.coarse, glance.region, glance.center_um):
        found[:, rows] = mean.numpy(), variance.sqrt().numpy()
    return found[0], found[1]


def test_a_linear_head_has_the_value_of_the_closed_form() -> None:
    glance = full(glance_of(12, dim=DIM))
    coefficient = np.random.default_rng(0).standard_normal((DIM, 1))
    _, spread = predicted(glance)
    asked = ~np.isnan(spread[:, 0])
    variance = np.bincount(glance.region[asked], (spread[asked] ** 2 @ coefficient[:, 0] ** 2), minlength=12)
    expected = np.sqrt(2 / np.pi * variance) / asked.sum()

    found = value_of_reading(linear(coefficient), DECODER, glance, draws=4000)

    known = np.isfinite(found)
    assert set(np.flatnonzero(known)) == set(glance.region[asked])
    # |N(0, 1)| has a relative standard deviation of .76; 2,000 pairs give .017, and this is four of these.
    np.testing.assert_allclose(found[known], expected[known], rtol=0.07)


def test_regions_of_which_the_model_is_equally_unsure_do_not_differ_by_the_draw() -> None:
    glance = full(glance_of(12, dim=DIM, absent=0.0))
    first = np.flatnonzero(glance.coarse.region[2.0] == 0)
    coarse = glance.coarse
    features = {mpp: np.tile(rows[coarse.region[mpp] == 0], (12, 1)) for mpp, rows in coarse.features.items()}
    alike = replace(glance, coarse=replace(coarse, features=features))
    assert len(first) == 1

    found = value_of_reading(linear(np.ones((DIM, 2))), DECODER, alike)

    assert found.min() > 0
    np.testing.assert_allclose(found, found[0], rtol=1e-3)


def test_what_the_head_ignores_comes_last() -> None:
    glance = full(glance_of(12, dim=DIM, absent=0.0))
    _, spread = predicted(glance)
    by_region = spread.reshape(12, 16, DIM)

    found = value_of_reading(linear(np.eye(DIM)[:, :1]), DECODER, glance, draws=400)

    # Only the first number counts, however unsure the model is of the others.
    assert np.corrcoef(found, np.sqrt((by_region[:, :, 0] ** 2).sum(axis=1)))[0, 1] > 0.9
    assert (value_of_reading(linear(np.zeros((DIM, 1))), DECODER, glance) == 0).all()


def test_a_region_without_coarse_tiles_comes_last() -> None:
    glance = full(glance_of(12, dim=DIM, absent=0.0))
    coarse = glance.coarse
    kept = {mpp: coarse.region[mpp] != 5 for mpp in coarse.mpps}
    parts = (
        {mpp: part[mpp][kept[mpp]] for mpp in coarse.mpps}
        for part in (coarse.features, coarse.region, coarse.center_um)
    )
    blind = replace(
        glance, coarse=replace(coarse, **dict(zip(("features", "region", "center_um"), parts, strict=True)))
    )

    order = POLICIES.get("value").bound(linear(np.ones((DIM, 1))), DECODER)(blind)

    assert (blind.region[order[-16:]] == 5).all()


@pytest.mark.parametrize("kind", ["mean", "mlp", "attention", "region_mlp", "contrast"])
def test_the_value_is_that_of_reading_one_region_after_another(kind: str) -> None:
    glance = full(glance_of(7, dim=DIM, absent=0.1))
    probe = head(kind, DIM)

    found = value_of_reading(HeadOfBags(probe, BAGS), DECODER, glance)

    expected = one_by_one(probe, glance)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    # Scores are of float32 where there is a network, and a value is a small difference of them.
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-5)
    assert np.nanmax(found) > 1e-3


def one_by_one(probe: FittedProbe, glance: Glance) -> np.ndarray:
    """The same with a new bag of the whole slide for every reading."""
    mean, spread = predicted(glance)
    can = ~np.isnan(mean[:, 0])
    region, center = glance.region[can], glance.center_um[can]
    most = np.bincount(region).max()
    half = glance.generator().standard_normal((2, most, DIM), dtype=np.float32)
    known = [bag_of_slide(glance.coarse, mpp) for mpp in glance.coarse.mpps]

    def score(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
        tokens = replace(
            glance.coarse,
            features={0.5: rows[there].astype(np.float32)},
            region={0.5: region[there]},
            center_um={0.5: center[there]},
        )
        bags = [*known, bag_of_slide(tokens, 0.5)]
        if kind_of(probe) == "contrast":
            return score_partly_read(probe, bags, np.array([0]), (2,))[0]
        return probe.score(bags, np.array([0]))[0]

    expected, every = np.full(glance.coarse.n_regions, np.nan), np.ones(len(region), dtype=bool)
    for number in np.unique(region):
        own = region == number
        moved = []
        for drawn in (*half, *-half):
            rows = mean[can].copy()
            rows[own] += spread[can][own] * drawn[: own.sum()]
            if kind_of(probe) == "contrast":
                moved.append(score(rows, own) - before_contrast(probe, known, glance))
            else:
                moved.append(score(rows, every) - score(mean[can], every))
        expected[number] = np.linalg.norm(moved, axis=1).mean()
    return expected


def kind_of(probe: FittedProbe) -> str:
    return probe.state().probe


def before_contrast(probe: FittedProbe, known: list, glance: Glance) -> np.ndarray:
    """The score of a contrast head when no fine tile is read."""
    nothing = replace(
        known[0],
        name="0.5",
        mean=np.full((1, DIM), np.nan, dtype=np.float32),
        region_mean=np.full((glance.coarse.n_regions, DIM), np.nan, dtype=np.float32),
        region_present=np.zeros(glance.coarse.n_regions, dtype=bool),
    )
    return score_partly_read(probe, [*known, nothing], np.array([0]), (2,))[0]


def test_what_does_not_fit_together_is_refused() -> None:
    policy = POLICIES.get("value")
    with pytest.raises(ConfigError, match=r"predicts whitened ones, .* targets=standardised"):
        policy.bound(linear(np.ones((DIM, 1))), replace(DECODER, whitened=True))
    with pytest.raises(MismatchError, match=r"cannot say what is expected at 0\.25"):
        policy.bound(linear(np.ones((DIM, 1))), DECODER)(replace(glance_of(dim=DIM, mpps=(2.0,)), mpp=0.25))
