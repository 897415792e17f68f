"""Baselines that are a mean, a copy or a line: B0 to B4, B6 and B7, and what validation regions choose for them.

B0 to B3 fit nothing, and B7 copies from the most similar training regions. B4 is a linear map from one relative, B6 is
what the best linear map from all visible tiles (B5, `gaussian`) says along few directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from parfocal.lab.prove.gaussian import Bases, Conditional, Covariance
from parfocal.lab.prove.layout import Layout, Query, Slots, Tiles, nearest_relatives, relation
from parfocal.lab.prove.scores import mean_r2
from parfocal.stats.regression import LinearModel, fit_ridge
from parfocal.stats.whitening import leading_components


def global_mean(query: Query, layout: Layout) -> Tiles:
    """B0: the mean of the training tiles at that magnification, which is 0 for standardised embeddings."""
    return np.zeros_like(query.tokens)


def slide_mean(query: Query, layout: Layout) -> Tiles:
    """B1: the mean of the slide's tiles at that magnification, over all regions but the asked one."""
    return query.slide_mean[:, layout.level]


def region_mean(query: Query, layout: Layout) -> Tiles:
    """B2: the mean of the region's visible tiles at that magnification; the slide's mean where there is none."""
    predicted = slide_mean(query, layout).copy()
    same = relation(layout, 0)
    weight = (query.visible[:, None] & same[None]).astype(np.float32)
    count = weight.sum(axis=2)
    mean = (weight / np.maximum(count, 1)[..., None]) @ query.tokens
    predicted[count > 0] = mean[count > 0]
    return predicted


def nearest_token(query: Query, layout: Layout) -> Tiles:
    """B3: the nearest visible tile of the same magnification; else a copy of its parent (else of its children).

    Equally near tiles are averaged. A copy from another magnification means equal standardised numbers, which is only
    possible where both have the same width; else the mean is predicted.
    """
    copied, source_level = nearest_relatives(query.tokens, query.visible, layout)
    dims = np.asarray(layout.dims)
    fits = (source_level >= 0) & (dims[source_level] == dims[layout.level])
    predicted = np.where(fits[..., None], copied, np.float32(0))
    distance = np.where(relation(layout, 0), layout.distance_um, np.inf)
    seen = np.where(query.visible[:, None], distance[None], np.inf)  # (region, slot, source)
    nearest = seen.min(axis=2)
    weight = (seen <= nearest[..., None] + 1e-3 * layout.region_um) & np.isfinite(seen)
    count = weight.sum(axis=2)
    mean = (weight / np.maximum(count, 1)[..., None]).astype(np.float32) @ query.tokens
    predicted[count > 0] = mean[count > 0]
    return predicted


@dataclass(frozen=True, eq=False)
class NearestRegions:
    """B7: the training regions that look most alike at the coarsest visible magnification lend their tiles.

    Attributes:
        tokens: standardised tiles of training regions.
        present: which tiles they have.
        k: how many regions lend; their mean is predicted.
    """

    tokens: Float32[np.ndarray, "train slot dim"]
    present: Bool[np.ndarray, "train slot"]
    k: int

    def predict(self, query: Query, layout: Layout) -> Tiles:
        """Means of the tiles at the asked place, of those of the k regions that have one; 0 where none has."""
        predicted = np.zeros_like(query.tokens)
        shown = np.where(query.visible, layout.level, len(layout.mpps)).min(axis=1)
        for level in np.unique(shown[shown < len(layout.mpps)]):
            rows = np.flatnonzero(shown == level)
            slots = np.flatnonzero(layout.level == level)
            predicted[rows] = self._lend(query.tokens[rows][:, slots], query.visible[rows][:, slots], slots)
        return predicted

    def _lend(
        self,
        seen: Float32[np.ndarray, "query shown dim"],
        visible: Bool[np.ndarray, "query shown"],
        slots: np.ndarray,
    ) -> Float32[np.ndarray, "query slot dim"]:
        own = self.tokens[:, slots]
        n_train = len(own)
        squares = np.square(own).sum(axis=2)  # (train, shown); an absent tile counts as an average one
        distance = visible.astype(np.float32) @ squares.T - 2 * seen.reshape(len(seen), -1) @ own.reshape(n_train, -1).T
        k = min(self.k, n_train)
        nearest = (
            np.argpartition(distance, k - 1, axis=1)[:, :k] if k < n_train else np.tile(np.arange(k), (len(seen), 1))
        )
        total = np.zeros((len(seen), *self.tokens.shape[1:]), dtype=np.float32)
        count = np.zeros((len(seen), self.tokens.shape[1]), dtype=np.float32)
        for column in nearest.T:
            total += self.tokens[column]
            count += self.present[column]
        return total / np.maximum(count, 1)[..., None]


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
    for level, own in enumerate(layout.slots):
        rows = predicted[:, own][hidden[:, own]] @ bases.directions[level]
        if len(rows):
            found[level] = bases.directions[level] @ leading_components(rows.T @ rows)[0]
    return found


def reduce(predicted: Tiles, directions: Float32[np.ndarray, "level dim target"], rank: int, layout: Layout) -> Tiles:
    """B6: the predictions of B5 along the few directions that they use most, for each magnification.

    Reduced-rank regression (Izenman 1975): the directions are the leading ones of the *fitted* values.
    """
    reduced = np.empty_like(predicted)
    for own, along in zip(layout.slots, directions[..., :rank], strict=True):
        reduced[:, own] = predicted[:, own] @ along @ along.T
    return reduced


def choose_rank(
    predicted: Tiles, directions: Float32[np.ndarray, "level dim target"], target: Tiles, hidden: Slots, layout: Layout
) -> int:
    """The rank that predicts the validation regions best; of equal ones the smallest."""
    ranks: Sequence[int] = [rank for rank in RANKS if rank < layout.dim] or [1]
    scores = {rank: mean_r2(reduce(predicted, directions, rank, layout), target, hidden, layout) for rank in ranks}
    return max(scores, key=lambda rank: scores[rank])
