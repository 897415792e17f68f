"""Harrell's concordance, against the definition counted pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.stats import tally_times


def brute(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> tuple[float, int]:
    points, pairs = 0.0, 0
    for i in range(len(time)):
        for j in range(i):
            if time[i] == time[j] and event[i] == event[j]:
                continue
            # Who went first: the earlier one, or at equal times the one whose event was seen.
            first, other = (i, j) if (time[i], -event[i]) < (time[j], -event[j]) else (j, i)
            if not event[first]:
                continue
            pairs += 1
            points += 1.0 if risk[first] > risk[other] else 0.5 if risk[first] == risk[other] else 0.0
    return (points / pairs if pairs else float("nan")), pairs


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_it_counts_the_comparable_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, event, risk = rng.integers(0, 6, 15), rng.integers(0, 2, 15), rng.integers(0, 4, 15)
    value, pairs = brute(time, event, risk)

    if pairs:
        assert tally_times(time, event, risk).share == pytest.approx(value)
        assert tally_times(time, event, risk).n_pairs == pairs


def test_a_small_cohort_worked_by_hand() -> None:
    """Times 2, 4+, 5, 7; the pairs are 2-4, 2-5, 2-7 and 5-7; only the risks of 5 and 7 stand the wrong way."""
    result = tally_times(np.array([2, 4, 5, 7]), np.array([1, 0, 1, 1]), np.array([0.9, 0.5, 0.1, 0.3]))

    assert (result.won.sum() / 2, result.n_pairs) == (3, 4)


def test_a_cohort_without_events_has_no_share() -> None:
    assert np.isnan(tally_times(np.array([1.0, 2.0]), np.array([0, 0]), np.array([0.1, 0.2])).share)
