"""Pixels at any resolution: a footprint in micrometres becomes a tile, area-averaged."""

import warnings

import cv2
import numpy as np
from jaxtyping import UInt8

from parfocal.errors import ParfocalWarning, ResolutionError
from parfocal.geometry import Box, format_mpp
from parfocal.slides.slide import Slide

__all__ = ["MAX_ENLARGEMENT", "check_resolution", "read_tile", "resample", "tile_window"]

# Many 20x scans have 0.5015: asking them for 0.5 is one enlarged pixel in 330, which nothing downstream can see.
MAX_ENLARGEMENT = 1.05
# A coarser level serves where it is as sharp as asked, up to what the rounding of level sizes can do.
_SAME_SHARPNESS = 1.01


def read_tile(slide: Slide, footprint: Box, *, mpp: float) -> UInt8[np.ndarray, "y x 3"]:
    """Read one tile at exactly the asked resolution.

    Pixels come from the coarsest level that is still at least as sharp as `mpp` and are shrunk by area averaging.
    They are never enlarged by more than 5 %: a tile encoder would take the blur for tissue.

    Args:
        slide: an open slide with a trusted mpp.
        footprint: what to read, in microns from the top-left corner of level 0; may reach over the edge.
        mpp: microns per pixel of the result; at most 5 % finer than the slide.

    Returns:
        RGB, rows first, `round(height_um / mpp)` by `round(width_um / mpp)`; white outside the slide.

    Raises:
        ResolutionError: `mpp` is more than 5 % finer than level 0.
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: the file's data are broken there.
        ClosedSlideError: the slide has been closed.
    """
    check_resolution(slide, mpp)
    width, height = round(footprint.width / mpp), round(footprint.height / mpp)
    if width < 1 or height < 1:
        raise ValueError(f"a footprint of {footprint.width:g} x {footprint.height:g} um has no pixel at {mpp:g} mpp")
    level, place = tile_window(slide, footprint, mpp=mpp)
    return resample(slide.read_level(level, *place), width, height)


def tile_window(slide: Slide, footprint: Box, *, mpp: float) -> tuple[int, tuple[int, int, int, int]]:
    """The level that `read_tile` reads, and the x, y, width and height of the footprint in its pixels."""
    level = _level_for(slide, mpp)
    level_mpp = slide.mpp * slide.levels[level].downsample
    left, top = round(footprint.x / level_mpp), round(footprint.y / level_mpp)
    right, bottom = round(footprint.right / level_mpp), round(footprint.bottom / level_mpp)
    return level, (left, top, max(right - left, 1), max(bottom - top, 1))


def resample(pixels: UInt8[np.ndarray, "_y _x 3"], width: int, height: int) -> UInt8[np.ndarray, "y x 3"]:
    """Average areas down to `height` rows of `width` pixels; interpolate linearly where it has to grow."""
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    # cv2's INTER_AREA repeats pixels when it enlarges, so that edges would jump by one.
    method = cv2.INTER_AREA if rows >= height and columns >= width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)


def check_resolution(slide: Slide, mpp: float) -> None:
    """Refuse a magnification that the slide does not hold; warn of one that has to be enlarged a little.

    Raises:
        ResolutionError: `mpp` is more than 5 % finer than level 0.
    """
    if mpp * MAX_ENLARGEMENT < slide.mpp:
        raise ResolutionError(
            f"cannot read {slide.name} at {format_mpp(mpp)} mpp: its finest level has {slide.mpp:.4g} mpp. "
            f"Ask for {slide.mpp:.4g} mpp or coarser."
        )
    if mpp * (1 + 1e-6) < slide.mpp:
        warnings.warn(
            f"{slide.name}: {format_mpp(mpp)} mpp is {slide.mpp / mpp - 1:.1%} finer than its finest level "
            f"({slide.mpp:.4g}); its pixels are enlarged by that.",
            ParfocalWarning,
            stacklevel=3,
        )


def _level_for(slide: Slide, mpp: float) -> int:
    """The coarsest level that is at least as sharp as asked; level 0 where there is none."""
    sharp = [n for n, level in enumerate(slide.levels) if slide.mpp * level.downsample <= mpp * _SAME_SHARPNESS]
    return max(sharp, key=lambda number: slide.levels[number].downsample, default=0)
