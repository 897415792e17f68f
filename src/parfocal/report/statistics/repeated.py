"""Intervals and tests for repeated cross-validation, whose folds share their training cases.

A plain t test over folds takes each fold for a new experiment and finds differences everywhere. Nadeau and Bengio
(2003) correct the variance for the overlap of the training sets: with J values (folds x repeats),

    se^2 = (1/J + n_test/n_train) * variance of the J values,    J - 1 degrees of freedom.

It is a correction, not a proof: no unbiased variance of a cross-validation exists (Bengio and Grandvalet 2004).
Simulated with a mean-difference classifier (4 folds x 5, 48 cases, 300 to 400 cohorts each), the 95 % interval holds
the true value in 92 to 96 % where there is a signal and in about 90 % where there is none and 16 features to overfit;
the paired test of two equal arms rejects in 7 to 9 % and 10 to 11 %. So a p-value near .05 from one small cohort is
weak evidence.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from parfocal.report.statistics.auc import newcombe_interval
from parfocal.report.statistics.interval import Interval, Number, Numbers, finite_numbers

__all__ = [
    "FoldTest",
    "auc_interval",
    "concordance_interval",
    "detectable_difference",
    "nadeau_bengio_interval",
    "nadeau_bengio_se",
    "nadeau_bengio_test",
    "rule_of_three",
]


def nadeau_bengio_se(values: Numbers, test_over_train: Number) -> float:
    """The standard error of the mean of `values`, one value for each fold of a repeated cross-validation.

    Args:
        values: one number for each fold and repeat, such as an AUC or a difference of two.
        test_over_train: number of test cases over number of training cases of a fold; .25 for five folds.

    Raises:
        ValueError: fewer than two values, one that is not finite, or a ratio that is not positive.
    """
    array = finite_numbers(values, "the corrected variance", at_least=2)
    if not test_over_train > 0:
        raise ValueError(f"test_over_train is the size of a test fold over its training set, got {test_over_train}")
    # Equal values leave 1e-17 of rounding, which would look like a very small but honest variance.
    variance = 0.0 if np.ptp(array) < 1e-12 else float(array.var(ddof=1))
    return float(np.sqrt((1 / len(array) + test_over_train) * variance))


def nadeau_bengio_interval(values: Numbers, test_over_train: Number, level: float = 0.95) -> Interval:
    """The mean of the folds with the corrected t interval.

    It is not clipped, and folds that all agree make it a point: for an AUC use `auc_interval`, for a difference
    `nadeau_bengio_test`, which know what the number of patients allows.

    Args:
        values: one number for each fold and repeat.
        test_over_train: number of test cases over number of training cases of a fold.
        level: the share of such intervals that hold the true value.
    """
    array = finite_numbers(values, "the corrected interval", at_least=2)
    reach = nadeau_bengio_se(array, test_over_train) * float(stats.t.ppf(0.5 + level / 2, len(array) - 1))
    mean = float(array.mean())
    return Interval(mean, mean - reach, mean + reach, level, "Nadeau-Bengio")


def auc_interval(
    values: Numbers, test_over_train: Number, *, n_positive: int, n_negative: int, level: float = 0.95
) -> Interval:
    """The mean AUC over folds with an interval inside 0 to 1 that is never narrower than the patients allow.

    Where every fold reads 1.00 the variance over folds is zero and the t interval a point, as if 24 patients had shown
    that no patient can ever be ranked wrongly. So the interval is the wider of two on each side: Nadeau-Bengio,
    clipped to 0 and 1, and Newcombe's interval for the same AUC on all patients, each tested once.

    Args:
        values: the AUC of each fold and repeat; folds with one class are left out by the caller, and counted.
        test_over_train: number of test cases over number of training cases of a fold.
        n_positive: number of distinct positive patients.
        n_negative: number of distinct negative patients.
        level: the share of such intervals that hold the true value.
    """
    corrected = nadeau_bengio_interval(values, test_over_train, level).clipped(0.0, 1.0)
    mean = min(max(corrected.estimate, 0.0), 1.0)
    floor = newcombe_interval(mean, n_positive, n_negative, level)
    widened = floor.low < corrected.low - 1e-9 or floor.high > corrected.high + 1e-9
    method = "Nadeau-Bengio, widened to Newcombe" if widened else "Nadeau-Bengio"
    return Interval(mean, min(corrected.low, floor.low), max(corrected.high, floor.high), level, method)


def concordance_interval(values: Numbers, test_over_train: Number, *, n_patients: int, level: float = 0.95) -> Interval:
    """The mean over folds of a concordance between 0 and 1 with the corrected interval, clipped to that range.

    There is no Newcombe interval for labels of more than two values, so nothing widens it but one case: folds that all
    read the same make the interval a point, and then it reaches as far as the rule of three lets it.

    Simulated with a covariance classifier (4 folds x 5, 48 cases, 300 cohorts each) the 95 % interval holds the true
    concordance of a number in 97 % where there is a signal, in 93 % where there is none, with 2 and with 16 features;
    Harrell's, with 60 % events, in 98 % and 97 %. The paired test of two equal arms rejects in 3 to 6 %.

    Args:
        values: the concordance of each fold and repeat.
        test_over_train: number of test cases over number of training cases of a fold.
        n_patients: number of distinct patients; with censored times, of those whose event was seen.
        level: the share of such intervals that hold the true value.
    """
    corrected = nadeau_bengio_interval(values, test_over_train, level).clipped(0.0, 1.0)
    mean = min(max(corrected.estimate, 0.0), 1.0)
    if corrected.half_width > 0:
        return Interval(mean, min(corrected.low, mean), max(corrected.high, mean), level, "Nadeau-Bengio")
    room = rule_of_three(n_patients, level)
    return Interval(mean, max(mean - room, 0.0), min(mean + room, 1.0), level, "rule of three")


# Midpoints of equal slices of probability: the power is exact to four digits, one degree of freedom included.
_CHI_POINTS = 4096


@dataclass(frozen=True)
class FoldTest:
    """The mean difference of two arms over the same folds, and the corrected t test of no difference."""

    difference: Interval
    t: float
    degrees_of_freedom: int
    p_value: float


def nadeau_bengio_test(
    first: Numbers,
    second: Numbers,
    test_over_train: Number,
    *,
    n_patients: int | None = None,
    level: float = 0.95,
) -> FoldTest:
    """The paired two-sided test of two arms over the same folds.

    Where every fold has the same difference its variance is zero. The p-value is then 1 for no difference. With
    `n_patients` the interval is the rule of three's: m patients none of whom was ranked differently leave room for a
    share 1 - ((1 - level)/2)^(1/m) who would be. For a difference that is not zero there is no fair p-value
    (a variance of nothing was measured): it is NaN, and the interval still stands.

    Args:
        first: the value of the first arm in each fold.
        second: the value of the second arm in the same folds, in the same order.
        test_over_train: number of test cases over number of training cases of a fold.
        n_patients: number of distinct patients of the smaller class, for the case of zero variance.
        level: the share of such intervals that hold the true difference.
    """
    a = finite_numbers(first, "the first arm", at_least=2)
    b = finite_numbers(second, "the second arm", at_least=2)
    if len(a) != len(b):
        raise ValueError(f"a paired test needs the same folds in both arms, got {len(a)} and {len(b)}")
    interval = nadeau_bengio_interval(a - b, test_over_train, level)
    se = nadeau_bengio_se(a - b, test_over_train)
    degrees = len(a) - 1
    if se > 0:
        t = interval.estimate / se
        return FoldTest(interval, t, degrees, float(2 * stats.t.sf(abs(t), degrees)))
    if n_patients is not None:
        room = rule_of_three(n_patients, level)
        middle = interval.estimate
        interval = Interval(middle, max(middle - room, -1.0), min(middle + room, 1.0), level, "rule of three")
    same = abs(interval.estimate) < 1e-12
    return FoldTest(interval, 0.0 if same else float("nan"), degrees, 1.0 if same else float("nan"))


def rule_of_three(n_patients: int, level: float = 0.95) -> float:
    """The largest share of patients that can still be otherwise when none of `n_patients` was.

    Two-sided and exact, (1 - share)^n = (1 - level)/2: about 3.7/n at 95 %, where the one-sided rule has 3/n.
    """
    if n_patients < 1:
        raise ValueError(f"the rule of three needs a patient, got {n_patients}")
    return float(1 - ((1 - level) / 2) ** (1 / n_patients))


def detectable_difference(
    differences: Numbers, test_over_train: Number, *, power: float = 0.8, level: float = 0.95
) -> float:
    """The true difference that this cohort would have shown with the given power, whatever it did show.

    "Shown" means that the corrected two-sided test at 1 - level rejects. The power at a difference is that of a
    noncentral t whose standard error is the one measured here. NaN where the folds do not differ at all: then nothing
    is known about the spread.

    Args:
        differences: arm minus arm, one number for each fold and repeat.
        test_over_train: number of test cases over number of training cases of a fold.
        power: the wanted chance to see it, between 1 - level and 1.
        level: one minus the size of the test.
    """
    if not 1 - level < power < 1:
        raise ValueError(f"power lies between the size of the test, {1 - level:g}, and 1, got {power}")
    array = finite_numbers(differences, "the detectable difference", at_least=2)
    se = nadeau_bengio_se(array, test_over_train)
    if se == 0:
        return float("nan")
    degrees = len(array) - 1
    critical = float(stats.t.ppf(0.5 + level / 2, degrees))

    # The noncentral t as a normal over an independent chi, averaged over the chi's quantiles: scipy's own gives NaN for
    # one degree of freedom.
    quantiles = (np.arange(_CHI_POINTS) + 0.5) / _CHI_POINTS
    threshold = critical * np.sqrt(stats.chi2.ppf(quantiles, degrees) / degrees)

    def missing(noncentrality: float) -> float:
        shown = stats.norm.sf(threshold - noncentrality) + stats.norm.cdf(-threshold - noncentrality)
        return float(shown.mean() - power)

    reach = critical + float(stats.norm.ppf(power)) + 1
    while missing(reach) < 0:
        reach *= 1.5
    return se * float(optimize.brentq(missing, 1e-6, reach, xtol=1e-6))
