"""Regions at the edge of the tissue do not stand out for the glass beside it."""

import numpy as np
import pytest

from parfocal.zoom import POLICIES, Glance
from parfocal.zoom.looks import region_looks, tissue_share

from .glances import at_the_edge, full, glance_of

EDGE = (3, 11, 17, 20)


def test_the_share_counts_glass_that_is_planned_and_glass_that_is_not() -> None:
    glance = full(glance_of(3, absent=0.0))
    kept = np.r_[0:16, 16:24, 32:48]  # half of the second region is not planned
    tissue = np.where(glance.region[kept] == 2, 0.25, 1.0)
    edge = Glance(glance.coarse, glance.region[kept], glance.center_um[kept], 0.5, tissue, 0)

    assert tissue_share(edge).tolist() == [1.0, 0.5, 0.25]
    nothing = Glance(glance.coarse, np.zeros(0, np.int32), np.zeros((0, 2), np.float32), 0.5, np.zeros(0), 0)
    assert tissue_share(nothing).tolist() == [0.0, 0.0, 0.0]


def test_a_biopsy_without_a_full_region_counts_as_what_it_is() -> None:
    glance = full(glance_of(3, absent=0.0))
    kept = np.r_[0:8, 16:20]  # of sixteen tiles in a region
    biopsy = Glance(glance.coarse, glance.region[kept], glance.center_um[kept], 0.5, np.ones(12), 0)

    assert tissue_share(biopsy).tolist() == [0.5, 0.25, 0.0]


def test_tissue_everywhere_changes_nothing() -> None:
    glance = full(glance_of(20, absent=0.0))

    for (rows, _), mpp in zip(region_looks(glance), glance.coarse.mpps, strict=True):
        tiles = glance.coarse.features[mpp].astype(np.float64).reshape(20, -1, 5).mean(axis=1)
        np.testing.assert_allclose(rows, (tiles - tiles.mean(axis=0)) / tiles.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("name", ["change", "diversity"])
def test_regions_that_are_glass_for_two_thirds_do_not_come_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    glance = at_the_edge(full(glance_of(25, absent=0.0, dim=24)), EDGE)
    policy = POLICIES.get(name)

    first = np.unique(glance.region[policy(glance)[:64]])
    for module in ("looks", "policies.diversity"):
        monkeypatch.setattr(f"parfocal.zoom.{module}.tissue_share", lambda glance: np.ones(glance.coarse.n_regions))
    unweighed = np.unique(glance.region[policy(glance)[:64]])

    assert not set(first) & set(EDGE)
    assert set(unweighed) & set(EDGE)
