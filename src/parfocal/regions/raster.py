"""The whole slide as a small picture, made of one level that level 0 does not contradict."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from parfocal.errors import ParfocalWarning, UnreadableSlideError
from parfocal.regions.colours import weakest
from parfocal.slides import Gap, Slide, resample

# About one raster pixel per nucleus: fine enough for the share of a 112 um tile (14 x 14 pixels).
_RASTER_MPP = 8.0
# The raster is bounded, so that memory does not grow with the slide: beyond 16 mm its pixels become larger.
_MAX_RASTER_SIDE = 2048
# A picture of a few hundred pixels has finer raster pixels: of seven by seven nobody can tell what is glass.
_MIN_RASTER_SIDE = 64
# Pixels of a level that are read at once to make the raster, along each side.
_BLOCK_PX = 2048
# Windows of level 0 that a coarser level is compared with: so many places, each so large. Larger ones would cross more
# of the file's tiles, and each tile costs as much as one of the slide's later.
_PLACES = 64
_PLACES_OF_NOTHING = 1024
_PLACE_PX = 96
CONTRADICTION = 16.0
"""Grey levels from which the means of one place in two levels contradict each other.

They differ by 2 or 3 (JPEG, another filter, a shift by a pixel or two); glass and tissue by 20 and more.
"""


@dataclass(frozen=True, eq=False)
class Raster:
    """The slide as a small picture, its first pixel at the top left of level 0."""

    pixels: UInt8[np.ndarray, "y x 3"]
    """RGB. The last row and column may reach over the slide's edge; they show what lies inside it."""
    downsample: float
    """How many level-0 pixels one of its pixels has along each side."""
    level: int
    """The level that it was made of."""
    unknown: Bool[np.ndarray, "y x"]
    """What could not be decoded at any level, and was filled from its neighbours."""


def read_raster(slide: Slide, *, again_after: Raster | None = None) -> Raster:
    """The slide at about 8 microns per pixel, from its coarsest level that is sharp enough and says what level 0 says.

    A level that shows something else than level 0 at some of a few dozen places is not believed: the next finer one
    is asked, level 0 at last. Tiles of a level that cannot be decoded are taken from the next finer level; what level
    0 does not give either is filled from its neighbours.

    Args:
        slide: an open slide.
        again_after: a raster that shows nothing. The next finer level is read then, unless that is level 0, and
            compared with level 0 at many more places.

    Raises:
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: nothing of it can be decoded.
    """
    longest, shortest = max(slide.width_px, slide.height_px), min(slide.width_px, slide.height_px)
    wanted = max(min(_RASTER_MPP / slide.mpp, shortest / _MIN_RASTER_SIDE), longest / _MAX_RASTER_SIDE, 1.0)
    sharp = [n for n, level in enumerate(slide.levels) if level.downsample <= wanted and n > 0]
    sharp.sort(key=lambda n: -slide.levels[n].downsample)
    n_places = _PLACES
    if again_after is not None:
        sharp = sharp[sharp.index(again_after.level) :]
        sharp = sharp[1:] or sharp
        n_places = _PLACES_OF_NOTHING
    for number in sharp:
        raster = _read_from(slide, number, wanted)
        places = _contradictions(slide, raster, n_places)
        if not places:
            return raster
        x, y = places[0]
        warnings.warn(
            f"{slide.name}: level {number} shows something else than level 0 at {len(places)} places (one is at "
            f"{x}, {y} px), so one of the two is wrong. Level 0 is believed: tissue is looked for on a finer level. "
            "Look at the picture in the folder qc, and have the file converted again.",
            ParfocalWarning,
            stacklevel=2,
        )
    return _read_from(slide, 0, wanted)


