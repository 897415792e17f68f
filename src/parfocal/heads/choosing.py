"""How wrong held-out scores are, by the family of their column: what the closed-form probes choose by."""

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.cohort import Column, Fold
from parfocal.heads.cox import partial_likelihood


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


def name_choices(columns: tuple[str, ...], choices: tuple[str, ...]) -> str:
    """One text for the choices of all columns; the columns are named only where their choices differ."""
    if len(set(choices)) == 1:
        return choices[0]
    return "; ".join(f"{column}: {choice}" for column, choice in zip(columns, choices, strict=True))
