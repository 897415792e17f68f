"""From scores to what they mean: a probability, a value with an interval, or a place among the training slides.

Fitted on out-of-fold scores, which are as good as those of slides that nobody has seen; scores of slides that a probe
was fitted on look better than they are, and a calibration on them would promise too much.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import optimize, stats

from parfocal.cohort import Outcome, OutcomeKind

__all__ = ["INTERVAL_LEVEL", "Calibration", "fit_calibration"]

INTERVAL_LEVEL = 0.9
_BIAS_PENALTY = 1e-3  # keeps the bias of a class apart from the common one, which no probability knows


@dataclass(frozen=True, eq=False)
class Calibration:
    """How scores of one target become what a person reads.

    Attributes:
        kind: of the outcome.
        slope: what scores are multiplied by, never below 0; 0 where they did not rise with the outcome.
        intercept: what is added, for each column.
        spread: standard deviation of what is left of a number; 0 for other kinds.
        n: slides that it was fitted on.
        reference: their risk scores, sorted; of survival only.
    """

    kind: OutcomeKind
    slope: float
    intercept: Float64[np.ndarray, " column"]
    spread: float
    n: int
    reference: Float64[np.ndarray, " slide"]

    def probability(self, score: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, "slide class"]:
        """The probability of each class; a row sums to 1.

        Raises:
            ValueError: the outcome has no classes.
        """
        logit = self.slope * score + self.intercept
        if self.kind == "multiclass":
            return _softmax(logit)
        if self.kind not in {"binary", "ordinal"}:
            raise ValueError(f"a {self.kind} outcome has no classes")
        # "Above the first class" is never less likely than "above the second": crossing steps are averaged.
        above = _falling(_sigmoid(logit))
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        return np.asarray(edges[:, :-1] - edges[:, 1:])

    def value(self, score: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, " slide"]:
        """The number in its own unit; for survival the percentile of the risk among the training slides, 0 to 100.

        Raises:
            ValueError: the outcome has classes.
        """
        if self.kind == "continuous":
            return np.asarray(self.slope * score[:, 0] + self.intercept[0])
        if self.kind != "survival":
            raise ValueError(f"a {self.kind} outcome has probabilities and no value")
        below = np.searchsorted(self.reference, score[:, 0], side="left")
        upto = np.searchsorted(self.reference, score[:, 0], side="right")
        return np.asarray(50.0 * (below + upto) / len(self.reference))

    @property
    def half_width(self) -> float:
        """Half of the interval that holds nine of ten new values of a continuous outcome."""
        quantile = float(stats.t.ppf(0.5 + INTERVAL_LEVEL / 2, max(self.n - 2, 1)))
        return quantile * self.spread * float(np.sqrt(1 + 1 / self.n))


def fit_calibration(outcome: Outcome, score: Float64[np.ndarray, "repeat slide column"]) -> Calibration:
    """Fit on out-of-fold scores of one or several cross-validations; repeats make no slide count twice.

    Binary and ordinal: one slope for all steps and an intercept for each, by the likelihood with Platt's targets
    (1999), which lie a little inside 0 and 1, so that a cohort without an error does not promise certainty.
    Multiclass: one temperature and a bias for each class. Continuous: least squares. Survival: the scores themselves.

    Args:
        outcome: the labels.
        score: of the columns of the outcome, from probes that had not seen the slide.

    Raises:
        ValueError: fewer than three slides.
    """
    repeats, n = score.shape[:2]
    if n < 3:
        raise ValueError(f"a calibration needs three slides, got {n}")
    flat, none = score.reshape(repeats * n, -1), np.zeros(0)
    if outcome.kind == "survival":
        return Calibration(outcome.kind, 1.0, np.zeros(1), 0.0, n, np.sort(flat[:, 0]))
    if outcome.kind == "continuous":
        value, centred = np.tile(outcome.value, repeats), flat[:, 0] - flat[:, 0].mean()
        total = float(centred @ centred)
        slope = max(float(centred @ value) / total, 0.0) if total > 0 else 0.0
        intercept = float(value.mean() - slope * flat[:, 0].mean())
        left = value - slope * flat[:, 0] - intercept
        spread = float(np.sqrt(left @ left / repeats / (n - 2)))
        return Calibration(outcome.kind, slope, np.array([intercept]), spread, n, none)
    target = _platt_targets(np.stack([column.value for column in outcome.columns], axis=1))
    if outcome.kind == "multiclass":
        target /= target.sum(axis=1, keepdims=True)
    slope, intercepts = _fit_slope_and_intercepts(
        flat, np.tile(target, (repeats, 1)), competing=outcome.kind == "multiclass"
    )
    return Calibration(outcome.kind, slope, intercepts, 0.0, n, none)


def _platt_targets(truth: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, "slide column"]:
    """1 becomes (n + 1) / (n + 2) with n the number of ones of its column, 0 becomes 1 / (number of zeros + 2)."""
    ones = truth.sum(axis=0)
    zeros = len(truth) - ones
    target: Float64[np.ndarray, "slide column"] = np.where(truth > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    return target


def _fit_slope_and_intercepts(
    score: Float64[np.ndarray, "slide column"], target: Float64[np.ndarray, "slide column"], *, competing: bool
) -> tuple[float, Float64[np.ndarray, " column"]]:
    """The maximum of the likelihood with a slope that is not below 0; scores are scaled to a spread of 1 for it."""
    scale = float(score.std())
    x = score / scale if scale > 1e-12 else np.zeros_like(score)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = parameters[0], parameters[1:]
        logit = slope * x + bias
        if competing:
            error = _softmax(logit) - target
            value = (_log_total(logit) - (target * logit).sum(axis=1)).mean()
        else:
            error = _sigmoid(logit) - target
            value = (np.logaddexp(0, logit) - target * logit).sum(axis=1).mean()
        penalty = _BIAS_PENALTY * float(bias @ bias) / 2 if competing else 0.0
        gradient = np.concatenate([[(error * x).sum() / len(x)], error.mean(axis=0)])
        if competing:
            gradient[1:] += _BIAS_PENALTY * bias
        return float(value) + penalty, gradient

    start = np.concatenate([[1.0], np.zeros(score.shape[1])])
    bounds = [(0.0, None)] + [(None, None)] * score.shape[1]
    options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope = float(found.x[0]) / scale if scale > 1e-12 else 0.0
    return slope, np.asarray(found.x[1:], dtype=np.float64)


def _falling(rows: Float64[np.ndarray, "slide step"]) -> Float64[np.ndarray, "slide step"]:
    """The nearest rows, in least squares, that never rise from left to right (pool adjacent violators)."""
    if (np.diff(rows, axis=1) <= 0).all():
        return rows
    # The minimax form of isotonic regression: at step k the least, over beginnings up to k, of the greatest mean.
    steps = rows.shape[1]
    total = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    result = np.empty_like(rows)
    for k in range(steps):
        least = [
            np.max([(total[:, end] - total[:, begin]) / (end - begin) for end in range(k + 1, steps + 1)], axis=0)
            for begin in range(k + 1)
        ]
        result[:, k] = np.min(least, axis=0)
    return result


def _sigmoid(logit: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, "slide column"]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logit)))


def _softmax(logit: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, "slide column"]:
    return np.asarray(np.exp(logit - _log_total(logit)[:, None]))


def _log_total(logit: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, " slide"]:
    highest = logit.max(axis=1)
    return np.asarray(highest + np.log(np.exp(logit - highest[:, None]).sum(axis=1)))