def _read_from(slide: Slide, number: int, wanted: float) -> Raster:
    """The raster made of one level."""
    level = slide.levels[number]
    # A whole number of the level's pixels each: exact averages, and four times as fast as a fraction.
    factor = max(round(wanted / level.downsample), 1)
    if max(slide.width_px, slide.height_px) > _MAX_RASTER_SIDE * factor * level.downsample:
        factor += 1
    downsample = factor * level.downsample
    # A level may be padded beyond the slide.
    width, height = (max(int(np.ceil(px / downsample - 1e-6)), 1) for px in (slide.width_px, slide.height_px))
    pixels = np.empty((height, width, 3), np.uint8)
    unknown = np.zeros((height, width), bool)
    for left, top, columns, rows in _blocks(width, height, max(_BLOCK_PX // factor, 1)):
        within = np.s_[top : top + rows, left : left + columns]
        pixels[within], gaps = _read_cells(slide, number, factor, left, top, columns, rows)
        for gap in gaps:
            _fill_gap(slide, number, factor, gap, pixels, unknown)
    if unknown.all():
        raise UnreadableSlideError(
            f"cannot read {slide.name}: none of its tiles can be decoded. Copy the file again or leave the slide out."
        )
    if unknown.any():
        nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
        pixels[unknown] = pixels[tuple(index[unknown] for index in nearest)]
    return Raster(pixels, downsample, number, unknown)


def _blocks(width: int, height: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, columns and rows of the pieces of a raster."""
    # Bands of four blocks, for the reason that regions come in bands: few tiles stay decoded for the next row.
    for band in range(0, width, 4 * step):
        for top in range(0, height, step):
            for left in range(band, min(band + 4 * step, width), step):
                yield left, top, min(step, width - left), min(step, height - top)


def _read_cells(
    slide: Slide, number: int, factor: int, left: int, top: int, columns: int, rows: int
) -> tuple[UInt8[np.ndarray, "row column 3"], tuple[Gap, ...]]:
    """Raster pixels from so many of a level's pixels each, and the places that could not be decoded."""
    level = slide.levels[number]
    x, y, width, height = (value * factor for value in (left, top, columns, rows))
    inside = max(min(width, level.width_px - x), 1), max(min(height, level.height_px - y), 1)
    window = slide.read_window(number, x, y, *inside)
    block = window.pixels
    if any(not gap.is_broken and _covers(gap, x, y, *inside) for gap in window.gaps):
        return np.full((rows, columns, 3), 255, np.uint8), ()  # nothing was scanned here, of which some slides are full
    if inside != (width, height):
        # White beyond the edge would make the last row and column paler than what they show.
        missing = height - inside[1], width - inside[0]
        block = np.asarray(cv2.copyMakeBorder(block, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE))
    return resample(block, columns, rows), tuple(gap for gap in window.gaps if gap.is_broken)


def _covers(gap: Gap, x: int, y: int, width: int, height: int) -> bool:
    right, bottom = gap.x + gap.width, gap.y + gap.height
    return gap.x <= x and gap.y <= y and x + width <= right and y + height <= bottom


def _fill_gap(
    slide: Slide,
    number: int,
    factor: int,
    gap: Gap,
    pixels: UInt8[np.ndarray, "y x 3"],
    unknown: Bool[np.ndarray, "y x"],
) -> None:
    """Fill the raster's pixels that a gap of a level touches from the finer levels, or mark them as unknown."""
    height, width = unknown.shape
    left, top = min(max(gap.x // factor, 0), width), min(max(gap.y // factor, 0), height)
    right, bottom = min(-(-(gap.x + gap.width) // factor), width), min(-(-(gap.y + gap.height) // factor), height)
    if left >= right or top >= bottom:
        return
    within = np.s_[top:bottom, left:right]
    finer = max((n for n in range(number)), key=lambda n: slide.levels[n].downsample, default=None)
    if finer is None:
        unknown[within] = True
        return
    scale = factor * slide.levels[number].downsample / slide.levels[finer].downsample
    finer_factor = max(round(scale), 1)
    if abs(scale - finer_factor) > 1e-3 * scale:
        unknown[within] = True  # levels that are no whole number apart: the neighbours have to do
        return
    # Only what lies on the finer level; its own gaps go down one level more.
    pixels[within], gaps = _read_cells(slide, finer, finer_factor, left, top, right - left, bottom - top)
    for inner in gaps:
        _fill_gap(slide, finer, finer_factor, inner, pixels, unknown)


def _contradictions(slide: Slide, raster: Raster, n_places: int = _PLACES) -> list[tuple[int, int]]:
    """The places, in level-0 pixels, at which level 0 shows something else than the raster.

    A quarter of the places lie where the raster varies most, which finds a level of another picture; the others are
    spread evenly, which finds one that is blank where level 0 is not. Places at which neighbours of the raster differ
    much may be off by one raster pixel and are compared with all of their surroundings.
    """
    size = max(round(_PLACE_PX / raster.downsample), 1)
    found = []
    for row, column in _places(raster.pixels, size, n_places):
        x, y = round(column * raster.downsample), round(row * raster.downsample)
        side = round(size * raster.downsample)
        width, height = min(side, slide.width_px - x), min(side, slide.height_px - y)
        if width < 1 or height < 1:
            continue
        window = slide.read_window(0, x, y, width, height)
        if window.gaps:
            continue
        mean = np.array(cv2.mean(window.pixels)[:3])  # a hundred times as fast as numpy's
        around = raster.pixels[max(row - 1, 0) : row + size + 1, max(column - 1, 0) : column + size + 1]
        low, high = _range_of_means(around, size)
        if np.maximum(low - mean, mean - high).max() > CONTRADICTION:
            found.append((x, y))
    return found


def _places(pixels: UInt8[np.ndarray, "y x 3"], size: int, n_places: int) -> list[tuple[int, int]]:
    """Rows and columns of the places to compare; always the same ones for the same raster."""
    height, width = pixels.shape[:2]
    n_places = min(n_places, -(-height // size) * -(-width // size))  # of a small slide, as many as lie side by side
    rng = np.random.default_rng(0)
    # A grid with one place drawn in each of its cells: even, and in step with nothing.
    across = max(round(np.sqrt(n_places * width / height)), 1)
    down = max(-(-n_places // across), 1)
    row = ((np.repeat(np.arange(down), across) + rng.random(across * down)) * height / down).astype(int)
    column = ((np.tile(np.arange(across), down) + rng.random(across * down)) * width / across).astype(int)
    contrast = cv2.morphologyEx(weakest(pixels), cv2.MORPH_GRADIENT, np.ones((2 * size + 1, 2 * size + 1), np.uint8))
    varied = np.flatnonzero(contrast >= np.percentile(contrast, 95))
    extra = rng.choice(varied, min(n_places // 4, len(varied)), replace=False)
    places = [*zip(row.tolist(), column.tolist(), strict=True)]
    places += [(int(at) // width, int(at) % width) for at in extra]
    return sorted({(min(r, max(height - size, 0)), min(c, max(width - size, 0))) for r, c in places})


def _range_of_means(
    pixels: UInt8[np.ndarray, "y x 3"], size: int
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """The lowest and the highest mean of windows of the size in it, colour by colour."""
    size_y, size_x = min(size, pixels.shape[0]), min(size, pixels.shape[1])
    means = cv2.boxFilter(pixels, cv2.CV_32F, (size_x, size_y), borderType=cv2.BORDER_REPLICATE).reshape(-1, 3)
    return means.min(axis=0), means.max(axis=0)
