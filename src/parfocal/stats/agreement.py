"""How near predictions come to labels, beside how well they rank; and whether a probability means what it says."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped
from scipy import optimize, special, stats

from parfocal.stats.interval import Interval

# Scikit-learn is imported by the functions that ask it: it takes a fifth of the time in which a worker starts.


def balanced_accuracy(label: Int64[np.ndarray, " case"], predicted: Int64[np.ndarray, " case"]) -> float:
    """The mean over the classes that are there of the share of their cases that is called right."""
    _, of_case, counts = np.unique(label, return_inverse=True, return_counts=True)
    return float((np.bincount(of_case, weights=label == predicted) / counts).mean())


def quadratic_kappa(label: Int64[np.ndarray, " case"], predicted: Int64[np.ndarray, " case"], n_classes: int) -> float:
    """Cohen's kappa with quadratic weights: 1 - mean squared distance over that of labels and predictions unpaired.

    1 is agreement, 0 what the two margins give by chance. NaN where labels and predictions are one and the same class
    throughout, which leaves nothing to agree on.
    """
    from sklearn import metrics

    if len(np.unique(np.concatenate([label, predicted]))) < 2:
        return float("nan")
    return float(metrics.cohen_kappa_score(label, predicted, labels=np.arange(n_classes), weights="quadratic"))


def explained_variance(
    value: Shaped[np.ndarray, " case"], predicted: Shaped[np.ndarray, " case"], baseline: float
) -> float:
    """R2: 1 - squared error over the squared error of always saying `baseline`; below 0 where that is the better guess.

    The baseline is the mean of the training cases: a mean of the test cases would be known to nobody beforehand.
    """
    spread = float(((value - baseline) ** 2).sum())
    return 1 - float(((value - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")


def spearman(value: Shaped[np.ndarray, " case"], predicted: Shaped[np.ndarray, " case"]) -> float:
    """The correlation of ranks, ties with their mean rank; NaN where either does not vary."""
    if np.ptp(value) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(stats.spearmanr(value, predicted).statistic)


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases whose predictions are alike: how many, their mean prediction, and the share that is positive."""

    low: float
    high: float
    n: int
    mean_prediction: float
    observed: Interval


def reliability_bins(
    is_positive: Shaped[np.ndarray, "case"], probability: Shaped[np.ndarray, "case"], bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """The predictions in bins of equal width; empty bins are left out.

    The observed share has Wilson's interval, which has a width even where a bin of three cases is all positive.
    """
    truth, predicted = _checked(is_positive, probability)
    edges = np.linspace(0.0, 1.0, bins + 1)
    at = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, bins - 1)
    return tuple(
        ReliabilityBin(
            float(edges[one]),
            float(edges[one + 1]),
            int((at == one).sum()),
            float(predicted[at == one].mean()),
            wilson_interval(int(truth[at == one].sum()), int((at == one).sum())),
        )
        for one in np.unique(at)
    )


def expected_calibration_error(
    is_positive: Shaped[np.ndarray, "case"], probability: Shaped[np.ndarray, "case"], bins: int = 10
) -> float:
    """The mean distance between prediction and observed share over the bins, weighted by their cases.

    It grows with the number of bins and never reaches 0 on few cases; compare it only at equal bins and sizes.
    """
    groups = reliability_bins(is_positive, probability, bins)
    return sum(one.n * abs(one.mean_prediction - one.observed.estimate) for one in groups) / len(is_positive)


@dataclass(frozen=True)
class CalibrationLine:
    """How predicted log odds have to be changed to mean what they say (Cox 1958).

    Attributes:
        slope: of a logistic regression of the outcome on the log odds; 1 is right, below 1 the predictions are too far
            from one half (overfitting), above 1 too near.
        intercept: what must be added to the log odds, slope left at 1; 0 is right, below 0 they are too high.
    """

    slope: float
    intercept: float


def calibration_line(is_positive: Shaped[np.ndarray, "case"], log_odds: Shaped[np.ndarray, "case"]) -> CalibrationLine:
    """Slope and intercept of the calibration; NaN for a slope that has no finite value.

    That is so where a threshold separates the classes without an error, and where all predictions are the same.

    Raises:
        ValueError: a class is missing.
    """
    truth = np.asarray(is_positive, dtype=np.float64)
    logit = np.asarray(log_odds, dtype=np.float64)
    positive, negative = logit[truth == 1], logit[truth == 0]
    if not len(positive) or not len(negative):
        raise ValueError(f"calibration needs both classes, got {len(positive)} positive and {len(negative)} negative")

    def excess(shift: float) -> float:
        return float(special.expit(logit + shift).sum() - truth.sum())

    reach = float(np.abs(logit).max()) + 40.0
    intercept = float(optimize.brentq(excess, -reach, reach))
    if positive.min() >= negative.max() or positive.max() <= negative.min() or np.ptp(logit) < 1e-9:
        return CalibrationLine(float("nan"), intercept)
    scale = float(logit.std())
    design = np.column_stack([np.ones_like(logit), (logit - logit.mean()) / scale])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = design @ weights
        value = np.logaddexp(0.0, score).sum() - truth @ score
        return float(value), design.T @ (special.expit(score) - truth)

    fit = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8 * len(truth)})
    return CalibrationLine(float(fit.x[1]) / scale, intercept)


def brier_score(is_positive: Shaped[np.ndarray, "case"], probability: Shaped[np.ndarray, "case"]) -> float:
    """The mean squared distance of the probability from what happened; .25 for always saying one half."""
    truth, predicted = _checked(is_positive, probability)
    return float(((predicted - truth) ** 2).mean())


def wilson_interval(n_yes: int, n: int, level: float = 0.95) -> Interval:
    """A share of n cases with Wilson's interval.

    Raises:
        ValueError: no case, or more positive ones than cases.
    """
    if not 0 <= n_yes <= n or n < 1:
        raise ValueError(f"a share needs 0 <= yes <= cases and a case, got {n_yes} of {n}")
    # Scipy's has the test of one half before it, which takes a hundred times as long.
    share, z = n_yes / n, float(special.ndtri(0.5 + level / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # At 0 and n of n the end is the estimate itself; rounding may put it a hair beyond.
    low = 0.0 if n_yes == 0 else min(float(middle - reach), share)
    high = 1.0 if n_yes == n else max(float(middle + reach), share)
    return Interval(share, low, high, level, "Wilson")


def _checked(
    is_positive: Shaped[np.ndarray, "case"], probability: Shaped[np.ndarray, "case"]
) -> tuple[Shaped[np.ndarray, "case"], Shaped[np.ndarray, "case"]]:
    truth = np.asarray(is_positive, dtype=np.float64)
    predicted = np.asarray(probability, dtype=np.float64)
    if not len(truth):
        raise ValueError("calibration needs a case")
    if not np.isin(truth, (0.0, 1.0)).all():
        raise ValueError("labels of a calibration are 0 and 1")
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError(f"probabilities lie between 0 and 1, got {predicted.min():g} to {predicted.max():g}")
    return truth, predicted
