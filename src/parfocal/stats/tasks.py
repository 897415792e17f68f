"""Across several targets: the signed-rank test of a common gain, and Holm's correction of many p-values."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from parfocal.stats.interval import Interval, Numbers, finite_numbers

FEWEST_TARGETS = 6
"""With fewer targets nothing is inferred over them: no result of the signed-rank test is below .05 with five."""


@dataclass(frozen=True)
class SignedRankTest:
    """Wilcoxon's signed-rank test of differences, one for each target; those that are zero are left out."""

    rank_sum: float
    n_nonzero: int
    n_zero: int
    p_value: float
    smallest_p: float


def wilcoxon_signed_rank(differences: Numbers) -> SignedRankTest:
    """Test whether the differences lie about zero (two-sided), counting each target once.

    The distribution is exact, by counting all sign patterns, with mid-ranks for ties, up to 20 targets, and the normal
    approximation beyond. `smallest_p` is what the number of targets could have shown at best: with five
    targets no result is below .0625.
    """
    array = finite_numbers(differences, "the signed-rank test")
    kept = array[array != 0]
    n = len(kept)
    if n == 0:
        return SignedRankTest(0.0, 0, len(array), 1.0, 1.0)
    ranks = stats.rankdata(np.abs(kept))
    rank_sum = float(ranks[kept > 0].sum())
    if n <= 20:
        p_value = _exact_p(ranks, rank_sum)
    else:
        se = float(np.sqrt((ranks**2).sum() / 4))
        p_value = float(2 * stats.norm.sf(abs(rank_sum - ranks.sum() / 2) / se))
    return SignedRankTest(rank_sum, n, len(array) - n, min(p_value, 1.0), float(2.0 ** (1 - n)))


def mean_over_targets(values: Numbers, level: float = 0.95, *, fewest: int = 2) -> Interval:
    """The mean of one number for each target, with the t interval that takes the targets as drawn from many.

    It says what a further target of this sort would show on average. Targets that are labels of the same patients are
    not independent of each other, and then it is too narrow.

    Args:
        values: one number for each target.
        level: of the interval.
        fewest: with fewer values the interval has no ends.

    Raises:
        ValueError: fewer than two targets, or a number that is not finite.
    """
    array = finite_numbers(values, "the mean over targets", at_least=2)
    mean = float(array.mean())
    if len(array) < fewest:
        return Interval(mean, -np.inf, np.inf, level, f"none: fewer than {fewest} targets")
    reach = float(array.std(ddof=1) / np.sqrt(len(array)) * stats.t.ppf(0.5 + level / 2, len(array) - 1))
    return Interval(mean, mean - reach, mean + reach, level, "t over targets")


def holm(p_values: Numbers) -> Float64[np.ndarray, "test"]:
    """Holm's step-down adjusted p-values, in the given order.

    A NaN (a test that could not be made) stays NaN and does not count among the tests.
    """
    array = np.asarray(p_values, dtype=np.float64)
    made = np.isfinite(array)
    if ((array[made] < 0) | (array[made] > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    order = np.argsort(array[made], kind="stable")
    stepped = array[made][order] * np.arange(made.sum(), 0, -1)
    adjusted = np.empty(int(made.sum()))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    result = np.full(len(array), np.nan)
    result[made] = adjusted
    return result


def _exact_p(ranks: Float64[np.ndarray, "target"], rank_sum: float) -> float:
    """Twice the smaller tail over all 2^n sign patterns; ranks are doubled so that mid-ranks are whole numbers."""
    doubled = np.rint(2 * ranks).astype(int)
    counts = np.zeros(int(doubled.sum()) + 1)
    counts[0] = 1
    for rank in doubled:
        shifted = np.zeros_like(counts)
        shifted[rank:] = counts[: len(counts) - rank]
        counts += shifted
    share = counts / counts.sum()
    at = round(2 * rank_sum)
    return float(min(1.0, 2 * min(share[: at + 1].sum(), share[at:].sum())))
