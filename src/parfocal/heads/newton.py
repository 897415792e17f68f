"""Many small ridge-penalised regressions at once, logistic and of hazards (Cox 1972): a stack shares each step.

Ties of times are Breslow's: all events of one time share the sum over those who were at risk at that time. With the
slides in order of falling time every risk set is the head of the list, so its sums are cumulative ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.cohort import Column

_STEPS = 50
_HALVINGS = 20


def minimise(
    x: Float64[np.ndarray, "stack case dim"],
    ridge: Float64[np.ndarray, "problem dim"],
    loss_of: Callable[[np.ndarray], np.ndarray],
    derivatives_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    tolerance: float,
) -> Float64[np.ndarray, "problem dim"]:
    """The coefficients that minimise loss + half the ridge on their squares, of each problem.

    Args:
        x: one matrix for all problems (a stack of one), or one for each.
        ridge: the penalty of each coefficient.
        loss_of: from scores (problem, case) to the loss of each problem.
        derivatives_of: from scores to the gradient (problem, dim) and the Hessian (problem, dim, dim) of that loss.
        tolerance: a gradient or a step whose largest entry is below it ends the search.
    """
    coefficient, score = np.zeros(ridge.shape), np.zeros((len(ridge), x.shape[1]))
    diagonal = np.arange(x.shape[2])

    def objective(score: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
        return np.asarray(loss_of(score) + 0.5 * (ridge * coefficient**2).sum(axis=1))

    loss = objective(score, coefficient)
    for _ in range(_STEPS):
        gradient, hessian = derivatives_of(score)
        gradient += ridge * coefficient
        if np.abs(gradient).max() < tolerance:
            break
        hessian[:, diagonal, diagonal] += ridge
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        move = np.matmul(x, step[:, :, None])[:, :, 0]
        # Halve the step of a problem until it improves: with separable classes a full step can overshoot.
        size = np.ones((len(ridge), 1))
        for _ in range(_HALVINGS):
            trial = objective(score - size * move, coefficient - size * step)
            worse = trial > loss + 1e-12
            if not worse.any():
                break
            size[worse] /= 2
        size[trial > loss + 1e-12] = 0
        coefficient -= size * step
        score -= size * move
        loss = np.minimum(trial, loss)
        if np.abs(size * step).max() < tolerance:
            break
    return coefficient


def fit_logistic(
    features: Float[np.ndarray, "stack case dim"],
    label: Float64[np.ndarray, " case"],
    weight: Float64[np.ndarray, "problem case"],
    penalty: Float64[np.ndarray, " problem"],
) -> Float64[np.ndarray, "problem bound"]:
    """The coefficients of each problem, the intercept last.

    Minimised is the weighted mean of the log loss + penalty / 2 * |coefficients|^2; the intercept is not penalised.

    Args:
        features: one matrix for all problems (a stack of one), or one for each.
        label: 0 or 1, in all problems the same.
        weight: of each case in each problem; 0 leaves it out.
        penalty: above 0.
    """
    x = np.concatenate([features, np.ones((*features.shape[:2], 1))], axis=2).astype(np.float64)
    share = weight / weight.sum(axis=1, keepdims=True)  # (problem, case)
    ridge = np.repeat(penalty[:, None], x.shape[2], axis=1)
    # A trace of penalty keeps the intercept finite where a problem holds one class.
    ridge[:, -1] = 1e-6

    def loss_of(logit: np.ndarray) -> np.ndarray:
        return np.asarray((share * (np.logaddexp(0, logit) - logit * label)).sum(axis=1))

    def derivatives_of(logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability = 0.5 * (1 + np.tanh(0.5 * logit))
        gradient = np.matmul((share * (probability - label))[:, None], x)[:, 0]
        curvature = share * np.maximum(probability * (1 - probability), 1e-10)
        return gradient, np.matmul((x * curvature[:, :, None]).transpose(0, 2, 1), x)

    return minimise(x, ridge, loss_of, derivatives_of, tolerance=1e-7)


Cases = Float64[np.ndarray, "problem case"]


@dataclass(frozen=True, eq=False)
class _RiskSets:
    """The cases of some problems by falling time.

    Attributes:
        order: the case of each place.
        last: the last place with the same time as each place.
        event: 1 where the time is an event's.
        share: what each case counts for in each problem; 0 takes it out of every risk set.
    """

    order: Int64[np.ndarray, " case"]
    last: Int64[np.ndarray, " case"]
    event: Float64[np.ndarray, " case"]
    share: Cases

    @staticmethod
    def of(column: Column, weight: Float64[np.ndarray, "stack case"]) -> "_RiskSets":
        """The risk sets of a column; one row of weights may serve all problems."""
        order = np.argsort(-column.value, kind="stable")
        time = -column.value[order]
        last = np.searchsorted(time, time, side="right") - 1
        return _RiskSets(order, last, column.event[order].astype(np.float64), weight[:, order])

    def likelihood(self, eta: Cases) -> Float64[np.ndarray, " problem"]:
        """The partial log-likelihood of log risks that are in this order."""
        high = self._highest(eta)
        _, at_risk = self._risk(eta)
        # A case of weight 0 may come before every other one; its own term is multiplied by 0.
        terms = eta - high - np.log(np.where(at_risk > 0, at_risk, 1.0))
        return np.asarray((self.share * self.event * terms).sum(axis=1))

    def slope(self, eta: Cases) -> Cases:
        """Its derivative along each log risk."""
        return np.asarray(self.share * self.event - self._pull(eta))

    def derivatives(
        self, x: Float64[np.ndarray, "stack case dim"], eta: Cases
    ) -> tuple[Float64[np.ndarray, "problem dim"], Float64[np.ndarray, "problem dim dim"]]:
        """Of the negative log-likelihood, along the coefficients of features in this order.

        The second one is sum_events (S2 / S0 - S1 S1^T / S0^2). Summed the other way round its first part is one
        weighted product of the features, so that no matrix is kept for every event.
        """
        risk, at_risk = self._risk(eta)
        dying, pull = self.share * self.event, self._pull(eta)
        gradient = np.matmul((pull - dying)[:, None], x)[:, 0]
        summed = np.cumsum(risk[:, :, None] * x, axis=1)[:, self.last]
        mean = summed / np.where(at_risk > 0, at_risk, 1.0)[:, :, None]
        hessian = np.matmul((x * pull[:, :, None]).transpose(0, 2, 1), x)
        hessian -= np.matmul((mean * dying[:, :, None]).transpose(0, 2, 1), mean)
        return gradient, hessian

    def _pull(self, eta: Cases) -> Cases:
        """The part of all events that each case answers for, having been at risk."""
        risk, at_risk = self._risk(eta)
        dying = self.share * self.event
        rate = np.divide(dying, at_risk, out=np.zeros_like(eta), where=at_risk > 0)
        # A case is in the risk set of every event at its own time or before: those from its tie's first place on.
        ahead = np.cumsum(rate[:, ::-1], axis=1)[:, ::-1]
        first = np.searchsorted(self.last, self.last, side="left")
        return np.asarray(risk * ahead[:, first])

    def _risk(self, eta: Cases) -> tuple[Cases, Cases]:
        """Of each case over the highest one's, and the sum over those at risk at its time."""
        risk = self.share * np.exp(np.minimum(eta - self._highest(eta), 0))
        return risk, np.cumsum(risk, axis=1)[:, self.last]

    def _highest(self, eta: Cases) -> Float64[np.ndarray, "problem 1"]:
        """Of the cases that count; a case that is left out may lie so high that all others would vanish beside it."""
        highest = np.where(self.share > 0, eta, -np.inf).max(axis=1, keepdims=True)
        return np.asarray(np.where(np.isfinite(highest), highest, 0.0))


