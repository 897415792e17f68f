"""Glances of slides, drawn: ragged, on no square, and not beginning at zero."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from parfocal.geometry import lattice_um
from parfocal.store import SlideTokens
from parfocal.zoom import Glance

REGION_UM = 448.0
DIM = 5


def glance_of(
    n_regions: int = 12,
    *,
    seed: int = 0,
    slide: str = "s1",
    run: int = 0,
    dim: int = DIM,
    absent: float = 0.2,
    mpps: tuple[float, ...] = (2.0, 1.0),
    columns: int = 5,
) -> Glance:
    """A slide whose regions lie in rows of five, some tiles of which are absent at every magnification."""
    rng = np.random.default_rng([seed, n_regions])
    number = np.arange(n_regions)
    xy_um = REGION_UM * np.column_stack([number % columns + 3, number // columns + 1]).astype(np.float64) + 17.0
    features, region, center = {}, {}, {}
    for mpp in (*mpps, 0.5):
        places = lattice_um(REGION_UM, round(2 / mpp)).astype(np.float32)
        there = rng.random(n_regions * len(places)) >= absent
        region[mpp] = np.repeat(number, len(places)).astype(np.int32)[there]
        center[mpp] = np.tile(places, (n_regions, 1))[there]
        features[mpp] = rng.standard_normal((int(there.sum()), dim)).astype(np.float32)
    fine_region, fine_center = region.pop(0.5), center.pop(0.5)
    features.pop(0.5)
    coarse = SlideTokens(slide, REGION_UM, 0.25, xy_um, features, region, center)
    # Most tiles are full of tissue, as on real slides.
    tissue = np.minimum(1.0, rng.random(len(fine_region)) * 3)
    return Glance(coarse, fine_region, fine_center, 0.5, tissue, run)


def full(glance: Glance) -> Glance:
    """The same slide, tissue everywhere."""
    return replace(glance, tissue=np.ones(glance.n_tiles))


def at_the_edge(glance: Glance, edge: Collection[int]) -> Glance:
    """The same slide, some regions of which have tissue in their first five tiles of sixteen, and glass beside it."""
    n_before = np.arange(glance.n_tiles) - np.searchsorted(glance.region, glance.region)
    kept = ~np.isin(glance.region, [*edge]) | (n_before < 5)
    features = {}
    for mpp, rows in glance.coarse.features.items():
        is_edge = np.isin(glance.coarse.region[mpp], [*edge])
        glass = np.where(np.arange(rows.shape[1]) % 2, 2.0, -2.0).astype(np.float32)
        features[mpp] = np.where(is_edge[:, None], 5 / 16 * rows + 11 / 16 * glass, rows)
    coarse = replace(glance.coarse, features=features)
    return Glance(coarse, glance.region[kept], glance.center_um[kept], glance.mpp, glance.tissue[kept], glance.seed)


def drawn() -> st.SearchStrategy[dict[str, Any]]:
    """What `glance_of` is given for slides of one to a few dozen regions; numbers are drawn outside the strategy."""
    return st.fixed_dictionaries(
        {
            "n_regions": st.integers(1, 40),
            "seed": st.integers(0, 1000),
            "slide": st.text(min_size=1, max_size=8),
            "run": st.integers(0, 5),
            "absent": st.sampled_from([0.0, 0.2, 0.7]),
        }
    )
