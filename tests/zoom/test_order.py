"""A budget is a prefix of an order, so budgets nest."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.zoom import Glance, Ranked, best_regions_first, best_tiles_first, chosen, is_order, n_chosen

from .glances import drawn, glance_of

SHARES = st.floats(0, 1)


@given(st.integers(0, 200), SHARES, SHARES, st.integers(0, 100))
def test_what_a_small_budget_reads_a_larger_one_reads_too(n: int, one: float, other: float, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(n)
    small, large = (chosen(order, budget) for budget in sorted((one, other)))

    assert (large | ~small).all()
    assert large.sum() == n_chosen(n, max(one, other))


@given(st.integers(0, 200), st.integers(0, 100))
def test_nothing_reads_nothing_and_everything_everything(n: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(n)

    assert not chosen(order, 0.0).any()
    assert chosen(order, 1.0).all()


def test_the_first_of_the_order_are_read() -> None:
    assert chosen(np.array([3, 0, 4, 1, 2]), 0.4).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("n", "budget", "expected"),
    [(20, 0.1, 2), (25, 0.1, 3), (24, 0.1, 2), (1000, 0.2855, 286), (10, 0.01, 1), (10, 0.0, 0), (0, 0.5, 0)],
)
def test_a_half_is_rounded_up_and_a_budget_reads_one_tile_at_least(n: int, budget: float, expected: int) -> None:
    assert n_chosen(n, budget) == expected


@pytest.mark.parametrize("budget", [-0.1, 1.1, float("nan")])
def test_a_budget_that_is_no_share_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="not a share between 0 and 1"):
        chosen(np.arange(5), budget)


def test_the_best_region_comes_first_and_equal_ones_by_number() -> None:
    glance = glance_of(4, absent=0.0)

    order = best_regions_first(np.array([1.0, np.nan, 2.0, 1.0]), glance).order

    # 16 tiles of each region; nothing is known of the second one.
    assert glance.region[order].tolist() == [2] * 16 + [0] * 16 + [3] * 16 + [1] * 16
    assert order[:16].tolist() == list(range(32, 48))


def test_an_order_names_every_tile_once() -> None:
    assert is_order(np.array([2, 0, 1]), 3)
    assert not is_order(np.array([2, 0, 0]), 3)
    assert not is_order(np.array([1, 0]), 3)


def told(worth: np.ndarray, read: np.ndarray, region: np.ndarray, noise: float) -> float:
    """What the read tiles tell of all regions, squared."""
    tiles = np.bincount(region, minlength=len(worth))
    share = np.bincount(region, read, minlength=len(worth)) / np.maximum(tiles, 1)
    return float((worth**2 * share / np.where(share > 0, share + noise, 1)).sum())


@given(drawn(), st.floats(0.01, 5), st.floats(0, 1), st.integers(0, 100))
def test_no_choice_of_as_many_tiles_tells_more(slide: dict[str, Any], noise: float, budget: float, seed: int) -> None:
    glance = glance_of(**slide)
    rng = np.random.default_rng(seed)
    worth = rng.random(glance.coarse.n_regions) + 0.01
    order = best_tiles_first(worth, glance, rng.permutation(glance.n_tiles), noise=noise).order
    read = chosen(order, budget)
    best = told(worth, read, glance.region, noise)

    assert is_order(order, glance.n_tiles)
    # Each region tells less with each tile, so the best choice is one that no exchange of two tiles makes better.
    for _ in range(20):
        other = read.copy()
        if read.any() and not read.all():
            other[rng.choice(np.flatnonzero(read))] = False
            other[rng.choice(np.flatnonzero(~read))] = True
        assert told(worth, other, glance.region, noise) <= best * (1 + 1e-9)


def test_tiles_of_a_region_are_read_as_the_given_order_has_them() -> None:
    glance = glance_of(4, absent=0.0)
    spread = np.random.default_rng(0).permutation(64)

    order = best_tiles_first(np.array([1.0, np.nan, 2.0, 1.0]), glance, spread, noise=0.25).order

    for region in range(4):
        assert order[glance.region[order] == region].tolist() == [t for t in spread if glance.region[t] == region]
    assert (glance.region[order[-16:]] == 1).all()  # of which nothing is known
    # By hand: of the third region, worth twice as much, k tiles tell 4 k / (k + 4), of the first and the last
    # k / (k + 4), so they add .8, .53, .38, .29, .22, .18 and .2, .13.
    assert glance.region[order[:7]].tolist() == [2, 2, 2, 2, 2, 0, 3]


def test_without_noise_every_region_is_begun_before_any_is_read_further() -> None:
    glance = glance_of(6, absent=0.0)

    order = best_tiles_first(np.arange(1.0, 7), glance, np.arange(96), noise=0.0).order

    assert glance.region[order[:6]].tolist() == [5, 4, 3, 2, 1, 0]


def test_a_tile_is_worth_its_part_of_the_region_and_never_more_than_one_before_it() -> None:
    glance = glance_of(3, absent=0.0)
    kept = np.r_[0:16, 16:24, 32:48]  # half of the second region is not planned
    edge = Glance(glance.coarse, glance.region[kept], glance.center_um[kept], 0.5, glance.tissue[kept], 0)

    first = best_regions_first(np.array([1.0, 1.5, np.nan]), edge)
    second = best_regions_first(np.array([2.0, 1.5, np.nan]), edge)

    assert first.worth is not None
    assert second.worth is not None
    assert first.worth.tolist() == [1.5 / 8] * 8 + [1 / 16] * 16 + [-np.inf] * 16
    # A tile of the second one would be worth 1.5 / 8, and is read after those of the first.
    assert second.worth.tolist() == [2 / 16] * 24 + [-np.inf] * 16


def test_a_tile_of_several_regions_is_worth_what_it_adds() -> None:
    glance = glance_of(2, absent=0.0)

    ranked = best_tiles_first(np.array([2.0, np.nan]), glance, np.arange(32), noise=0.25)

    assert ranked.worth is not None
    # By hand: of worth 2, squared, k of 16 tiles tell k / (k + 4), so they add 4 / 5, 4 / 3 - 4 / 5 and so on.
    told = [4 * k / (k + 4) for k in range(17)]
    np.testing.assert_allclose(ranked.worth[:16], np.diff(told), rtol=1e-9)
    assert (ranked.worth[16:] == -np.inf).all()


@pytest.mark.parametrize("worth", [[1.0, 2.0], [np.nan, 0.0], [np.inf, 0.0]])
def test_a_worth_that_rises_or_is_no_number_is_refused(worth: list[float]) -> None:
    with pytest.raises(ValueError, match="never rising"):
        Ranked(np.arange(2), np.array(worth))
