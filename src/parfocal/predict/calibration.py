"""From scores to what they mean: a probability, a value with an interval, or a place among the training slides.

Fitted on out-of-fold scores, which are as good as those of slides that nobody has seen; scores of slides that a probe
was fitted on look better than they are, and a calibration on them would promise too much.

Patients are counted, not slides: a patient's slides weigh as much as one slide of another, and no probability is nearer
to 0 or 1 than one patient more could bring it (Laplace's rule: 1 / (n + 2) after n of n). Eight patients with a hundred
slides are eight patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import optimize, special, stats

from parfocal.cohort import Fold, Outcome, OutcomeKind

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
        n: patients that it was fitted on.
        reference: their slides' risk scores, sorted; of survival only.
        weight: of each of these; a patient's slides have 1 together.
        least: the smallest probability that any class gets.
    """

    kind: OutcomeKind
    slope: float
    intercept: Float64[np.ndarray, " column"]
    spread: float
    n: int
    reference: Float64[np.ndarray, " slide"]
    weight: Float64[np.ndarray, " slide"]
    least: float = 0.0

    def probability(self, score: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, "slide class"]:
        """The probability of each class, none nearer to 0 or 1 than `least`; a row sums to 1.

        Raises:
            ValueError: the outcome has no classes.
        """
        logit = self.slope * score + self.intercept
        if self.kind == "multiclass":
            return self._bounded(special.softmax(logit, axis=1))
        if self.kind not in {"binary", "ordinal"}:
            raise ValueError(f"a {self.kind} outcome has no classes")
        # "Above the first class" is never less likely than "above the second": crossing steps are averaged.
        above = _falling(special.expit(logit))
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        return self._bounded(np.maximum(edges[:, :-1] - edges[:, 1:], 0.0))

    def _bounded(self, probability: Float64[np.ndarray, "slide class"]) -> Float64[np.ndarray, "slide class"]:
        """Every class gets the least there is, and the rest is shared out as before, so that no order is lost."""
        return np.asarray(self.least + (1 - self.least * probability.shape[1]) * probability)

    def value(self, score: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, " slide"]:
        """The number in its own unit; for survival the percentile of the risk among the training slides, 0 to 100.

        Raises:
            ValueError: the outcome has classes.
        """
        if self.kind == "continuous":
            return np.asarray(self.slope * score[:, 0] + self.intercept[0])
        if self.kind != "survival":
            raise ValueError(f"a {self.kind} outcome has probabilities and no value")
        before = np.concatenate([[0.0], np.cumsum(self.weight)])
        below = before[np.searchsorted(self.reference, score[:, 0], side="left")]
        upto = before[np.searchsorted(self.reference, score[:, 0], side="right")]
        return np.asarray(50.0 * (below + upto) / before[-1])

    @property
    def half_width(self) -> float:
        """Half of the interval that holds nine of ten new values of a continuous outcome."""
        quantile = float(stats.t.ppf(0.5 + INTERVAL_LEVEL / 2, max(self.n - 2, 1)))
        return quantile * self.spread * float(np.sqrt(1 + 1 / self.n))


def fit_calibration(
    outcome: Outcome, score: Float64[np.ndarray, "repeat slide column"], groups: Sequence[str]
) -> Calibration:
    """Fit on out-of-fold scores of one or several cross-validations; repeats make no slide count twice.

    Binary and ordinal: one slope for all steps and an intercept for each, by the likelihood with Platt's targets
    (1999), which lie a little inside 0 and 1, so that a cohort without an error does not promise certainty.
    Multiclass: one temperature and a bias for each class. Continuous: least squares. Survival: the scores themselves.
    Probabilities are bounded by the number of patients, and it is the bounded ones that meet the targets.

    Args:
        outcome: the labels.
        score: of the columns of the outcome, from probes that had not seen the slide.
        groups: the patient of each slide.

    Raises:
        ValueError: fewer than three patients.
    """
    repeats, n_slides = score.shape[:2]
    _, of_slide = np.unique(np.array(groups), return_inverse=True)
    n = int(of_slide.max()) + 1
    if n < 3:
        raise ValueError(f"a calibration needs three patients, got {n}")
    weight = (1 / np.bincount(of_slide))[of_slide]
    flat, none = score.reshape(repeats * n_slides, -1), np.zeros(0)
    of_rows = np.tile(weight, repeats) / repeats
    if outcome.kind == "survival":
        order = np.argsort(flat[:, 0], kind="stable")
        return Calibration(outcome.kind, 1.0, np.zeros(1), 0.0, n, flat[order, 0], of_rows[order])
    if outcome.kind == "continuous":
        value, middle = np.tile(outcome.value, repeats), float(of_rows @ flat[:, 0]) / n
        centred = flat[:, 0] - middle
        total = float(of_rows @ centred**2)
        slope = max(float(of_rows @ (centred * value)) / total, 0.0) if total > 0 else 0.0
        intercept = float(of_rows @ value) / n - slope * middle
        left = value - slope * flat[:, 0] - intercept
        spread = float(np.sqrt(of_rows @ left**2 / (n - 2)))
        return Calibration(outcome.kind, slope, np.array([intercept]), spread, n, none, none)
    n_classes = len(outcome.classes)
    least = 1 / max(n + 2, n_classes + 1)  # more classes than patients must leave something to share out
    target = _platt_targets(np.stack([column.value for column in outcome.columns], axis=1), weight)
    # What the unbounded probabilities have to be for the bounded ones to meet the targets.
    if outcome.kind == "multiclass":
        target = np.maximum(target / target.sum(axis=1, keepdims=True) - least, 0.0)
        target /= target.sum(axis=1, keepdims=True)
    else:
        classes_above = np.arange(n_classes - 1, 0, -1)
        target = np.clip((target - least * classes_above) / (1 - least * n_classes), 0.0, 1.0)
    slope, intercepts = _fit_slope_and_intercepts(
        flat, np.tile(target, (repeats, 1)), of_rows / n, competing=outcome.kind == "multiclass"
    )
    return Calibration(outcome.kind, slope, intercepts, 0.0, n, none, none, least)


