"""Tiles of several runs become regions: which tile lies in which, and how far the grids are from nesting."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy.spatial import cKDTree

from parfocal.errors import MismatchError
from parfocal.store.formats.format import FeatureFile


@dataclass(frozen=True, eq=False)
class JoinedTiles:
    """The tiles of one slide by region; all lengths are the slide's true micrometres.

    Attributes:
        region_um: side of a region.
        region_xy_um: top left of each region.
        region: per magnification, the region's number of each tile that has one.
        center_um: per magnification, its centre about the region's centre.
        row: per magnification, which row of the features file it is.
        misalignment_um: the largest distance of a tile from the place where it would nest exactly.
        n_left_out: per magnification, how many tiles lie in no region.
    """

    region_um: float
    region_xy_um: Float64[np.ndarray, "region 2"]
    region: Mapping[float, Int32[np.ndarray, " _tile"]]
    center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]]
    row: Mapping[float, Int64[np.ndarray, " _tile"]]
    misalignment_um: float
    n_left_out: Mapping[float, int]


def join_tiles(files: Mapping[float, FeatureFile], slide_mpp: float, tiles_per_side: int, limit: float) -> JoinedTiles:
    """Lay regions on the lattice of the coarsest tiles and give every tile to the region that holds its centre.

    Args:
        files: the tiles of each magnification.
        slide_mpp: micrometres per level-0 pixel, the slide's true value.
        tiles_per_side: how many coarsest tiles a region has along a side.
        limit: how far a tile may lie from where it would nest, as a share of the finest tile's side.

    Raises:
        MismatchError: the grids do not nest, or two tiles lie in one place.
    """
    coarsest = max(files)
    side_um = files[coarsest].tile_l0px * slide_mpp * tiles_per_side
    corners_um = _region_corners(files[coarsest].xy_l0px * slide_mpp, side_um, tiles_per_side)
    placed = {mpp: _place(files[mpp], slide_mpp, corners_um, side_um) for mpp in sorted(files, reverse=True)}
    worst = max(placed, key=lambda mpp: placed[mpp].misalignment_um)
    misalignment_um = placed[worst].misalignment_um
    finest_um = min(file.tile_l0px for file in files.values()) * slide_mpp
    if misalignment_um > limit * finest_um:
        raise MismatchError(
            f"the magnifications do not nest: a tile of {files[worst].path} lies {misalignment_um:.2f} um from its "
            f"place in a region, and the limit is {limit * finest_um:.2f} um ({limit:.0%} of a finest tile). "
            "Extract all magnifications on one grid, or embed the slide with parfocal."
        )
    for mpp, tiles in placed.items():
        if tiles.doubled:
            raise MismatchError(f"cannot use {files[mpp].path}: {tiles.doubled} tiles lie where another one does.")
    return JoinedTiles(
        side_um,
        corners_um,
        {mpp: tiles.region for mpp, tiles in placed.items()},
        {mpp: tiles.center_um for mpp, tiles in placed.items()},
        {mpp: tiles.row for mpp, tiles in placed.items()},
        misalignment_um,
        {mpp: len(files[mpp].xy_l0px) - len(tiles.row) for mpp, tiles in placed.items()},
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    region: Int32[np.ndarray, " tile"]
    center_um: Float32[np.ndarray, "tile 2"]
    row: Int64[np.ndarray, " tile"]
    misalignment_um: float
    doubled: int


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


def _offset(values: Float64[np.ndarray, " tile"], pitch: float) -> float:
    """Where a lattice of this pitch starts: the mean direction of the values on a circle of one pitch."""
    turn = np.exp(2j * np.pi * values / pitch).mean()
    offset = float(np.angle(turn)) / (2 * np.pi) * pitch
    # Rounding must not push the first column of tiles into a region of its own.
    return 0.0 if abs(offset) < 1e-6 * pitch else offset


def _place(file: FeatureFile, slide_mpp: float, corners_um: Float64[np.ndarray, "region 2"], side_um: float) -> _Placed:
    tile_um = file.tile_l0px * slide_mpp
    centers_um = file.xy_l0px * slide_mpp + tile_um / 2
    if len(corners_um) == 0 or len(centers_um) == 0:
        return _Placed(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 0.0, 0)
    nearest = cKDTree(corners_um + side_um / 2).query(centers_um, p=np.inf)[1]
    offset_um = centers_um - (corners_um[nearest] + side_um / 2)
    row = np.flatnonzero(np.abs(offset_um).max(axis=1) < side_um / 2)
    region, offset_um = nearest[row], offset_um[row]
    if len(row) == 0:
        return _Placed(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), row, 0.0, 0)
    # The slot whose exact place is nearest; the size of a tile may be off as well, which moves its edges.
    per_side = max(1, round(side_um / tile_um))
    pitch_um = side_um / per_side
    slot = np.clip(np.floor((offset_um + side_um / 2) / pitch_um), 0, per_side - 1)
    exact_um = (slot + 0.5) * pitch_um - side_um / 2
    misalignment_um = float(np.abs(offset_um - exact_um).max()) + abs(tile_um - pitch_um) / 2
    order = np.lexsort((slot[:, 0], slot[:, 1], region))
    keys = np.column_stack([region, slot])[order]
    doubled = int(np.count_nonzero((np.diff(keys, axis=0) == 0).all(axis=1)))
    return _Placed(
        region[order].astype(np.int32),
        offset_um[order].astype(np.float32),
        row[order].astype(np.int64),
        misalignment_um,
        doubled,
    )
