"""One regression for every family of column, logistic, linear or of hazards, and how its held-out scores are judged.

Cross-validation inside every training fold needs thousands of fits of a few dozen cases; one by one they would take
longer than everything else. Here many small problems are fitted at once.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.cohort import Column, Fold
from parfocal.heads.newton import fit_cox, fit_logistic, partial_likelihood
from parfocal.stats.regression import Ridge


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
    return np.asarray(np.matmul(features.astype(np.float64), coefficient[:, :-1, None])[:, :, 0] + coefficient[:, -1:])


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


def inner_weights(fold: Fold) -> Float64[np.ndarray, "problem train"]:
    """Which training slides each fit uses: one row without each inner fold, and a last row with all."""
    inner = np.arange(int(fold.inner.max()) + 1)
    without = (fold.inner[None] != inner[:, None]).astype(np.float64)
    return np.concatenate([without, np.ones((1, len(fold.train)))])


def column_weight(column: Column, *, balanced: bool) -> Float64[np.ndarray, " slide"]:
    """What each slide counts for, one on average; balanced: both classes of a logistic column weigh the same."""
    weight = np.ones(len(column.value))
    if balanced and column.family == "logistic":
        for value in (0.0, 1.0):
            own = column.value == value
            weight[own] = 0.5 * len(own) / max(int(own.sum()), 1)
    return weight


def held_out_loss(
    score: Float64[np.ndarray, "candidate slide"],
    column: Column,
    inner: Int64[np.ndarray, " slide"],
    *,
    balanced: bool,
) -> Float64[np.ndarray, " candidate"]:
    """The mean loss of scores that come from models which had not seen their slide.

    Log loss; the squared error over the variance of the value; or the negative partial log-likelihood for each event,
    whose risk sets lie within one inner fold, because two models' log risks have no common zero.

    Args:
        score: of each candidate for every slide.
        column: what was to be predicted, of the same slides.
        inner: the inner fold that each slide was held out in.
        balanced: as in `column_weight`.
    """
    loss: Float64[np.ndarray, " candidate"]
    if column.family == "logistic":
        weight = column_weight(column, balanced=balanced)
        loss = (np.logaddexp(0, score) - score * column.value) @ weight / weight.sum()
    elif column.family == "linear":
        loss = ((score - column.value) ** 2).mean(axis=1) / max(float(column.value.var()), 1e-300)
    else:
        loss = np.zeros(len(score))
        for part in np.unique(inner):
            own = np.flatnonzero(inner == part)
            loss -= partial_likelihood(score[:, own], column.of(own), np.ones((1, len(own))))
        loss /= max(int(column.event.sum()), 1)
    return loss
