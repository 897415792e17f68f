"""Newton's method for many small ridge-penalised regressions at once: a stack of problems shares each step."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

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
        total: np.ndarray = loss_of(score) + 0.5 * (ridge * coefficient**2).sum(axis=1)
        return total

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
