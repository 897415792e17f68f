"""Vectors that are made of the tiles of several magnifications, or of the finest one alone, while a set is read.

- `parents`: the embedding of each finest tile with those of its parents at every coarser magnification side by side,
  coarse to fine (the pyramidal concatenation of DSMIL, Li et al. 2021).
- `pseudo 2`: what stands in for the tiles of 2 mpp when they are not read: means of the finest tiles in each cell of
  that size (as MSPN, arXiv 2602.01951, makes coarse maps of fine features). Coarser tiles have no say in it, not even
  by being absent, so whoever pools it knows one magnification.
- `2 of other regions`: the tiles of 2 mpp, each region's in the place of another region of the same slide: the control
  that says what coarse tiles bring where they do not show the place.
- `0.5, one by one`: a bag whose regions are its instances, so that whoever pools regions learns nothing of which tiles
  lie together.
- `tiles in place`: all tiles as they are, those of a region together, each with its place; what a region encoder needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.sparse import csr_matrix

from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, SlideTokens

PARENTS, PLACED, ONE_BY_ONE = "parents", "tiles in place", ", one by one"
# Stored centres are float32, and a tile on the border of two cells belongs to the right or the lower one on every
# machine.
_TOLERANCE = 1e-3
_AT_A_TIME = 1 << 20  # pairs of tiles that are compared
_COLUMNS = 128  # of rows that are summed, so that few are in float64 at a time


def pseudo_name(mpp: float) -> str:
    """The name of the bag that stands in for the tiles of a magnification."""
    return f"pseudo {format_mpp(mpp)}"


def elsewhere_name(mpp: float) -> str:
    """The name of the bag in which every region has the tiles that another region of its slide has."""
    return f"{format_mpp(mpp)} of other regions"


def one_by_one(name: str) -> str:
    """The name of a bag of the same instances that knows of no region which of them lie in it."""
    return f"{name}{ONE_BY_ONE}"


def derived_names(source: EmbeddingSet) -> tuple[str, ...]:
    """The bags that can be made of a set beside its own, but for those of their instances one by one."""
    if source.kind == "regions":
        return ()
    coarser = source.mpps[:-1]
    stand_ins = (PARENTS, *map(pseudo_name, coarser)) if coarser else ()
    return (*stand_ins, PLACED, *map(elsewhere_name, coarser))


def mpps_behind(source: EmbeddingSet, name: str) -> tuple[float, ...]:
    """The magnifications that a set must have been embedded at for one of its bags: all, one, or the finest alone."""
    name = name.removesuffix(ONE_BY_ONE)
    for mpp in source.mpps:
        if name in (format_mpp(mpp), elsewhere_name(mpp)):
            return (mpp,)
        if name == pseudo_name(mpp):
            return source.mpps[-1:]
    return source.mpps


@dataclass(frozen=True, eq=False)
class Derived:
    """The derived vectors of one slide.

    Attributes:
        rows: in region order.
        region: the region's number of each row.
        place: of each row, x and y of the tile's centre about the region's centre in micrometres, its micrometres per
            pixel, and the region's number; None where a row is no tile.
        n_without: finest tiles that are not in it, because a parent is absent.
    """

    rows: Float32[np.ndarray, "row dim"]
    region: Int64[np.ndarray, " row"]
    place: Float32[np.ndarray, "row 4"] | None = None
    n_without: int = 0


def derive(source: EmbeddingSet, tokens: SlideTokens, name: str) -> Derived:
    """The rows of one of `derived_names` for one slide.

    Raises:
        ConfigError: no finest tile of the slide has all its parents.
        ValueError: the set has no such bag.
    """
    if name not in derived_names(source):
        raise ValueError(f"{source.name} has no bag {name!r}; it has {', '.join(derived_names(source))}")
    if name == PLACED:
        return _placed(tokens)
    tile_um = source.tile_um_of(tokens)
    finest = tokens.mpps[-1]
    region = tokens.region[finest].astype(np.int64)
    if name == PARENTS:
        return _with_parents(tokens, region, tile_um)
    exchanged = [mpp for mpp in tokens.mpps if elsewhere_name(mpp) == name]
    if exchanged:
        return _elsewhere(tokens, exchanged[0])
    coarse = next(mpp for mpp in source.mpps if pseudo_name(mpp) == name)
    rows, own = mean_of_cells(
        tokens.features[finest].astype(np.float32),
        tokens.center_um[finest],
        region,
        cell_um=tile_um[coarse],
        region_um=tokens.region_um,
    )
    return Derived(rows, own)


def find_parents(
    center_um: Float[np.ndarray, "tile 2"],
    region: Int64[np.ndarray, " tile"],
    coarse_center_um: Float[np.ndarray, "coarse 2"],
    coarse_region: Int64[np.ndarray, " coarse"],
    *,
    side_um: float,
) -> Int64[np.ndarray, " tile"]:
    """For each tile the number of the coarse tile of its region whose footprint holds its centre; -1 where none does.

    A footprint holds its left and its upper border. Of overlapping footprints the one with the nearest centre counts,
    the first of equally near ones.

    Args:
        center_um: centres about the region's centre.
        region: the region's number of each tile, never falling.
        coarse_center_um: of the coarse tiles.
        coarse_region: never falling.
        side_um: side of a coarse tile's footprint.
    """
    first = np.searchsorted(coarse_region, region, side="left")
    count = np.searchsorted(coarse_region, region, side="right") - first
    most = int(count.max(initial=0))
    parent = np.full(len(region), -1, dtype=np.int64)
    if most == 0:
        return parent
    order = np.arange(most)
    step = max(1, _AT_A_TIME // most)
    for begin in range(0, len(region), step):
        own = slice(begin, begin + step)
        there = order < count[own, None]
        candidate = np.where(there, first[own, None] + order, 0)  # (tile, coarse tile of its region)
        offset = center_um[own, None].astype(np.float64) - coarse_center_um[candidate]
        share = offset / side_um + 0.5 + _TOLERANCE
        holds = there & ((share >= 0) & (share < 1)).all(axis=2)
        distance = np.where(holds, np.round((offset**2).sum(axis=2) / side_um**2, 6), np.inf)
        nearest = distance.argmin(axis=1)
        found = holds[np.arange(len(nearest)), nearest]
        parent[own] = np.where(found, candidate[np.arange(len(nearest)), nearest], -1)
    return parent


def mean_of_cells(
    rows: Float32[np.ndarray, "tile dim"],
    center_um: Float[np.ndarray, "tile 2"],
    region: Int64[np.ndarray, " tile"],
    *,
    cell_um: float,
    region_um: float,
) -> tuple[Float32[np.ndarray, "cell dim"], Int64[np.ndarray, " cell"]]:
    """The mean of the tiles whose centre lies in each cell, row by row inside a region, and each cell's region.

    Cells begin at the upper left corner of the region; a cell without a tile is not there, and the last ones may reach
    over the region's edge.
    """
    n_side = max(1, int(np.ceil(region_um / cell_um - _TOLERANCE)))
    place = np.floor((center_um.astype(np.float64) + region_um / 2) / cell_um + _TOLERANCE).astype(np.int64)
    column, row = np.clip(place, 0, n_side - 1).T
    cell = (region * n_side + row) * n_side + column
    order = np.argsort(cell, kind="stable")
    _, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    if not len(first):
        return rows[:0], region[:0]
    # Sums in float64 as a sparse product, some columns at a time: a fifth of the time of `np.add.reduceat`.
    sums = csr_matrix((np.ones(len(rows)), order, [*first, len(rows)]), shape=(len(first), len(rows)))
    means = np.empty((len(first), rows.shape[1]), np.float32)
    for start in range(0, rows.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        means[:, columns] = (sums @ rows[:, columns]) / count[:, None]
    return means, region[order][first]


def _with_parents(tokens: SlideTokens, region: Int64[np.ndarray, " tile"], tile_um: Mapping[float, float]) -> Derived:
    *coarser, finest = tokens.mpps
    parents = {
        mpp: find_parents(
            tokens.center_um[finest],
            region,
            tokens.center_um[mpp],
            tokens.region[mpp].astype(np.int64),
            side_um=tile_um[mpp],
        )
        for mpp in coarser
    }
    kept = np.flatnonzero(np.all([parent >= 0 for parent in parents.values()], axis=0))
    if not len(kept):
        raise ConfigError(
            f"{tokens.slide} has no tile at {format_mpp(finest)} mpp whose tiles at coarser magnifications are all "
            "there, so it cannot be pooled with its parents. Leave out the slide, or the arm `parents`."
        )
    parts = [tokens.features[mpp][parents[mpp][kept]] for mpp in coarser] + [tokens.features[finest][kept]]
    rows = np.concatenate([part.astype(np.float32) for part in parts], axis=1)
    return Derived(rows, region[kept], n_without=len(region) - len(kept))


def _elsewhere(tokens: SlideTokens, mpp: float) -> Derived:
    """The tiles of each region in the region half a slide further on, where tissue is least alike."""
    region = (tokens.region[mpp].astype(np.int64) + tokens.n_regions // 2) % max(tokens.n_regions, 1)
    order = np.argsort(region, kind="stable")
    return Derived(tokens.features[mpp][order].astype(np.float32), region[order])


def _placed(tokens: SlideTokens) -> Derived:
    dim = max(rows.shape[1] for rows in tokens.features.values())
    parts, places = [], []
    for mpp in tokens.mpps:
        rows = tokens.features[mpp].astype(np.float32)
        parts.append(np.pad(rows, ((0, 0), (0, dim - rows.shape[1]))))
        own = np.empty((len(rows), 4), np.float32)
        own[:, :2], own[:, 2], own[:, 3] = tokens.center_um[mpp], mpp, tokens.region[mpp]
        places.append(own)
    place = np.concatenate(places)
    # Coarse to fine inside a region, as in the set.
    order = np.argsort(place[:, 3], kind="stable")
    return Derived(np.concatenate(parts)[order], place[order, 3].astype(np.int64), place=place[order])
