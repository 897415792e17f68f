"""Step 3 of the path: from a slide and its plan to RGB tiles, every magnification in one pass.

A region's level-0 window is decoded once. The finest magnification is cut from it and the coarser ones are area
averages of the same pixels, so that the tiles of a region show exactly the same tissue. A tile that the file has no
pixels for is absent: nothing stands for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from parfocal.errors import UnreadableSlideError
from parfocal.geometry import Box, whole_ratio
from parfocal.regions.plan import RegionPlan
from parfocal.regions.raster import CONTRADICTION
from parfocal.slides import Gap, Slide, read_tile, resample, tile_window

__all__ = ["AbsentTile", "RegionTiles", "iter_tiles", "read_region", "read_tile"]

Coarse = Literal["derived", "native"]

# A place without data is a hole in the tissue from a quarter of tissue on: at the border of what was scanned the mask
# reaches a raster pixel or two too far, which is a tenth to a fifth of a file's tile.
_TISSUE_OF_HOLE = 0.25
# The fields of some scanners leave lines of a few pixels between them.
_SEAM_UM = 16.0
# A level of its own is compared with level 0 by the means of squares of so many of its pixels.
_SQUARE_PX = 56


@dataclass(frozen=True)
class AbsentTile:
    """A planned tile that the file has no pixels for.

    Attributes:
        number: its place among the tiles of its magnification that are read with its region.
        reason: why, as a clause.
    """

    number: int
    reason: str


@dataclass(frozen=True, eq=False)
class RegionTiles:
    """The planned tiles that are read with one region, coarse to fine, each magnification in slot order (row by row).

    Attributes:
        region: the region's number.
        tiles: the tiles that are there.
        absent: the planned tiles that are not, by magnification, in slot order; no key where there is none.
    """

    region: int
    tiles: Mapping[float, UInt8[np.ndarray, "_tile _y _x 3"]]
    absent: Mapping[float, tuple[AbsentTile, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Raster:
    """A picture of a region, and what is known of the window of the slide that it was made of.

    Attributes:
        pixels: the picture; a square, but for the window itself.
        shape: rows and columns of the window.
        gaps: what the file does not give, counted from the window's corner; a gap may reach beyond the window.
        reach: how many pixels of the window beyond a tile's own have a say in it.
    """

    pixels: UInt8[np.ndarray, "_y _x 3"]
    shape: tuple[int, int]
    gaps: tuple[Gap, ...]
    reach: int


def iter_tiles(slide: Slide, plan: RegionPlan, *, coarse: Coarse = "derived", start: int = 0) -> Iterator[RegionTiles]:
    """Read the planned tiles of a slide, each once, region by region in the plan's order.

    A tile is absent where data that cannot be decoded have a part in it. Where the file has no data (which is how
    sparse files say "nothing was scanned"), it is absent when that is a hole in the tissue, or when as much tissue is
    without data as makes a tile worth keeping; glass that was not scanned, and seams between the fields of a scanner,
    are white. What lies beside the planned tiles does not matter, broken or not.

    Args:
        slide: the open slide that the plan was made for.
        plan: what to read.
        coarse: where the coarser magnifications come from: `derived` averages the pixels of the finest one, `native`
            reads the slide's own coarser levels, which cost a third more decoding, differ by a few grey levels, and are
            compared with what the finest one shows at the same places.
        start: number of the first region to read, to go on after a stop.

    Raises:
        UnreadableSlideError: the file cannot be read any more at all, or a level of its own shows something else than
            level 0; a note says in which region.
        ClosedSlideError: the slide has been closed.
    """
    if slide.mpp != plan.slide_mpp:
        raise ValueError(f"the plan was made for {plan.slide_mpp:g} mpp, {slide.name} has {slide.mpp:g}; plan it again")
    read, nothing = plan.read or plan.kept, np.zeros((0, plan.grid.tile_px, plan.grid.tile_px, 3), np.uint8)
    for region in range(start, plan.n_regions):
        is_centred = any(tiles[region] for tiles in plan.centred.values())
        if not is_centred and not any(tiles[region].any() for tiles in read.values()):
            yield RegionTiles(region, dict.fromkeys(plan.grid.mpps, nothing))
            continue
        try:
            rasters = _read(slide, plan, region, coarse, needed=read)
        except UnreadableSlideError as error:
            error.add_note(f"while reading {_place(slide, plan, region)}")
            raise
        tiles, absent = {}, {}
        for mpp in plan.grid.mpps:
            if mpp not in rasters:
                tiles[mpp] = nothing
                continue
            kept, raster = read[mpp][region], rasters[mpp]
            if raster.gaps and kept.any():
                missing = _missing(plan, region, raster, kept)
                if missing:
                    numbers = np.cumsum(kept).reshape(kept.shape) - 1
                    absent[mpp] = tuple(AbsentTile(int(numbers[slot]), why) for slot, why in sorted(missing.items()))
                    kept = kept.copy()
                    kept[tuple(zip(*missing, strict=True))] = False
            tiles[mpp] = _cut(raster.pixels, kept)
            if mpp in plan.centred and plan.centred[mpp][region]:
                # It reaches over half of each of four slots: of a lattice of halves it is the middle four.
                side = len(kept)
                halves = np.zeros((2 * side, 2 * side), dtype=bool)
                halves[side - 1 : side + 1, side - 1 : side + 1] = True
                missing = _missing(plan, region, raster, halves) if raster.gaps else {}
                if missing:
                    number = int(plan.kept[mpp][region].sum())
                    absent[mpp] = (*absent.get(mpp, ()), AbsentTile(number, missing[min(missing)]))
                else:
                    first = (side - 1) * plan.grid.tile_px // 2
                    middle = slice(first, first + plan.grid.tile_px)
                    tiles[mpp] = np.concatenate([tiles[mpp], raster.pixels[None, middle, middle]])
        yield RegionTiles(region, tiles, absent)


def read_region(
    slide: Slide, plan: RegionPlan, region: int, *, coarse: Coarse = "derived"
) -> dict[float, UInt8[np.ndarray, "_y _x 3"]]:
    """Read one region whole, as one square picture per magnification; arguments as in `iter_tiles`.

    Raises:
        UnreadableSlideError: a part of it cannot be decoded, or a level of its own shows something else than level 0.
        ClosedSlideError: the slide has been closed.
    """
    rasters = _read(slide, plan, region, coarse)
    for raster in rasters.values():
        for gap in raster.gaps:
            if gap.is_broken:
                raise UnreadableSlideError(
                    f"cannot read {_place(slide, plan, region)}: {gap.reason}. Copy the file again or leave it out."
                )
    return {mpp: raster.pixels for mpp, raster in rasters.items()}


def _read(
    slide: Slide,
    plan: RegionPlan,
    region: int,
    coarse: Coarse,
    *,
    needed: Mapping[float, Bool[np.ndarray, "region _row _col"]] | None = None,
) -> dict[float, _Raster]:
    """The picture of a region at every magnification; where levels of its own are read, at those that are needed."""
    grid = plan.grid
    x_um, y_um = plan.region_xy_um()[region].tolist()
    footprint = Box(x_um, y_um, grid.region_um, grid.region_um)
    if coarse == "native" and needed is not None and not needed[min(grid.mpps)][region].any() and not plan.centred:
        places = {mpp: tile_window(slide, footprint, mpp=mpp) for mpp in grid.mpps if needed[mpp][region].any()}
        windows = {place: _window(slide, *place) for place in set(places.values())}
        return {mpp: _resized(windows[place], grid.tiles_per_side(mpp) * grid.tile_px) for mpp, place in places.items()}
    left, top, right, bottom = plan.window_l0px(region)
    window = _window(slide, 0, (left, top, right - left, bottom - top))
    sides = {mpp: grid.tiles_per_side(mpp) * grid.tile_px for mpp in grid.mpps}
    finest = min(grid.mpps)
    rasters = {finest: _resized(window, sides[finest])}
    # From fine to coarse: halving twice costs a quarter of averaging 4 x 4, and differs by a grey level at most.
    for mpp in sorted(grid.mpps)[1:]:
        source = _average_from(rasters, window, mpp, enlarged=finest < slide.mpp)
        if coarse == "native":
            level, place = tile_window(slide, footprint, mpp=mpp)
            own = _window(slide, level, place)
            if level > 0 and not own.gaps and not window.gaps:
                _check_same(slide, level, own, window, max(sides[mpp] // _SQUARE_PX, 1))
            source = own
        rasters[mpp] = _resized(source, sides[mpp])
    return rasters


def _check_same(slide: Slide, level: int, own: _Raster, window: _Raster, side: int) -> None:
    """Refuse a level that shows something else than level 0 does in the same region."""
    means = [cv2.resize(raster.pixels, (side, side), interpolation=cv2.INTER_AREA) for raster in (own, window)]
    off = np.abs(means[0].astype(int) - means[1]).max(axis=2)
    if off.max() > CONTRADICTION:
        raise UnreadableSlideError(
            f"cannot read level {level} of {slide.name}: it shows something else than level 0 (the means of a place "
            f"differ by {off.max()} grey levels). Read level 0 alone with --coarse derived (coarse='derived'), or have "
            "the file converted again."
        )


def _window(slide: Slide, level: int, place: tuple[int, int, int, int]) -> _Raster:
    """A window of a level as it is."""
    x, y, width, height = place
    window = slide.read_window(level, x, y, width, height)
    gaps = tuple(replace(gap, x=gap.x - x, y=gap.y - y) for gap in window.gaps)
    return _Raster(window.pixels, (height, width), gaps, 0)


def _resized(source: _Raster, side: int) -> _Raster:
    """The same as a square of `side` pixels."""
    # Averages of areas stay inside a tile's own pixels; interpolation, where it grows, looks at the neighbours too.
    grows = min(source.pixels.shape[:2]) < side
    return replace(source, pixels=resample(source.pixels, side, side), reach=source.reach + grows)


def _missing(
    plan: RegionPlan, region: int, raster: _Raster, kept: Bool[np.ndarray, "row col"]
) -> dict[tuple[int, int], str]:
    """The kept slots that are absent, and why."""
    missing: dict[tuple[int, int], str] = {}
    unscanned: list[tuple[tuple[int, int], Gap]] = []
    for gap in raster.gaps:
        for row, column in np.argwhere(kept & _touched(raster, gap, len(kept))).tolist():
            if gap.is_broken:
                missing.setdefault((row, column), gap.reason)
            else:
                unscanned.append(((row, column), gap))
    unscanned = [(slot, gap) for slot, gap in unscanned if slot not in missing]
    if unscanned:
        areas, shares = _overlaps(plan, region, raster, len(kept), unscanned)
        tissue = np.zeros(kept.shape)
        np.add.at(tissue, tuple(np.array([slot for slot, _ in unscanned]).T), areas * shares)
        # With `min_tissue=0` glass is planned too, and on glass nothing is missing.
        enough = max(plan.grid.min_tissue - 1e-9, 1e-9)
        um_per_px = plan.grid.region_um / raster.shape[1]
        for (slot, gap), share in zip(unscanned, shares.tolist(), strict=True):
            is_hole = min(gap.width, gap.height) * um_per_px >= _SEAM_UM and share >= _TISSUE_OF_HOLE
            if is_hole or tissue[slot] >= enough:
                missing.setdefault(slot, gap.reason)
    return missing


def _touched(raster: _Raster, gap: Gap, side: int) -> Bool[np.ndarray, "row col"]:
    """The slots of a region that have a pixel of the gap among those that they are made of."""
    touched = []
    for length, start, size in ((raster.shape[0], gap.y, gap.height), (raster.shape[1], gap.x, gap.width)):
        slot = np.arange(side)
        first, beyond = slot * length // side - raster.reach, -(-(slot + 1) * length // side) + raster.reach
        touched.append((first < start + size) & (beyond > start))
    return np.asarray(touched[0][:, None] & touched[1][None, :])


def _overlaps(
    plan: RegionPlan, region: int, raster: _Raster, side: int, pairs: Sequence[tuple[tuple[int, int], Gap]]
) -> tuple[Float[np.ndarray, "pair"], Float[np.ndarray, "pair"]]:
    """Where slots and gaps overlap: the area as a share of the slot, and the share of that area that is tissue."""
    boxes = np.array([(gap.x, gap.y, gap.x + gap.width, gap.y + gap.height) for _, gap in pairs], np.float64)
    corner = np.array([(column, row) for (row, column), _ in pairs], np.float64)
    height, width = raster.shape
    # In parts of the region's side, where the slots' edges are exact.
    boxes /= np.array([width, height, width, height])
    low, high = np.maximum(boxes[:, :2], corner / side), np.minimum(boxes[:, 2:], (corner + 1) / side)
    sizes = np.clip(high - low, 0, None)
    some = (sizes > 0).all(axis=1)
    tissue = np.zeros(len(pairs))
    if some.any():
        edges = np.concatenate([low, high], axis=1)[some] * plan.grid.region_um
        edges += np.tile(plan.region_xy_um()[region], 2)
        # Where the tissue ends and the scan with it, the border of the raster must not make a hole of the glass beyond.
        tissue[some] = plan.tissue.core.shares(edges)
    return sizes.prod(axis=1) * side**2, tissue


def _place(slide: Slide, plan: RegionPlan, region: int) -> str:
    if plan.centred:
        x, y = (plan.region_xy_um()[region] + plan.grid.region_um / 2).tolist()
        return f"the region around {x:.0f}, {y:.0f} um of {slide.name}"
    column, row = plan.lattice[region].tolist()
    return f"region {region} (column {column:g}, row {row:g}) of {slide.name}"


def _average_from(rasters: Mapping[float, _Raster], window: _Raster, mpp: float, *, enlarged: bool) -> _Raster:
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