def partial_likelihood(
    score: Cases, column: Column, weight: Float64[np.ndarray, "stack case"]
) -> Float64[np.ndarray, " problem"]:
    """Breslow's partial log-likelihood of each row of log risks, the sum over events.

    Args:
        score: log risks; a constant added to all changes nothing.
        column: times and events.
        weight: of each case, in one row for all problems or one for each; 0 takes it out of every risk set.
    """
    sets = _RiskSets.of(column, weight)
    return sets.likelihood(score[:, sets.order])


def partial_slope(score: Cases, column: Column, weight: Float64[np.ndarray, "stack case"]) -> Cases:
    """The derivative of `partial_likelihood` along each log risk."""
    sets = _RiskSets.of(column, weight)
    slope = np.empty(score.shape)
    slope[:, sets.order] = sets.slope(score[:, sets.order])
    return slope


def fit_cox(
    features: Float[np.ndarray, "stack case dim"],
    column: Column,
    weight: Cases,
    penalty: Float64[np.ndarray, " problem"],
) -> Float64[np.ndarray, "problem bound"]:
    """The coefficients of each problem; the intercept, last, is 0: a log risk has no zero of its own.

    Minimised is the negative partial log-likelihood for each unit of weight of the events + penalty / 2 *
    |coefficients|^2. A problem without an event has coefficients of 0.

    Args:
        features: one matrix for all problems (a stack of one), or one for each.
        column: times and events, in all problems the same.
        weight: of each case in each problem; 0 leaves it out.
        penalty: above 0.
    """
    sets = _RiskSets.of(column, weight)
    events = (sets.share * sets.event).sum(axis=1, keepdims=True)
    has_event = (weight @ column.event.astype(np.float64) > 0)[:, None]
    sets = replace(sets, share=np.where(has_event, sets.share / np.maximum(events, 1e-300), 0.0))
    x = features[:, sets.order].astype(np.float64)
    coefficient = minimise(
        x,
        np.repeat(penalty[:, None], x.shape[2], axis=1),
        lambda eta: -sets.likelihood(eta),
        lambda eta: sets.derivatives(x, eta),
        tolerance=1e-8,
    )
    return np.concatenate([coefficient, np.zeros((len(weight), 1))], axis=1)
