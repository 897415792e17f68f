"""Concordance of ordered labels, against scipy's Somers' D and the definition counted pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from parfocal.stats import (
    RankedPairs,
    auc,
    concordance,
    ordered_pairs,
    tally_classes,
    tally_times,
    time_pairs,
    weighted_auc,
)


def brute(value: np.ndarray, score: np.ndarray) -> float:
    points, pairs = 0.0, 0
    for i in range(len(value)):
        for j in range(len(value)):
            if value[i] > value[j]:
                pairs += 1
                points += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    return points / pairs


@given(st.integers(0, 10_000), st.sampled_from([3, 50]))
@settings(max_examples=30)
def test_it_is_the_share_of_pairs_and_somers_d_rescaled(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    value, score = rng.integers(0, levels, 14), rng.integers(0, 6, 14)
    value[:2] = 0, 1

    found = concordance(value, score)

    assert found == pytest.approx(brute(value, score))
    assert found == pytest.approx((1 + stats.somersd(value, score).statistic) / 2)


def test_more_cases_than_one_block_of_rows_are_all_counted() -> None:
    rng = np.random.default_rng(0)
    value, score = rng.integers(0, 4, 1300), rng.normal(size=1300).round(1)

    assert concordance(value, score) == pytest.approx((1 + stats.somersd(value, score).statistic) / 2)


def test_with_two_values_it_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    label, score = np.arange(40) % 2, rng.normal(size=40).round(1)

    assert concordance(label, score) == pytest.approx(auc(label, score))


def test_every_class_counts_alike_in_the_mean_auc_and_absent_ones_do_not() -> None:
    label = np.array([0, 0, 0, 1, 2])
    score = np.array(
        [[3.0, 0.0, 0.0, 9.0], [2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0] * 4]
    )

    # Class 0: its 3, 2, 0 against 1, 1 win 4 of 6. Class 1: 1 against 0, 0, 2, 1 wins 2 and a half of 4.
    # Class 2: 1 against 0, 0, 1, 0 wins 3 and a half of 4. Class 3 has no case.
    shares = [tally_classes(label == one, score[:, one]).share for one in range(4)]
    assert np.nanmean(shares) == pytest.approx((4 / 6 + 2.5 / 4 + 3.5 / 4) / 3)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_weighted_cases_are_cases_that_are_there_several_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    value, score = rng.integers(0, 4, 20), rng.integers(0, 5, 20)
    time, event = rng.integers(1, 9, 20), rng.integers(0, 2, 20)
    event[time.argmin()], time[0] = 1, 20  # someone is seen to live longer
    value[:2], label = (0, 3), value > 1
    drawn = np.concatenate([rng.integers(0, 20, 30), np.arange(20)])
    weight = np.stack([np.ones(20), np.bincount(drawn, minlength=20)]).astype(np.float32)

    ordered = RankedPairs.of(ordered_pairs(value), score).share(weight)
    timed = RankedPairs.of(time_pairs(time, event), score).share(weight)
    areas = weighted_auc(label, score, weight)

    assert ordered.tolist() == pytest.approx([concordance(value, score), concordance(value[drawn], score[drawn])])
    of_draw = tally_times(time[drawn], event[drawn], score[drawn]).share
    assert timed.tolist() == pytest.approx([tally_times(time, event, score).share, of_draw])
    assert areas.tolist() == pytest.approx([auc(label, score), auc(label[drawn], score[drawn])])


def test_a_draw_without_any_pair_says_nothing() -> None:
    weight = np.array([[2.0, 0.0]], dtype=np.float32)

    assert RankedPairs.of(ordered_pairs(np.array([1, 2])), np.array([0.0, 1.0])).share(weight) == 0.5
    assert weighted_auc(np.array([0, 1]), np.array([0.0, 1.0]), weight) == 0.5


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="all 3 cases have the same"):
        concordance(np.ones(3), np.arange(3))
    with pytest.raises(ValueError, match="must be finite"):
        concordance(np.arange(2), np.array([np.nan, 1]))
    assert np.isnan(tally_classes(np.array([1, 1]), np.zeros(2)).share)
