"""Each next region is the one that looks least like those before."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parfocal.zoom import POLICIES
from parfocal.zoom.policies.diversity import farthest_first, places_of_looks

from ..glances import full, glance_of

# Whole numbers, so that distances are exact and ties are ties.
ROWS = arrays(np.float64, st.tuples(st.integers(1, 15), st.just(3)), elements=st.integers(-20, 20).map(float))


@given(ROWS)
def test_each_is_farthest_from_all_before(rows: np.ndarray) -> None:
    order = farthest_first(rows)

    assert sorted(order) == list(range(len(rows)))
    for place in range(1, len(order)):
        nearest = ((rows[:, None] - rows[None, order[:place]]) ** 2).sum(axis=2).min(axis=1)
        left = order[place:]
        assert nearest[order[place]] == nearest[left].max()


@given(ROWS, st.integers(1, 4))
def test_a_prefix_is_within_twice_the_best_cover(rows: np.ndarray, n: int) -> None:
    n = min(n, len(rows))
    away = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=2))
    found = away[:, farthest_first(rows)[:n]].min(axis=1).max()

    # No choice of n centres covers n + 1 points closer than half the least distance among them (Gonzalez 1985).
    more = farthest_first(rows)[: n + 1]
    if len(more) == n + 1:
        among = away[np.ix_(more, more)] + np.where(np.eye(n + 1, dtype=bool), np.inf, 0)
        assert found <= among.min() + 1e-9


def test_kinds_of_tissue_are_seen_before_any_twice() -> None:
    glance = full(glance_of(30, absent=0.0))
    kind = np.arange(30) % 4
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((4, 5)) * 20
    for mpp, rows in glance.coarse.features.items():
        rows[:] = looks[kind[glance.coarse.region[mpp]]] + 0.1 * rows

    first = glance.region[POLICIES.get("diversity")(glance)][: 4 * 16]

    assert len(set(kind[np.unique(first)])) == 4


def test_distances_are_those_of_all_columns_where_there_are_few() -> None:
    glance = full(glance_of(20, absent=0.0))
    rows = places_of_looks(glance)
    parts = []
    for mpp in glance.coarse.mpps:
        means = np.full((20, 5), np.nan)
        for r in np.unique(glance.coarse.region[mpp]):
            means[r] = glance.coarse.features[mpp][glance.coarse.region[mpp] == r].mean(axis=0)
        parts.append(np.nan_to_num((means - np.nanmean(means, axis=0)) / np.nanstd(means, axis=0)) / np.sqrt(5))
    by_hand = np.concatenate(parts, axis=1)

    def distances(x: np.ndarray) -> np.ndarray:
        return np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))

    # Embeddings are float32.
    np.testing.assert_allclose(distances(rows), distances(by_hand), atol=1e-5)
