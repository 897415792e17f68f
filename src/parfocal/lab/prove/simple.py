"""Baselines that fit nothing or copy: B0 to B3, and B7, which copies from the most similar training regions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from parfocal.lab.prove.layout import Layout, Query, Tiles
from parfocal.lab.prove.patterns import nearest_relatives, relation


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
