"""B9: the covariance of a region as kriging sees it, few numbers instead of a free matrix.

Between tiles of magnifications m and n at a distance h it is c_mn(h) F_mn: how alike places are (a number for each
distance) times how features go together (a matrix for each pair of magnifications). A tile with itself has its own
matrix, so what no other tile shares (the nugget) is part of it. Fitted to the joint moments of training regions.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from parfocal.studies.proof.gaussian import Covariance
from parfocal.studies.proof.layout import Layout

__all__ = ["separable_covariance"]

_ROUNDS = 8


def separable_covariance(free: Covariance, layout: Layout) -> Covariance:
    """The covariance of that form that fits best, in the least-squares sense over all pairs of slots."""
    k = free.matrix.shape[1]
    blocks = free.matrix[..., :k]
    matrix = np.zeros_like(blocks)
    n_levels = len(layout.mpps)
    for first in range(n_levels):
        own = np.flatnonzero(layout.level == first)
        matrix[own, :, own, :] = blocks[own, :, own, :].mean(axis=0)
        for second in range(first, n_levels):
            rows, columns = own, np.flatnonzero(layout.level == second)
            pairs = np.array([(a, b) for a in rows for b in columns if a != b]).reshape(-1, 2)
            if not len(pairs):
                continue
            distance = np.rint(layout.distance_um[pairs[:, 0], pairs[:, 1]]).astype(np.int64)
            strength, feature = _rank_one(blocks[pairs[:, 0], :, pairs[:, 1], :], distance, symmetric=first == second)
            fitted = (strength[:, None, None] * feature).astype(np.float32)
            matrix[pairs[:, 0], :, pairs[:, 1], :] = fitted
            if first != second:
                matrix[pairs[:, 1], :, pairs[:, 0], :] = fitted.transpose(0, 2, 1)
    mean = free.mean[:, :k].copy()
    for level in range(n_levels):
        mine = layout.level == level
        mean[mine] = mean[mine].mean(axis=0)
    # Pair by pair nothing makes the whole a covariance.
    return Covariance(mean, matrix).positive()


def _rank_one(
    blocks: Float32[np.ndarray, "pair k k"], distance: Int64[np.ndarray, " pair"], *, symmetric: bool
) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, "k k"]]:
    """The strength of each pair, equal at equal distances, and the features' matrix whose products fit best."""
    classes, of_pair = np.unique(distance, return_inverse=True)
    number = np.bincount(of_pair)
    means = np.stack([blocks[of_pair == one].mean(axis=0, dtype=np.float64) for one in range(len(classes))])
    if symmetric:
        means = (means + means.transpose(0, 2, 1)) / 2
    # Alternating least squares from the strongest class: the same as the leading singular pair, weighted by counts.
    feature = means[np.argmax(np.square(means).sum(axis=(1, 2)) * number)]
    strength = np.zeros(len(classes))
    for _ in range(_ROUNDS):
        norm = float(np.square(feature).sum())
        if norm == 0:
            break
        strength = np.einsum("cij,ij->c", means, feature) / norm
        weight = number * strength
        total = float((weight * strength).sum())
        if total == 0:
            break
        feature = np.einsum("c,cij->ij", weight, means) / total
    return strength[of_pair], feature
