"""Many small ridge-penalised proportional hazards regressions (Cox 1972) at once, by Newton's method.

Ties are Breslow's: all events of one time share the sum over those who were at risk at that time. With the slides in
order of falling time every risk set is the head of the list, so its sums are cumulative ones.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.cohort import Column
from parfocal.heads.newton import minimise

_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class _Order:
    """Slides by falling time; `last` is the last place in that order with the same time as each place."""

    order: Int64[np.ndarray, " case"]
    last: Int64[np.ndarray, " case"]

    @staticmethod
    def of(column: Column) -> "_Order":
        order = np.argsort(-column.value, kind="stable")
        time = -column.value[order]
        return _Order(order, np.searchsorted(time, time, side="right") - 1)


def partial_likelihood(
    score: Float64[np.ndarray, "problem case"], column: Column, weight: Float64[np.ndarray, "stack case"]
) -> Float64[np.ndarray, " problem"]:
    """Breslow's partial log-likelihood of each row of log risks, the sum over events.

    Args:
        score: log risks; a constant added to all changes nothing.
        column: times and events.
        weight: of each case, in one row for all problems or one for each; 0 takes it out of every risk set.
    """
    ties = _Order.of(column)
    eta = score[:, ties.order]
    share = np.broadcast_to(weight[:, ties.order], eta.shape)
    return _likelihood(eta, share, column.event[ties.order].astype(np.float64), ties)


def partial_slope(
    score: Float64[np.ndarray, "problem case"], column: Column, weight: Float64[np.ndarray, "stack case"]
) -> Float64[np.ndarray, "problem case"]:
    """The derivative of `partial_likelihood` along each log risk."""
    ties = _Order.of(column)
    eta = score[:, ties.order]
    share = np.broadcast_to(weight[:, ties.order], eta.shape)
    event = column.event[ties.order].astype(np.float64)
    slope = np.empty(eta.shape)
    slope[:, ties.order] = share * event - _pull(eta, share, event, ties)
    return slope


def fit_cox(
    features: Float[np.ndarray, "stack case dim"],
    column: Column,
    weight: Float64[np.ndarray, "problem case"],
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
    ties = _Order.of(column)
    x = features[:, ties.order].astype(np.float64)
    share = weight[:, ties.order]
    event = column.event[ties.order].astype(np.float64)
    share = share / np.maximum((share * event).sum(axis=1, keepdims=True), 1e-300)
    share = np.where((weight @ column.event.astype(np.float64) > 0)[:, None], share, 0.0)
    coefficient = minimise(
        x,
        np.repeat(penalty[:, None], x.shape[2], axis=1),
        lambda eta: -_likelihood(eta, share, event, ties),
        lambda eta: _derivatives(x, eta, share, event, ties),
        tolerance=_TOLERANCE,
    )
    return np.concatenate([coefficient, np.zeros((len(weight), 1))], axis=1)


def _likelihood(
    eta: Float64[np.ndarray, "problem case"],
    share: Float64[np.ndarray, "problem case"],
    event: Float64[np.ndarray, " case"],
    ties: _Order,
) -> Float64[np.ndarray, " problem"]:
    high = _highest(eta, share)
    at_risk = np.cumsum(share * np.exp(np.minimum(eta - high, 0)), axis=1)[:, ties.last]
    # A case of weight 0 may come before every other one; its own term is multiplied by 0.
    terms = eta - high - np.log(np.where(at_risk > 0, at_risk, 1.0))
    total: Float64[np.ndarray, " problem"] = (share * event * terms).sum(axis=1)
    return total


def _derivatives(
    x: Float64[np.ndarray, "stack case dim"],
    eta: Float64[np.ndarray, "problem case"],
    share: Float64[np.ndarray, "problem case"],
    event: Float64[np.ndarray, " case"],
    ties: _Order,
) -> tuple[Float64[np.ndarray, "problem dim"], Float64[np.ndarray, "problem dim dim"]]:
    """Of the negative log-likelihood.

    The second one is sum_events (S2 / S0 - S1 S1^T / S0^2). Summed the other way round its first part is one weighted
    product of the features, so that no matrix is kept for every event.
    """
    risk = share * np.exp(np.minimum(eta - _highest(eta, share), 0))
    at_risk = np.cumsum(risk, axis=1)[:, ties.last]
    dying = share * event
    pull = _pull(eta, share, event, ties)
    gradient = np.matmul((pull - dying)[:, None], x)[:, 0]
    mean = np.cumsum(risk[:, :, None] * x, axis=1)[:, ties.last] / np.where(at_risk > 0, at_risk, 1.0)[:, :, None]
    hessian = np.matmul((x * pull[:, :, None]).transpose(0, 2, 1), x)
    hessian -= np.matmul((mean * dying[:, :, None]).transpose(0, 2, 1), mean)
    return gradient, hessian


def _pull(
    eta: Float64[np.ndarray, "problem case"],
    share: Float64[np.ndarray, "problem case"],
    event: Float64[np.ndarray, " case"],
    ties: _Order,
) -> Float64[np.ndarray, "problem case"]:
    """The part of all events that each case answers for, having been at risk."""
    risk = share * np.exp(np.minimum(eta - _highest(eta, share), 0))
    at_risk = np.cumsum(risk, axis=1)[:, ties.last]
    dying = share * event
    rate = np.divide(dying, at_risk, out=np.zeros_like(dying), where=at_risk > 0)
    # A case is in the risk set of every event at its own time or before: those from its tie's first place on.
    ahead = np.cumsum(rate[:, ::-1], axis=1)[:, ::-1]
    first = np.searchsorted(ties.last, ties.last, side="left")
    pull: Float64[np.ndarray, "problem case"] = risk * ahead[:, first]
    return pull


def _highest(
    eta: Float64[np.ndarray, "problem case"], share: Float64[np.ndarray, "problem case"]
) -> Float64[np.ndarray, "problem 1"]:
    """Of the cases that count; a case that is left out may lie so high that all others would vanish beside it."""
    highest = np.where(share > 0, eta, -np.inf).max(axis=1, keepdims=True)
    finite: Float64[np.ndarray, "problem 1"] = np.where(np.isfinite(highest), highest, 0.0)
    return finite
