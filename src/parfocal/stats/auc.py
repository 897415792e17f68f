"""The area under the ROC curve of one fixed test set: value, standard errors, intervals, and the paired test.

Everything here takes one score per case and assumes that cases are independent. With several slides per patient,
average the scores of a patient first, or use `patient_bootstrap`. Nothing here is valid over the folds of a
cross-validation, whose scores come from different fits: see `cross_validated.py`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from scipy import optimize, special, stats

from parfocal.stats.interval import Interval, Number

# Scikit-learn is imported by the functions that ask it: it takes a fifth of the time in which a worker starts.


def auc(is_positive: Shaped[np.ndarray, "case"], score: Shaped[np.ndarray, "case"]) -> float:
    """The share of (positive, negative) pairs in which the positive case has the higher score; a tie counts a half.

    Raises:
        ValueError: a class is missing, a score is not finite, or a label is not 0/1.
    """
    positive, negative = _by_class(is_positive, score)
    ranks = stats.rankdata(np.concatenate([positive, negative]))  # mid-ranks: ties count a half
    n_pos, n_neg = len(positive), len(negative)
    return float((ranks[:n_pos].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def weighted_auc(
    is_positive: Shaped[np.ndarray, "case"],
    score: Shaped[np.ndarray, "case"],
    weight: Float32[np.ndarray, "draw case"],
) -> Float64[np.ndarray, "draw"]:
    """The AUC for each row of weights, a pair counting as often as its two cases; 0.5 where a row lacks a class.

    The cases are sorted once for all rows, so that thousands of bootstrap draws take the time of a few.
    """
    truth = np.asarray(is_positive, dtype=np.float64)
    _, level = np.unique(score, return_inverse=True)  # equal scores share a level
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    rows = weight[:, order].astype(np.float64)
    positive = np.add.reduceat(rows * truth[order], starts, axis=1)
    negative = np.add.reduceat(rows * (1 - truth[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full_like(won, 0.5), where=pairs > 0))


def delong_covariance(
    is_positive: Shaped[np.ndarray, "case"], scores: Shaped[np.ndarray, "arm case"]
) -> tuple[Float64[np.ndarray, "arm"], Float64[np.ndarray, "arm arm"]]:
    """The AUC of several arms on the same cases, and the covariance of these estimates (DeLong 1988).

    The structural components come from mid-ranks (Sun and Xu 2014), so that the work is n log n, not n squared.

    Raises:
        ValueError: as `auc`, or fewer than two cases in a class.
    """
    split = [_by_class(is_positive, score) for score in scores]
    n_pos, n_neg = len(split[0][0]), len(split[0][1])
    if min(n_pos, n_neg) < 2:
        raise ValueError(f"DeLong's variance needs two cases of each class, got {n_pos} positive and {n_neg} negative")
    of_positives = np.empty((len(split), n_pos))
    of_negatives = np.empty((len(split), n_neg))
    for arm, (positive, negative) in enumerate(split):
        together = stats.rankdata(np.concatenate([positive, negative]))
        of_positives[arm] = (together[:n_pos] - stats.rankdata(positive)) / n_neg
        of_negatives[arm] = 1 - (together[n_pos:] - stats.rankdata(negative)) / n_pos
    covariance = np.atleast_2d(np.cov(of_positives)) / n_pos + np.atleast_2d(np.cov(of_negatives)) / n_neg
    return of_positives.mean(axis=1), covariance


def delong_interval(
    is_positive: Shaped[np.ndarray, "case"], score: Shaped[np.ndarray, "case"], level: float = 0.95
) -> Interval:
    """The AUC on one test set with DeLong's interval, taken on the logit scale so that it stays inside 0 to 1.

    Where DeLong's variance is zero (perfect separation) the interval is Newcombe's: a handful of cases without an
    error does not show that errors are impossible.
    """
    values, covariance = delong_covariance(is_positive, np.asarray(score)[None])
    value, variance = float(values[0]), float(covariance[0, 0])
    if not 0 < value < 1 or variance <= 0:
        n_pos = int(np.asarray(is_positive, dtype=bool).sum())
        return newcombe_interval(value, n_pos, len(is_positive) - n_pos, level)
    step = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = special.expit(special.logit(value) - step), special.expit(special.logit(value) + step)
    return Interval(value, float(low), float(high), level, "DeLong, logit scale")


@dataclass(frozen=True)
class AucTest:
    """Two arms on the same cases: the difference first minus second, and the test of no difference."""

    first: float
    second: float
    difference: Interval
    z: float
    p_value: float


def delong_test(
    is_positive: Shaped[np.ndarray, "case"],
    first: Shaped[np.ndarray, "case"],
    second: Shaped[np.ndarray, "case"],
    level: float = 0.95,
) -> AucTest:
    """DeLong's paired two-sided test of two arms on one fixed test set.

    Two arms that rank every pair alike have no difference and no variance: z is 0 and p is 1.
    """
    values, covariance = delong_covariance(is_positive, np.stack([np.asarray(first), np.asarray(second)]))
    difference = float(values[0] - values[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    se = float(np.sqrt(max(variance, 0.0)))
    # Rounding leaves 1e-17 instead of zero where both arms are the same.
    z = 0.0 if se < 1e-12 else difference / se
    reach = float(stats.norm.ppf(0.5 + level / 2)) * se
    interval = Interval(difference, difference - reach, difference + reach, level, "DeLong, paired")
    return AucTest(float(values[0]), float(values[1]), interval, z, float(2 * stats.norm.sf(abs(z))))


def newcombe_interval(value: Number, n_positive: Number, n_negative: Number, level: float = 0.95) -> Interval:
    """The values of the true AUC that would not be surprised by `value` (Newcombe 2006, method 5).

    As Wilson's interval does for a proportion, the standard error is taken at the bound and not at the estimate, so
    the interval has a width at 0 and at 1 too: 24 against 24 cases separated perfectly give .92 to 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"an AUC lies between 0 and 1, got {value}")
    z = float(stats.norm.ppf(0.5 + level / 2))
    n_mean = (n_positive + n_negative) / 2

    def surprise(true: float) -> float:
        spread = true * (1 - true) * (2 * n_mean - 1 - (3 * n_mean - 3) / ((2 - true) * (1 + true)))
        return (value - true) ** 2 - z**2 * spread / (n_positive * n_negative)

    # At the estimate the surprise is negative, at 0 and 1 it is positive; the bound is where it crosses.
    inside = min(max(value, 1e-12), 1 - 1e-12)
    low = optimize.brentq(surprise, 0.0, inside) if surprise(0.0) > 0 else 0.0
    high = optimize.brentq(surprise, inside, 1.0) if surprise(1.0) > 0 else 1.0
    return Interval(value, min(float(low), value), max(float(high), value), level, "Newcombe")


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Sensitivity over false-positive rate, both rising from 0 to 1; `spread` is the sd over folds where averaged."""

    false_positive_rate: Float64[np.ndarray, "step"]
    sensitivity: Float64[np.ndarray, "step"]
    spread: Float64[np.ndarray, "step"] | None = None


def roc_curve(is_positive: Shaped[np.ndarray, "case"], score: Shaped[np.ndarray, "case"]) -> RocCurve:
    """The ROC curve of one test set; tied scores make one slanted step, so that its area is `auc`."""
    from sklearn import metrics

    positive, negative = _by_class(is_positive, score)
    truth, scores = np.repeat([1, 0], [len(positive), len(negative)]), np.concatenate([positive, negative])
    false_positive_rate, sensitivity, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    return RocCurve(false_positive_rate, sensitivity)


def mean_roc(curves: list[RocCurve], steps: int = 101) -> RocCurve:
    """The vertical average of the folds' curves: the mean sensitivity at each false-positive rate.

    The scores themselves are never pooled over folds: each fold's model has its own scale, and a pooled curve would
    measure how these scales differ.
    """
    if not curves:
        raise ValueError("there is no curve to average")
    grid = np.linspace(0.0, 1.0, steps)
    # On a vertical step it is the upper end.
    at_grid = np.stack([np.interp(grid, curve.false_positive_rate, curve.sensitivity) for curve in curves])
    mean = at_grid.mean(axis=0)
    return RocCurve(np.concatenate([[0.0], grid]), np.concatenate([[0.0], mean]), np.r_[0.0, at_grid.std(axis=0)])


def _by_class(
    is_positive: Shaped[np.ndarray, "case"], score: Shaped[np.ndarray, "case"]
) -> tuple[Float64[np.ndarray, "positive"], Float64[np.ndarray, "negative"]]:
    labels = np.asarray(is_positive)
    values = np.asarray(score, dtype=np.float64)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels of an AUC are 0 and 1, got {np.unique(labels)[:5].tolist()}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite")
    truth = labels.astype(bool)
    if truth.all() or not truth.any():
        raise ValueError(
            f"an AUC needs both classes; all {len(truth)} cases are {'positive' if truth.any() else 'negative'}"
        )
    return values[truth], values[~truth]
