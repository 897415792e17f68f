"""An order that is made anew while tiles are read: what a budget reads, a larger one reads first."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.embed import Glance
from parfocal.embed.glance import Ranked, ReadSoFar, n_chosen
from parfocal.embed.unfolding import LEAST, ROUND, Unfolding
from parfocal.errors import ParfocalError

from ..zoom.glances import glance_of


def by_sum(left: np.ndarray, total: float) -> Ranked:
    """The tiles in an order that any number that was read changes, now and later."""

    def goes_on(so_far: ReadSoFar) -> Ranked:
        return by_sum(so_far.left, total + float(so_far.rows.sum()))

    return Ranked(np.random.default_rng(abs(hash(total))).permutation(left), goes_on=goes_on)


class Reader:
    """Rows of a slide that knows what was asked of it."""

    def __init__(self, glance: Glance, absent: int = 0) -> None:
        n = glance.n_tiles
        self.rows = np.random.default_rng(1).standard_normal((n, 3)).astype(np.float16)
        self.is_absent = np.isin(np.arange(n), np.random.default_rng(2).permutation(n)[:absent])
        self.asked = np.zeros(n, dtype=bool)

    def __call__(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked |= wanted
        there = wanted & ~self.is_absent
        return self.rows[there], there


def first(glance: Glance, *numbers: int, absent: int = 0) -> list[np.ndarray]:
    """Which tiles the first are, of some numbers asked one after the other."""
    order, read = Unfolding("by-sum", glance, by_sum(np.arange(glance.n_tiles), 0.0)), Reader(glance, absent)
    found = []
    for n in numbers:
        found.append(order.first(n, read))
        # Nothing is read for it that the number does not pay for.
        assert not (read.asked & ~found[-1]).any()
    return found


@settings(max_examples=40)
@given(st.integers(1, 25), st.integers(0, 30), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_whatever_is_asked_on_the_way_the_order_is_the_same_and_its_beginnings_nest(
    n_regions: int, absent: int, shares: list[float]
) -> None:
    glance = glance_of(n_regions)
    numbers = sorted(n_chosen(glance.n_tiles, share) for share in shares)
    on_the_way = first(glance, *numbers, absent=absent)
    alone = [first(glance, n, absent=absent)[0] for n in numbers]

    assert np.array_equal(on_the_way, alone)
    assert [one.sum() for one in alone] == numbers
    assert not any((small & ~large).any() for small, large in pairwise(alone))


def test_rounds_are_a_share_of_the_planned_tiles() -> None:
    glance, rounds = glance_of(160, absent=0.0), list[ReadSoFar]()

    def goes_on(so_far: ReadSoFar) -> Ranked:
        rounds.append(so_far)
        return Ranked(so_far.left[::-1], goes_on=goes_on)

    Unfolding("back", glance, Ranked(np.arange(2560), goes_on=goes_on)).first(63, Reader(glance, absent=100))

    assert n_chosen(2560, ROUND) == 20
    assert [(one.n_before, one.n_read) for one in rounds] == [(0, 20), (20, 40), (40, 60)]
    assert rounds[0].order[:20].tolist() == list(range(20))
    assert rounds[1].order[20:40].tolist() == list(range(2559, 2539, -1))
    assert rounds[1].touched.tolist() == [158, 159]
    assert all(len(one.rows) == one.there.sum() == one.n_there.sum() for one in rounds)
    assert rounds[0].rows.dtype == np.float32


def test_a_small_slide_is_not_read_tile_by_tile() -> None:
    glance, rounds = glance_of(3, absent=0.0), list[int]()

    def goes_on(so_far: ReadSoFar) -> Ranked:
        rounds.append(so_far.n_read)
        return Ranked(so_far.left, goes_on=goes_on)

    Unfolding("on", glance, Ranked(np.arange(48), goes_on=goes_on)).first(48, Reader(glance))

    assert rounds == [LEAST * number for number in (1, 2, 3, 4, 5)]


def test_what_is_known_by_now_are_coarse_tiles_and_the_read_ones_of_the_named_regions() -> None:
    glance = glance_of(6, absent=0.0)
    read, order = np.zeros(96, dtype=bool), np.arange(96)
    read[[1, 17, 40]] = True
    so_far = ReadSoFar(glance, order, 41, 0, read, np.arange(6, dtype=np.float32).reshape(3, 2))

    tokens = so_far.tokens(np.array([1, 2]))

    assert tokens.mpps == (2.0, 1.0, 0.5)
    assert tokens.features[0.5].tolist() == [[2, 3], [4, 5]]
    assert tokens.region[0.5].tolist() == [1, 2]
    assert np.array_equal(tokens.center_um[0.5], glance.center_um[[17, 40]])
    assert tokens.features[2.0] is glance.coarse.features[2.0]


def test_a_policy_that_forgets_a_tile_on_the_way_is_named() -> None:
    glance = glance_of(6)
    order = Ranked(np.arange(glance.n_tiles), goes_on=lambda so_far: Ranked(so_far.left[1:]))

    with pytest.raises(
        ParfocalError, match=f"policy odd does not name each of the {glance.n_tiles - LEAST} tiles of s1"
    ):
        Unfolding("odd", glance, order).first(12, Reader(glance))


def test_worth_is_not_known_beforehand_where_an_order_goes_on() -> None:
    with pytest.raises(ValueError, match="not known beforehand"):
        Ranked(np.arange(3), np.zeros(3), goes_on=lambda so_far: Ranked(so_far.left))


def test_a_slide_without_tiles_has_no_round() -> None:
    glance = glance_of(1)
    glance = replace(glance, region=glance.region[:0], center_um=glance.center_um[:0], tissue=glance.tissue[:0])
    assert first(glance, 0)[0].shape == (0,)
