"""Many small ridge-penalised logistic regressions at once, by Newton's method.

Cross-validation inside every training fold needs thousands of fits of a few dozen cases; one by one they would take
longer than everything else. Here a stack of problems shares each step.
"""

import numpy as np
from jaxtyping import Float, Float64

__all__ = ["fit_logistic"]

_STEPS = 50
_TOLERANCE = 1e-7


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
    n_problems, n_cases = weight.shape
    x = np.concatenate([features, np.ones((*features.shape[:2], 1))], axis=2).astype(np.float64)
    share = weight / weight.sum(axis=1, keepdims=True)  # (problem, case)
    ridge = np.repeat(penalty[:, None], x.shape[2], axis=1)
    # A trace of penalty keeps the intercept finite where a problem holds one class.
    ridge[:, -1] = 1e-6
    coefficient = np.zeros((n_problems, x.shape[2]))
    logit = np.zeros((n_problems, n_cases))
    loss = _objective(logit, label, share, coefficient, ridge)
    for _ in range(_STEPS):
        probability = _sigmoid(logit)
        gradient = np.matmul((share * (probability - label))[:, None], x)[:, 0] + ridge * coefficient
        if np.abs(gradient).max() < _TOLERANCE:
            break
        curvature = share * np.maximum(probability * (1 - probability), 1e-10)
        hessian = np.matmul((x * curvature[:, :, None]).transpose(0, 2, 1), x)
        index = np.arange(x.shape[2])
        hessian[:, index, index] += ridge
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        move = np.matmul(x, step[:, :, None])[:, :, 0]
        # Halve the step of a problem until it improves: with separable classes a full step can overshoot.
        size = np.ones((n_problems, 1))
        for _ in range(20):
            trial = _objective(logit - size * move, label, share, coefficient - size * step, ridge)
            worse = trial > loss + 1e-12
            if not worse.any():
                break
            size[worse] /= 2
        size[trial > loss + 1e-12] = 0
        coefficient -= size * step
        logit -= size * move
        loss = np.minimum(trial, loss)
        if np.abs(size * step).max() < _TOLERANCE:
            break
    return coefficient


def _sigmoid(logit: Float64[np.ndarray, "problem case"]) -> Float64[np.ndarray, "problem case"]:
    return 0.5 * (1 + np.tanh(0.5 * logit))


def _objective(
    logit: np.ndarray, label: np.ndarray, share: np.ndarray, coefficient: np.ndarray, ridge: np.ndarray
) -> Float64[np.ndarray, " problem"]:
    loss = (share * (np.logaddexp(0, logit) - logit * label)).sum(axis=1)
    total: Float64[np.ndarray, " problem"] = loss + 0.5 * (ridge * coefficient**2).sum(axis=1)
    return total
