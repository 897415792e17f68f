"""A second opinion: the same test on embeddings centred within slide *and tissue type*.

Types are k-means clusters of the coarse embeddings, for several numbers of types because the right one is not known.
Composition cannot survive this centring where the types are right. It can erase a true factor too, one that *is* the
type; so it is read beside the test and never in its place.
"""

import numpy as np
from jaxtyping import Float, Int64
from sklearn.cluster import KMeans

from parfocal.studies.pairing.moments import CohortRows

__all__ = ["centre_within_types", "cluster_types"]

_MOST_ROWS = 20_000
_COMPONENTS = 16


def cluster_types(rows: CohortRows, n_types: int, *, seed: int) -> Int64[np.ndarray, " region"]:
    """The type of every region from its coarsest embedding; -1 where that is absent."""
    coarse = rows.rows[rows.mpps[0]][:, :_COMPONENTS]
    there = np.flatnonzero(np.isfinite(coarse[:, 0]))
    picked = there
    if len(there) > _MOST_ROWS:
        picked = np.random.default_rng([seed, 13]).choice(there, _MOST_ROWS, replace=False)
    model = KMeans(n_types, n_init=2, random_state=seed).fit(coarse[picked])
    types = np.full(len(coarse), -1, dtype=np.int64)
    types[there] = model.predict(coarse[there])
    return types


def centre_within_types(
    rows: CohortRows, types: Int64[np.ndarray, " region"]
) -> dict[float, Float[np.ndarray, "region component"]]:
    """Whitened rows about the mean of their type in their slide; a type seen once in a slide says nothing more."""
    slide = np.repeat(np.arange(len(rows.slides)), np.diff(rows.start))
    group = np.unique(slide * (int(types.max()) + 2) + types + 1, return_inverse=True)[1].reshape(-1)
    return {mpp: _centred(own.astype(np.float64), group) for mpp, own in rows.rows.items()}


def _centred(rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    there = np.isfinite(rows[:, 0])
    total = np.zeros((int(group.max()) + 1, rows.shape[1]))
    np.add.at(total, group[there], rows[there])
    count = np.bincount(group[there], minlength=len(total))
    centred = np.full_like(rows, np.nan)
    centred[there] = rows[there] - (total / np.maximum(count, 1)[:, None])[group[there]]
    return centred
