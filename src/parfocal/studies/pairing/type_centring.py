"""A second opinion: the same test on embeddings centred within slide *and tissue type*.

Types are k-means clusters of the coarse embeddings, for several numbers of types because the right one is not known.
Composition cannot survive this centring where the types are right. It can erase a true factor too, one that *is* the
type; so it is read beside the test and never in its place.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from sklearn.cluster import KMeans

from parfocal.studies.pairing.moments import CohortRows

__all__ = ["cluster_types", "types_within", "usable_types"]

_MOST_ROWS = 20_000
_COMPONENTS = 16


def usable_types(rows: CohortRows, asked: Sequence[int]) -> tuple[int, ...]:
    """The numbers of types that the cohort has enough different regions for, ten for each."""
    coarse = rows.rows[rows.mpps[0]][:, :_COMPONENTS]
    # Rounded, because k-means merges what differs less than its own rounding.
    different = len(np.unique(coarse[np.isfinite(coarse[:, 0])].round(3), axis=0))
    return tuple(n for n in asked if 10 * n <= different)


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


def types_within(rows: CohortRows, types: Int64[np.ndarray, " region"]) -> Int64[np.ndarray, " region"]:
    """Groups of regions of one type in one group of the cohort; a type seen once there says nothing more."""
    group = np.unique(rows.group * (int(types.max()) + 2) + types + 1, return_inverse=True)[1]
    return group.reshape(-1).astype(np.int64)
