"""An open slide: calibrated, and white beyond its edges.

Its pixels come at any resolution: a footprint in micrometres becomes a tile, area-averaged.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

import cv2
import numpy as np
from jaxtyping import UInt8

from parfocal.errors import (
    CalibrationError,
    ClosedSlideError,
    ParfocalWarning,
    ResolutionError,
    UnreadableSlideError,
)
from parfocal.geometry import Box, format_mpp
from parfocal.slides.calibration import Calibration
from parfocal.slides.level_ratios import ratios_of_sizes
from parfocal.slides.reader import PixelReader, Window, foreign_bytes

_REMEDY = "Copy the file again or leave the slide out."


@dataclass(frozen=True)
class Level:
    """One resolution that a slide holds: its size in its own pixels, and how many level-0 pixels one of them has."""

    width_px: int
    height_px: int
    downsample: float


@final
class Slide:
    """An open slide. Use it in a `with` statement, or call `close()`.

    It may be used from several threads. In a forked process it opens its file again by itself: two processes that
    share one file handle would move each other's place in the file.
    """

    def __init__(
        self,
        reader: PixelReader,
        open_reader: Callable[[], PixelReader],
        calibration: Calibration | CalibrationError,
        name: str,
    ) -> None:
        """Take over an open file.

        Args:
            reader: the file, opened in this process.
            open_reader: opens it again in another process.
            calibration: the resolution, or the reason why there is none.
            name: how messages call the slide.
        """
        self._open_reader = open_reader
        self._reader: PixelReader | None = reader
        self._pid = os.getpid()
        self._calibration = calibration
        self.name = name
        self.path: Path = reader.path
        self.format: str = reader.format
        self.objective_power: float | None = reader.objective_power
        downsamples = reader.level_downsamples or ratios_of_sizes(reader.level_sizes)
        self.levels: tuple[Level, ...] = tuple(
            Level(width, height, downsample)
            for (width, height), downsample in zip(reader.level_sizes, downsamples, strict=True)
        )
        self.n_scans: int = max(len(reader.scan_sizes), 1)
        self.scan: int = reader.scan

    @property
    def width_px(self) -> int:
        """The width of level 0, in pixels."""
        return self.levels[0].width_px

    @property
    def height_px(self) -> int:
        """The height of level 0, in pixels."""
        return self.levels[0].height_px

    @property
    def calibration(self) -> Calibration | None:
        """The resolution of level 0 and its source; None where it is not known."""
        return self._calibration if isinstance(self._calibration, Calibration) else None

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel.

        Raises:
            CalibrationError: it is not known; the text is the reason.
        """
        if isinstance(self._calibration, Calibration):
            return self._calibration.mpp
        raise CalibrationError(str(self._calibration))

    def read_level(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> UInt8[np.ndarray, "y x 3"]:
        """Read a window of one level as RGB; arguments as in `read_window`.

        Returns:
            `height_px` rows of `width_px` pixels; white outside the slide and where nothing was scanned.

        Raises:
            UnreadableSlideError: the file's data are broken there.
            ClosedSlideError: the slide has been closed.
        """
        window = self.read_window(level, x_px, y_px, width_px, height_px)
        broken = [gap for gap in window.gaps if gap.is_broken]
        if broken:
            raise UnreadableSlideError(f"cannot read {self.name}: {broken[0].reason}. {_REMEDY}")
        return window.pixels

    def read_window(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Window:
        """Read a window of one level as RGB, with the places that the file does not give.

        Args:
            level: number of the level, 0 is the finest.
            x_px: left edge, in pixels of that level; may lie outside.
            y_px: upper edge, in pixels of that level; may lie outside.
            width_px: width in pixels of that level.
            height_px: height in pixels of that level.

        Returns:
            `height_px` rows of `width_px` pixels, white outside the slide and in the gaps.

        Raises:
            UnreadableSlideError: the file cannot be read any more at all.
            ClosedSlideError: the slide has been closed.
        """
        if width_px <= 0 or height_px <= 0:
            raise ValueError(f"a window of {width_px} x {height_px} px has no pixels; both sides must be above 0")
        reader = self._reader_here()
        size = self.levels[level]
        left, top = max(x_px, 0), max(y_px, 0)
        right, bottom = min(x_px + width_px, size.width_px), min(y_px + height_px, size.height_px)
        if left >= right or top >= bottom:
            return Window(np.full((height_px, width_px, 3), 255, np.uint8))
        place = f"level {level} at {left}, {top}"
        with foreign_bytes(lambda why: UnreadableSlideError(f"cannot read {self.name}: {place} ({why}). {_REMEDY}")):
            inside = reader.read(level, left, top, right - left, bottom - top)
        if inside.pixels.shape[:2] == (height_px, width_px):
            return inside
        pixels = np.full((height_px, width_px, 3), 255, np.uint8)
        pixels[top - y_px : bottom - y_px, left - x_px : right - x_px] = inside.pixels
        return Window(pixels, inside.gaps)

    def close(self) -> None:
        """Close the file; reading afterwards is a ClosedSlideError."""
        if self._reader is not None and self._pid == os.getpid():
            self._reader.close()
        self._reader = None

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reader_here(self) -> PixelReader:
        if self._reader is None:
            raise ClosedSlideError(f"cannot read {self.name}: it has been closed. Open it again with open_slide.")
        if self._pid != os.getpid():
            fresh = self._open_reader()
            if fresh.level_sizes != self._reader.level_sizes:
                raise UnreadableSlideError(f"cannot read {self.name}: the file changed while it was open.")
            self._reader, self._pid = fresh, os.getpid()
        return self._reader


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