def held_out_brier(
    outcome: Outcome,
    score: Float64[np.ndarray, "repeat slide column"],
    groups: Sequence[str],
    folds: Sequence[Fold],
) -> float:
    """The Brier score of probabilities whose probe and calibration were fitted on other patients.

    Each fold's slides get the calibration of the other folds of the same repeat. The scores that it is fitted on come
    from probes that had been trained on this fold's patients too, so that a trace of their labels reaches it; folds
    within folds would cost as many fits again. For two classes it is the mean squared error of the probability, for
    more the sum of that over classes; patients count alike.

    Args:
        outcome: of classes.
        score: as in `fit_calibration`.
        groups: the patient of each slide.
        folds: of all repeats, in their order.
    """
    names = np.array(groups)
    _, of_slide = np.unique(names, return_inverse=True)
    weight = (1 / np.bincount(of_slide))[of_slide]
    truth = np.eye(len(outcome.classes))[outcome.value.astype(int)]
    repeats = sorted({fold.repeat for fold in folds})
    total = counted = 0.0
    for fold in folds:
        own = score[repeats.index(fold.repeat)]
        fitted = fit_calibration(outcome.of(fold.train), own[None, fold.train], names[fold.train].tolist())
        error = ((fitted.probability(own[fold.test]) - truth[fold.test]) ** 2).sum(axis=1)
        total += float(weight[fold.test] @ error)
        counted += float(weight[fold.test].sum())
    return total / counted / (2 if outcome.kind == "binary" else 1)


def _platt_targets(
    truth: Float64[np.ndarray, "slide column"], weight: Float64[np.ndarray, " slide"]
) -> Float64[np.ndarray, "slide column"]:
    """1 becomes (n + 1) / (n + 2) with n the number of patients of its column, 0 becomes 1 / (number of others + 2)."""
    ones = weight @ truth
    zeros = weight.sum() - ones
    target: Float64[np.ndarray, "slide column"] = np.where(truth > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    return target


def _fit_slope_and_intercepts(
    score: Float64[np.ndarray, "slide column"],
    target: Float64[np.ndarray, "slide column"],
    share: Float64[np.ndarray, " slide"],
    *,
    competing: bool,
) -> tuple[float, Float64[np.ndarray, " column"]]:
    """The maximum of the likelihood with a slope that is not below 0; scores are scaled to a spread of 1 for it."""
    scale = float(score.std())
    x = score / scale if scale > 1e-12 else np.zeros_like(score)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = parameters[0], parameters[1:]
        logit = slope * x + bias
        if competing:
            error = special.softmax(logit, axis=1) - target
            value = share @ (special.logsumexp(logit, axis=1) - (target * logit).sum(axis=1))
        else:
            error = special.expit(logit) - target
            value = share @ (np.logaddexp(0, logit) - target * logit).sum(axis=1)
        penalty = _BIAS_PENALTY * float(bias @ bias) / 2 if competing else 0.0
        gradient = np.concatenate([[share @ (error * x).sum(axis=1)], share @ error])
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
    """The nearest rows, in least squares, that never rise from left to right."""
    result = rows.copy()
    for slide in np.flatnonzero((np.diff(rows, axis=1) > 0).any(axis=1)):
        result[slide] = optimize.isotonic_regression(rows[slide], increasing=False).x
    return result
