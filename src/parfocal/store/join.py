"""Tiles of several runs become regions: which tile lies in which, and how far the grids are from nesting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy.spatial import cKDTree

from parfocal.errors import MismatchError
from parfocal.store.grid import TileGrid

# Sides of tiles that differ by less from a whole number of them in a region are meant to fill it.
_WHOLE = 0.05
_ON_THE_EDGE = 1e-6
# Tools cut places to whole pixels, so the largest tiles lie up to this share of a side from their lattice.
_ONE_LATTICE = 0.01
_BELONG = 0.5
# Grids that are off by less nest: tools cut places to whole pixels.
_NESTS_UM = 1.0


@dataclass(frozen=True, eq=False)
class JoinedTiles:
    """The tiles of one slide by region; all lengths are the slide's true micrometres.

    Attributes:
        region_um: side of a region.
        region_xy_um: top left of each region.
        region: per magnification, the region's number of each tile that has one.
        center_um: per magnification, its centre about the region's centre.
        row: per magnification, which row of the features file it is.
        misalignment_um: per magnification, the largest distance of a tile from where it would nest exactly.
        reasons: per magnification whose tiles do not nest exactly, why.
        n_left_out: per magnification, how many tiles lie in no region.
    """

    region_um: float
    region_xy_um: Float64[np.ndarray, "region 2"]
    region: Mapping[float, Int32[np.ndarray, " _tile"]]
    center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]]
    row: Mapping[float, Int64[np.ndarray, " _tile"]]
    misalignment_um: Mapping[float, float]
    reasons: Mapping[float, str]
    n_left_out: Mapping[float, int]


def join_tiles(grids: Mapping[float, TileGrid], tiles_per_side: int, limit: float) -> JoinedTiles:
    """Lay regions on the lattice of the largest tiles and give every tile to the regions that hold its centre.

    A place of that lattice where only smaller tiles lie is a region too, as where a tool found too little tissue for
    the large one; but not where the largest tiles overlap or have a lattice in each piece of tissue, so that nobody
    knows on which of them it would be, nor of a magnification of whose tiles most lie elsewhere. Where the largest
    tiles overlap, so do regions, and a tile may belong to several.

    Args:
        grids: the tiles of each magnification.
        tiles_per_side: how many of the largest tiles a region has along a side.
        limit: how far a tile may lie from where it would nest, as a share of its side.

    Raises:
        MismatchError: a tile lies further away, or regions of several overlapping tiles are asked for.
    """
    largest = max(grids, key=lambda mpp: (grids[mpp].side_um, mpp))
    if tiles_per_side > 1 and grids[largest].overlaps:
        raise MismatchError(
            f"the tiles of {grids[largest].name} overlap, so regions of several of them cannot be laid side by side. "
            "Leave the side of a region out (--region-um): it is one of these tiles then."
        )
    side_um = grids[largest].side_um * tiles_per_side
    corners_um = _region_corners(grids[largest].xy_um, side_um, tiles_per_side)
    if not grids[largest].overlaps:
        others = [grid.xy_um + grid.side_um / 2 for mpp, grid in grids.items() if mpp != largest]
        corners_um = _with_empty_places(corners_um, others, side_um)
    placed = {mpp: _place(grids[mpp], corners_um, side_um) for mpp in sorted(grids, reverse=True)}
    for mpp, tiles in placed.items():
        grid, off_um = grids[mpp], tiles.misalignment_um
        if off_um > limit * grid.side_um:
            raise MismatchError(
                f"the magnifications do not nest: a tile of {grid.name} lies {off_um:.2f} um from its place in a "
                f"region, and the limit is {limit * grid.side_um:.2f} um ({limit:.0%} of its side); {tiles.reason}. "
                "Extract all magnifications on one grid, allow more (--max-misalignment), or embed the slide with "
                "parfocal."
            )
    return JoinedTiles(
        side_um,
        corners_um,
        {mpp: tiles.region for mpp, tiles in placed.items()},
        {mpp: tiles.center_um for mpp, tiles in placed.items()},
        {mpp: tiles.row for mpp, tiles in placed.items()},
        {mpp: tiles.misalignment_um for mpp, tiles in placed.items()},
        {mpp: tiles.reason for mpp, tiles in placed.items() if tiles.reason},
        {mpp: len(grids[mpp].xy_um) - len(np.unique(tiles.row)) for mpp, tiles in placed.items()},
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    region: Int32[np.ndarray, " tile"]
    center_um: Float32[np.ndarray, "tile 2"]
    row: Int64[np.ndarray, " tile"]
    misalignment_um: float
    reason: str


def _region_corners(
    xy_um: Float64[np.ndarray, "tile 2"], side_um: float, tiles_per_side: int
) -> Float64[np.ndarray, "region 2"]:
    """The top left of every region that holds a coarsest tile, row by row.

    Where a region is one coarsest tile, the tile's own place is taken, so that tiles need no common lattice.
    """
    if len(xy_um) == 0:
        return np.zeros((0, 2))
    if tiles_per_side == 1:
        return xy_um[np.lexsort((xy_um[:, 0], xy_um[:, 1]))]
    tile_um = side_um / tiles_per_side
    # The lattice starts at a whole number of tiles before the first one, as near to zero as it goes.
    origin = np.array([_offset(xy_um[:, axis], tile_um) for axis in (0, 1)])
    cells = np.unique(np.floor((xy_um + tile_um / 2 - origin) / side_um).astype(np.int64)[:, ::-1], axis=0)[:, ::-1]
    corners: Float64[np.ndarray, "region 2"] = cells * side_um + origin
    return corners


def _with_empty_places(
    corners_um: Float64[np.ndarray, "region 2"], centers_um: Sequence[Float64[np.ndarray, "_tile 2"]], side_um: float
) -> Float64[np.ndarray, "more 2"]:
    """The regions, and those places of their lattice that hold the centre of a tile; row by row."""
    if not len(corners_um):
        return corners_um
    origin = np.array([_offset(corners_um[:, axis], side_um) for axis in (0, 1)])
    cells = np.rint((corners_um - origin) / side_um)
    if np.abs(cells * side_um + origin - corners_um).max() > _ONE_LATTICE * side_um:
        return corners_um
    known = set(map(tuple, cells.tolist()))
    places = [np.floor((xy_um - origin) / side_um + _ON_THE_EDGE) for xy_um in centers_um]
    # Where few tiles lie under the largest ones they are of another slide, or those are not all there.
    belong = [np.mean([tuple(cell) in known for cell in cells.tolist()] or [False]) > _BELONG for cells in places]
    held = np.concatenate([cells, *(own for own, fits in zip(places, belong, strict=True) if fits)])
    # A slide begins at zero, so that no tool could have cut a large tile before it.
    held = np.unique(held[(held * side_um + origin > -side_um * _ONE_LATTICE).all(axis=1)], axis=0)
    added = [cell for cell in held.tolist() if tuple(cell) not in known]
    if not added:
        return corners_um
    every = np.concatenate([corners_um, np.array(added) * side_um + origin])
    return every[np.lexsort((every[:, 0], np.rint((every[:, 1] - origin[1]) / side_um)))]


def _offset(values: Float64[np.ndarray, " tile"], pitch: float) -> float:
    """Where a lattice of this pitch starts: the mean direction of the values on a circle of one pitch."""
    turn = np.exp(2j * np.pi * values / pitch).mean()
    offset = float(np.angle(turn)) / (2 * np.pi) * pitch
    # Rounding must not push the first column of tiles into a region of its own.
    return 0.0 if abs(offset) < 1e-6 * pitch else offset


def _wrapped(values: Float64[np.ndarray, "pair 2"], pitch: float) -> Float64[np.ndarray, "pair 2"]:
    """The distance of each from the nearest whole number of pitches."""
    return np.asarray(values - np.rint(values / pitch) * pitch)


def _place(grid: TileGrid, corners_um: Float64[np.ndarray, "region 2"], side_um: float) -> _Placed:
    centers_um = grid.xy_um + grid.side_um / 2
    region, row = _held(centers_um, corners_um + side_um / 2, side_um)
    if len(row) == 0:
        return _Placed(region, np.zeros((0, 2), np.float32), row, 0.0, "")
    offset_um = centers_um[row] - (corners_um[region] + side_um / 2)
    # Whole numbers of tiles and of steps fill a region, where they nearly do.
    exact_side_um, stride_um = _filling(grid.side_um, side_um), _filling(grid.stride_um, side_um)
    first_um = (stride_um + grid.side_um - grid.stride_um) / 2
    steps = (offset_um + side_um / 2 - first_um) / stride_um
    off_um = _wrapped(offset_um + side_um / 2 - first_um, stride_um)
    # Regions that overlap share tiles, which nest where they do in one of them.
    away_um, least_um = np.abs(off_um).max(axis=1), np.full(len(centers_um), np.inf)
    np.minimum.at(least_um, row, away_um)
    off_um = off_um[away_um == least_um[row]]
    misalignment_um = float(np.abs(off_um).max()) + abs(grid.side_um - exact_side_um) / 2
    # Region by region, and in each row by row.
    order = np.lexsort((np.rint(steps[:, 0]), np.rint(steps[:, 1]), region))
    return _Placed(
        region[order],
        offset_um[order].astype(np.float32),
        row[order],
        misalignment_um,
        _reason(grid, side_um, off_um, misalignment_um),
    )


def _held(
    centers_um: Float64[np.ndarray, "tile 2"], middles_um: Float64[np.ndarray, "region 2"], side_um: float
) -> tuple[Int32[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Each region with each tile whose centre it holds; of its edges the left and the upper one are its own."""
    if len(centers_um) == 0 or len(middles_um) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    reach_um = side_um / 2 * (1 + 2 * _ON_THE_EDGE)
    held = cKDTree(centers_um).query_ball_point(middles_um, reach_um, p=np.inf)
    region = np.repeat(np.arange(len(middles_um), dtype=np.int32), [len(rows) for rows in held])
    row = np.concatenate([np.asarray(rows, np.int64) for rows in held])
    offset_um, edge_um = centers_um[row] - middles_um[region], side_um * _ON_THE_EDGE
    inside = ((offset_um >= -side_um / 2 - edge_um) & (offset_um < side_um / 2 - edge_um)).all(axis=1)
    return region[inside], row[inside]


