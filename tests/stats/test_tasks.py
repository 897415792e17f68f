"""Holm and the signed-rank test, by hand and by scipy's own exact distribution."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from parfocal.stats import holm, mean_over_targets, wilcoxon_signed_rank


def test_holm_is_the_one_worked_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, made rising: .02 .03 .06 .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_test_that_was_not_made_does_not_count() -> None:
    adjusted = holm([0.02, float("nan"), 0.04])

    assert adjusted[[0, 2]].tolist() == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])


def test_adjusted_values_end_at_one() -> None:
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_the_exact_p_is_scipys_where_there_are_no_ties() -> None:
    values = np.array([0.3, -0.1, 0.7, 1.1, -0.2, 0.9, 0.45])

    assert wilcoxon_signed_rank(values).p_value == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7).filter(any))
@settings(max_examples=40)
def test_with_ties_it_is_the_share_of_all_sign_patterns(values: list[int]) -> None:
    kept = np.array([one for one in values if one])
    ranks = stats.rankdata(np.abs(kept))
    observed = ranks[kept > 0].sum()
    sums = np.array([ranks @ np.array(signs) for signs in product([0, 1], repeat=len(kept))])
    expected = min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))

    result = wilcoxon_signed_rank(values)

    assert result.p_value == pytest.approx(expected)
    assert (result.n_nonzero, result.n_zero) == (len(kept), len(values) - len(kept))


def test_five_targets_cannot_reach_five_percent() -> None:
    result = wilcoxon_signed_rank([0.1, 0.2, 0.3, 0.4, 0.5])

    assert result.p_value == result.smallest_p == 0.0625


def test_many_targets_use_the_normal_tail() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 40)

    expected = stats.wilcoxon(values, method="asymptotic", correction=False).pvalue
    assert wilcoxon_signed_rank(values).p_value == pytest.approx(expected)


def test_nothing_but_zeros_is_no_evidence() -> None:
    assert wilcoxon_signed_rank([0.0, 0.0]).p_value == 1.0


def test_an_impossible_p_value_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.2, 1.2])


def test_the_mean_over_targets_is_the_t_interval_worked_by_hand() -> None:
    """.01, .02, .06: mean .03, sd sqrt(.0007) = .0264575; over the root of 3 times t(.975, 2) = 4.302653."""
    interval = mean_over_targets([0.01, 0.02, 0.06])

    assert interval.estimate == pytest.approx(0.03)
    assert interval.half_width == pytest.approx(4.302653 * 0.0264575 / np.sqrt(3), abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_over_targets([0.01])
