"""Step 3 of the path: from a slide and its plan to RGB tiles, every magnification in one pass.

A region's level-0 window is decoded once. The finest magnification is cut from it and the coarser ones are area
averages of the same pixels, so that the tiles of a region show exactly the same tissue.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from parfocal.errors import UnreadableSlideError
from parfocal.geometry import Box, whole_ratio
from parfocal.regions import RegionPlan
from parfocal.slides import Slide, read_tile, resample

__all__ = ["RegionTiles", "iter_tiles", "read_region", "read_tile"]


@dataclass(frozen=True, eq=False)
class RegionTiles:
    """The kept tiles of one region, coarse to fine, each magnification in slot order (row by row)."""

    region: int
    tiles: Mapping[float, UInt8[np.ndarray, "_tile _y _x 3"]]


def iter_tiles(
    slide: Slide, plan: RegionPlan, *, coarse: Literal["derived", "native"] = "derived", start: int = 0
) -> Iterator[RegionTiles]:
    """Read the kept tiles of a slide, region by region in the plan's order.

    Args:
        slide: the open slide that the plan was made for.
        plan: what to read.
        coarse: where the coarser magnifications come from: `derived` averages the pixels of the finest one, `native`
            reads the slide's own coarser levels, which cost a third more decoding and differ by a few grey levels.
        start: number of the first region to read, to go on after a stop.

    Raises:
        UnreadableSlideError: the file's data are broken; a note says in which region.
        ClosedSlideError: the slide has been closed.
    """
    if slide.mpp != plan.slide_mpp:
        raise ValueError(f"the plan was made for {plan.slide_mpp:g} mpp, {slide.name} has {slide.mpp:g}; plan it again")
    for region in range(start, plan.n_regions):
        try:
            rasters = read_region(slide, plan, region, coarse=coarse)
        except UnreadableSlideError as error:
            column, row = plan.lattice[region].tolist()
            error.add_note(f"while reading region {region} (column {column}, row {row}) of {slide.name}")
            raise
        yield RegionTiles(region, {mpp: _cut(rasters[mpp], plan.kept[mpp][region]) for mpp in plan.grid.mpps})


def read_region(
    slide: Slide, plan: RegionPlan, region: int, *, coarse: Literal["derived", "native"] = "derived"
) -> dict[float, UInt8[np.ndarray, "_y _x 3"]]:
    """Read one region whole, as one square picture per magnification; arguments and errors as in `iter_tiles`."""
    grid = plan.grid
    left, top, right, bottom = plan.window_l0px(region)
    window = slide.read_level(0, left, top, right - left, bottom - top)
    sides = {mpp: grid.tiles_per_side(mpp) * grid.tile_px for mpp in grid.mpps}
    finest = min(grid.mpps)
    fine = resample(window, sides[finest], sides[finest])
    rasters = {finest: fine}
    x_um, y_um = plan.region_xy_um()[region].tolist()
    footprint = Box(x_um, y_um, grid.region_um, grid.region_um)
    # From fine to coarse: halving twice costs a quarter of averaging 4 x 4, and differs by a grey level at most.
    for mpp in sorted(grid.mpps)[1:]:
        if coarse == "native":
            rasters[mpp] = read_tile(slide, footprint, mpp=mpp)
        else:
            rasters[mpp] = resample(
                _average_from(rasters, window, mpp, enlarged=finest < slide.mpp), sides[mpp], sides[mpp]
            )
    return rasters


def _average_from(
    rasters: Mapping[float, UInt8[np.ndarray, "_y _x 3"]],
    window: UInt8[np.ndarray, "_y _x 3"],
    mpp: float,
    *,
    enlarged: bool,
) -> UInt8[np.ndarray, "_y _x 3"]:
    """The smallest picture of the region whose pixels go a whole number of times into the wanted ones.

    Where there is none, or the finest one was enlarged, the slide's own pixels are averaged.
    """
    whole = [] if enlarged else [finer for finer in rasters if (whole_ratio(mpp, finer) or 1) > 1]
    return rasters[max(whole)] if whole else window


def _cut(raster: UInt8[np.ndarray, "_y _x 3"], kept: Bool[np.ndarray, "row col"]) -> UInt8[np.ndarray, "_tile _h _w 3"]:
    """The kept tiles of a region's picture, row by row."""
    side = kept.shape[0]
    tile_px = raster.shape[0] // side
    slots = raster.reshape(side, tile_px, side, tile_px, 3).swapaxes(1, 2)
    return np.ascontiguousarray(slots[kept])