def _filling(length_um: float, side_um: float) -> float:
    """The length of which a whole number fills a region; itself where none nearly does."""
    times = max(1, round(side_um / length_um))
    return side_um / times if abs(side_um / times - length_um) <= _WHOLE * length_um else length_um


def _reason(grid: TileGrid, side_um: float, off_um: Float64[np.ndarray, "pair 2"], misalignment_um: float) -> str:
    """Why tiles do not nest, in words; empty where they do."""
    if misalignment_um <= _NESTS_UM:
        return ""
    reasons = []
    # A step further is on the grid again, so that what is off by half a step lies to either side.
    middle_um = np.array([[_offset(off_um[:, axis], grid.stride_um) for axis in (0, 1)]])
    shift_um = middle_um + np.median(_wrapped(off_um - middle_um, grid.stride_um), axis=0)
    apart_um = _wrapped(off_um - shift_um, grid.stride_um)
    (shift_um,) = _wrapped(shift_um, grid.stride_um)
    if np.abs(shift_um).max() > _NESTS_UM / 2:
        reasons.append(f"their grid starts {shift_um[0]:+.1f}, {shift_um[1]:+.1f} um from that of the regions")
    spread_um = float(np.abs(_wrapped(apart_um, grid.stride_um)).max())
    ratio = side_um / grid.stride_um
    if abs(ratio - round(ratio)) > _WHOLE:
        reasons.append(f"{ratio:.2f} of their steps of {grid.stride_um:.1f} um fill a region of {side_um:.1f} um")
    elif spread_um > _NESTS_UM:
        reasons.append(f"they lie up to {spread_um:.1f} um off it, as on grids of several origins or of another step")
    if grid.overlaps:
        reasons.append(f"they overlap by {1 - grid.stride_um / grid.side_um:.0%}")
    return " and ".join(reasons) or f"their side of {grid.side_um:.1f} um is no whole part of {side_um:.1f} um"
