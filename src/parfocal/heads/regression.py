"""One regression for every family of column: logistic, linear, or of hazards; many small problems at once.

Cross-validation inside every training fold needs thousands of fits of a few dozen cases; one by one they would take
longer than everything else. Here a stack of problems shares each step.
"""

import numpy as np
from jaxtyping import Float, Float64

from parfocal.cohort import Column
from parfocal.heads.cox import fit_cox
from parfocal.heads.newton import minimise
from parfocal.stats.regression import Ridge

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
    x = np.concatenate([features, np.ones((*features.shape[:2], 1))], axis=2).astype(np.float64)
    share = weight / weight.sum(axis=1, keepdims=True)  # (problem, case)
    ridge = np.repeat(penalty[:, None], x.shape[2], axis=1)
    # A trace of penalty keeps the intercept finite where a problem holds one class.
    ridge[:, -1] = 1e-6

    def loss_of(logit: np.ndarray) -> np.ndarray:
        loss: np.ndarray = (share * (np.logaddexp(0, logit) - logit * label)).sum(axis=1)
        return loss

    def derivatives_of(logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability = 0.5 * (1 + np.tanh(0.5 * logit))
        gradient = np.matmul((share * (probability - label))[:, None], x)[:, 0]
        curvature = share * np.maximum(probability * (1 - probability), 1e-10)
        return gradient, np.matmul((x * curvature[:, :, None]).transpose(0, 2, 1), x)

    return minimise(x, ridge, loss_of, derivatives_of, tolerance=_TOLERANCE)


def fit_column(
    features: Float[np.ndarray, "stack case dim"],
    column: Column,
    weight: Float64[np.ndarray, "problem case"],
    penalty: Float64[np.ndarray, " problem"],
) -> Float64[np.ndarray, "problem bound"]:
    """The coefficients of each problem, the intercept last, by the column's family.

    Args:
        features: one matrix for all problems (a stack of one), or one for each.
        column: what is to be predicted of each case.
        weight: of each case in each problem; 0 leaves it out.
        penalty: above 0; beside the mean loss of a case (of an event for hazards), so that it means about the same
            in each family.
    """
    if column.family == "logistic":
        return fit_logistic(features, column.value, weight, penalty)
    if column.family == "linear":
        return fit_linear(features, column.value, weight, penalty)
    return fit_cox(features, column, weight, penalty)


def fit_linear(
    features: Float[np.ndarray, "stack case dim"],
    value: Float64[np.ndarray, " case"],
    weight: Float64[np.ndarray, "problem case"],
    penalty: Float64[np.ndarray, " problem"],
) -> Float64[np.ndarray, "problem bound"]:
    """The coefficients of each linear problem, the intercept last, in closed form.

    Minimised is half the weighted mean squared error + penalty / 2 * |coefficients|^2, both in units of the value's
    variance, so that the penalty does not know that unit.
    """
    model = Ridge.of(features, value[:, None], weight).at(penalty)
    return np.concatenate([model.coefficient[:, :, 0], model.intercept], axis=1)


def fit_nonnegative(
    columns: Float64[np.ndarray, "problem case column"],
    target: Column,
    weight: Float64[np.ndarray, " case"],
    penalty: float,
) -> Float64[np.ndarray, "problem bound"]:
    """A regression for each problem whose coefficients are not below 0, the intercept last.

    For stacking (Breiman 1996): every column is a score that is meant to rise with the target, so a negative
    coefficient is noise. Columns are removed one after the other, the most negative first, until none is left.
    """
    n_problems, n_cases, n_columns = columns.shape
    kept = np.ones((n_problems, n_columns), dtype=bool)
    weights, ridge = np.broadcast_to(weight, (n_problems, n_cases)), np.full(n_problems, penalty)
    for _ in range(n_columns + 1):
        coefficient = fit_column(columns * kept[:, None], target, weights, ridge)
        slope = np.where(kept, coefficient[:, :-1], 0.0)
        worst = slope.argmin(axis=1)
        negative = slope.min(axis=1) < 0
        if not negative.any():
            break
        kept[np.flatnonzero(negative), worst[negative]] = False
    coefficient[:, :-1] = np.where(kept, coefficient[:, :-1], 0.0)
    return coefficient


def predict_column(
    features: Float[np.ndarray, "stack case dim"], coefficient: Float64[np.ndarray, "problem bound"]
) -> Float64[np.ndarray, "problem case"]:
    """The score of every case in every problem."""
    score: Float64[np.ndarray, "problem case"] = (
        np.matmul(features.astype(np.float64), coefficient[:, :-1, None])[:, :, 0] + coefficient[:, -1:]
    )
    return score


def row_space(
    train: Float[np.ndarray, "train dim"],
) -> tuple[Float64[np.ndarray, "train component"], Float64[np.ndarray, "dim component"] | None]:
    """Training cases in the coordinates of their own span, and the basis of it; None where that is not smaller.

    A ridge-penalised solution lies in that span, so nothing is lost, and 1,280 features of 38 slides become 38.
    """
    if train.shape[1] <= train.shape[0]:
        return train.astype(np.float64), None
    _, scale, rows = np.linalg.svd(train.astype(np.float64), full_matrices=False)
    basis = rows[scale > 1e-10 * max(scale[0], 1e-300)].T
    return train @ basis, basis
