"""The regions come first in which reading moves the score of a contrast head most."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from parfocal.errors import ConfigError
from parfocal.heads import FittedProbe
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.terms import PairTerm, Usual
from parfocal.heads.linear import FittedMean
from parfocal.zoom import POLICIES, Glance, HeadOfBags

from ..bound import BAGS, bound, head
from ..glances import DIM, drawn, glance_of


def means(n_bags: int) -> FittedMean:
    return FittedMean((np.zeros(DIM),) * n_bags, (np.zeros((DIM, 1)),) * n_bags, np.zeros(1), "none")


def contrast_of(*terms: PairTerm, bags: int = 2) -> FittedContrast:
    return FittedContrast((None,) * bags, terms, means(bags), np.zeros(1), np.zeros(1), "by hand")


def term_of(u: np.ndarray, v: np.ndarray, size: np.ndarray, *, first: int = 0, second: int = 1) -> PairTerm:
    usual = Usual(np.zeros(u.shape[1]), size, 0.25, np.zeros((DIM + 1, u.shape[1])))
    return PairTerm(0, first, second, u, v, usual=(usual, usual))


def region_means(glance: Glance, mpp: float) -> np.ndarray:
    rows, region = glance.coarse.features[mpp].astype(np.float64), glance.coarse.region[mpp]
    return np.stack([rows[region == r].mean(axis=0) for r in range(glance.coarse.n_regions)])


def test_one_pair_of_directions_is_the_absolute_projection() -> None:
    rng = np.random.default_rng(1)
    glance = glance_of(15, absent=0.0)
    u, v = rng.standard_normal((DIM, 1)), rng.standard_normal((DIM, 1))
    policy = POLICIES.get("contrast").bound(HeadOfBags(contrast_of(term_of(u, v, np.eye(1))), ("2", "0.5")))
    x = region_means(glance, 2.0)
    expected = np.argsort(-np.abs((x - x.mean(axis=0)) @ u[:, 0]))

    assert np.array_equal(glance.region[policy(glance)][::16], expected)


def test_several_directions_are_weighed_by_the_covariance_of_the_fine_side() -> None:
    rng = np.random.default_rng(2)
    glance = glance_of(15, absent=0.0)
    u, v = rng.standard_normal((DIM, 3)), rng.standard_normal((DIM, 3))
    size = np.cov(rng.standard_normal((3, 50)) * np.array([[3.0], [1.0], [0.2]]))
    # The fine bag may be either side.
    turned = term_of(v, u, size, first=1, second=0)
    x = region_means(glance, 2.0)
    a = (x - x.mean(axis=0)) @ u
    worth = [np.sqrt(one @ size @ one) for one in a]

    for term in (term_of(u, v, size), turned):
        policy = POLICIES.get("contrast").bound(HeadOfBags(contrast_of(term), ("2", "0.5")))
        assert np.array_equal(glance.region[policy(glance)][::16], np.argsort(-np.array(worth)))


def test_pairs_of_magnifications_add_their_squares() -> None:
    rng = np.random.default_rng(3)
    glance = glance_of(15, absent=0.0)
    u, w, v = (rng.standard_normal((DIM, 1)) for _ in range(3))
    coarse, middle = term_of(u, v, np.eye(1), second=2), term_of(w, v, 4 * np.eye(1), first=1, second=2)
    without = term_of(u, w, np.eye(1), second=1)  # of both known magnifications: nothing to be read
    policy = POLICIES.get("contrast").bound(HeadOfBags(contrast_of(coarse, middle, without, bags=3), BAGS))
    x, y = region_means(glance, 2.0), region_means(glance, 1.0)
    squares = ((x - x.mean(axis=0)) @ u[:, 0]) ** 2 + 4 * ((y - y.mean(axis=0)) @ w[:, 0]) ** 2

    assert np.array_equal(glance.region[policy(glance)][::16], np.argsort(-squares))


def test_tile_by_tile_a_region_that_is_worth_more_is_read_further() -> None:
    rng = np.random.default_rng(4)
    glance = glance_of(15, absent=0.0)
    u, v = rng.standard_normal((DIM, 1)), rng.standard_normal((DIM, 1))
    policy = POLICIES.get("contrast-tiles").bound(HeadOfBags(contrast_of(term_of(u, v, np.eye(1))), ("2", "0.5")))
    x = region_means(glance, 2.0)
    squared = ((x - x.mean(axis=0)) @ u[:, 0]) ** 2
    # By hand: the noise of a quarter is four of sixteen tiles.
    adds = squared[:, None] * np.diff(np.arange(17) / (np.arange(17) + 4))
    n_read = (adds >= np.sort(adds.ravel())[::-1][59]).sum(axis=1)

    read = np.bincount(glance.region[policy(glance)[:60]], minlength=15)

    assert np.array_equal(read, n_read)


@given(drawn())
def test_regions_are_read_whole_by_a_fitted_head(slide: dict[str, Any]) -> None:
    glance = glance_of(**slide)
    if not all(map(len, glance.coarse.features.values())):
        return
    regions = glance.region[bound("contrast", dim=DIM)(glance)]

    assert np.count_nonzero(np.diff(regions)) == max(len(np.unique(regions)) - 1, 0)


@pytest.mark.parametrize(
    ("probe", "bags", "message"),
    [
        (head("attention", DIM), BAGS, "needs a contrast head"),
        (head("contrast", DIM), ("2", "1", "0.25"), "does not pool tiles at"),
        (head("contrast", DIM), ("2", "4", "0.5"), "the head pools 4, and 2, 1 is known of s1"),
        (contrast_of(), ("2", "0.5"), "pairs the magnification that is to be read with no other one"),
    ],
)
def test_a_head_that_cannot_say_where_to_read_is_refused(
    probe: FittedProbe, bags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        POLICIES.get("contrast").bound(HeadOfBags(probe, bags))(glance_of())
