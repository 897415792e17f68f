"""Linear baselines: B4 from one relative, B5 from all visible tiles of a region, B6 of reduced rank, B9 kriged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from parfocal.lab.prove.gaussian import Bases, Conditional, Covariance
from parfocal.lab.prove.layout import Layout, Query, Slots, Tiles
from parfocal.lab.prove.patterns import nearest_relatives, relation
from parfocal.lab.prove.scores import mean_r2
from parfocal.stats.regression import LinearModel, fit_ridge
from parfocal.stats.whitening import leading_components

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Tried on training slides that the fit has not seen, in units of one standardised dim's variance."""

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
_MOST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class RelativeRidge:
    """B4: one linear map for each pair of magnifications, the same at every position.

    Attributes:
        maps: (magnification of the hidden tile, of its relatives) -> the map.
    """

    maps: Mapping[tuple[int, int], LinearModel]

    def predict(self, query: Query, layout: Layout) -> Tiles:
        """From the nearest relatives of each hidden tile; 0 where it has none."""
        source, level = nearest_relatives(query.tokens, query.visible, layout)
        predicted = np.zeros_like(query.tokens)
        for (of, by), linear_map in self.maps.items():
            mine = query.hidden & (level == by) & (layout.level == of)
            if mine.any():
                predicted[mine] = linear_map.predict(source[mine])
        return predicted


def fit_relative_ridge(
    tokens: Tiles,
    present: Slots,
    is_validation: Bool[np.ndarray, " region"],
    layout: Layout,
    *,
    rng: np.random.Generator,
) -> RelativeRidge:
    """Fit every pair of magnifications that occurs; each chooses its ridge on the validation regions."""
    maps = {}
    for of in range(len(layout.mpps)):
        for by in range(len(layout.mpps)):
            weight = (relation(layout, by - of)[None] & present[:, None]).astype(np.float32)
            asked = present & (layout.level == of) & (weight.sum(axis=2) > 0)
            row, slot = np.nonzero(asked)
            if not len(row):
                continue
            chosen = rng.permutation(len(row))[:_MOST_ROWS]
            row, slot = row[chosen], slot[chosen]
            own = weight[row, slot]
            x = np.einsum("ns,nsd->nd", own / own.sum(axis=1, keepdims=True), tokens[row], optimize=True)
            y = tokens[row, slot]
            validating = is_validation[row]
            if validating.all() or not validating.any():
                validating = rng.random(len(row)) < 0.25
            maps[of, by] = fit_ridge(x, y, validating, RIDGES[::-1])
    return RelativeRidge(maps)


def choose_ridge(
    bases: Bases, covariance: Covariance, query: Query, target: Tiles, layout: Layout
) -> tuple[float, float]:
    """The ridge that predicts the validation regions best, the largest of equal ones, and its R2 there.

    The score rises and then falls with the ridge, so the search ends at the first fall, from the largest on.
    """
    best, best_score = RIDGES[-1], -np.inf
    for ridge in reversed(RIDGES):
        predicted = Conditional(bases, covariance, ridge).predict(query, layout)
        score = mean_r2(predicted, target, query.hidden, layout)
        if not score > best_score:
            break
        best, best_score = ridge, score
    return best, best_score


def leading_directions(
    predicted: Tiles, hidden: Slots, layout: Layout, bases: Bases
) -> Float32[np.ndarray, "level dim target"]:
    """For each magnification, the principal directions of what is predicted, the largest first.

    Predictions lie in the span of the bases' directions, so the eigenproblem is as large as there are of them.
    """
    found = bases.directions.copy()
    for level in range(len(layout.mpps)):
        mine = layout.level == level
        rows = predicted[:, mine][hidden[:, mine]] @ bases.directions[level]
        if len(rows):
            found[level] = bases.directions[level] @ leading_components(rows.T @ rows)[0]
    return found


def reduce(predicted: Tiles, directions: Float32[np.ndarray, "level dim target"], rank: int, layout: Layout) -> Tiles:
    """B6: the predictions of B5 along the few directions that they use most, for each magnification.

    Reduced-rank regression (Izenman 1975): the directions are the leading ones of the *fitted* values.
    """
    reduced = np.empty_like(predicted)
    for level in range(len(layout.mpps)):
        mine = layout.level == level
        kept = directions[level][:, :rank]
        reduced[:, mine] = predicted[:, mine] @ kept @ kept.T
    return reduced


def choose_rank(
    predicted: Tiles, directions: Float32[np.ndarray, "level dim target"], target: Tiles, hidden: Slots, layout: Layout
) -> int:
    """The rank that predicts the validation regions best; of equal ones the smallest."""
    ranks: Sequence[int] = [rank for rank in RANKS if rank < layout.dim] or [1]
    scores = {rank: mean_r2(reduce(predicted, directions, rank, layout), target, hidden, layout) for rank in ranks}
    return max(scores, key=lambda rank: scores[rank])
