"""Every scanner's own format, through OpenSlide."""

import threading
from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.dicom import dicom_spacings
from parfocal.slides.level_ratios import LevelShape, level_ratios, size_without_padding
from parfocal.slides.reader import (
    MAX_CACHE_BYTES,
    Missing,
    NotMineError,
    PixelReader,
    Window,
    join_gaps,
    missing_where_transparent,
    one_line,
)

# What is read at a time where a window is broken.
_BLOCK_PX = 256
_SIDES = ("width", "height")


class OpenSlideReader(PixelReader):
    """A file that OpenSlide opens; what it leaves transparent (never scanned) is white."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            NotMineError: OpenSlide does not open it.
        """
        self.path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise NotMineError(one_line(error).removeprefix(f"Reading {path}: ")) from error
        self._slide.set_cache(openslide.OpenSlideCache(MAX_CACHE_BYTES))
        self._lock = threading.Lock()
        properties = self._slide.properties
        self.format = properties.get(openslide.PROPERTY_NAME_VENDOR, "OpenSlide")
        self._find_levels()
        x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
        y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
        # 25,400 is what OpenSlide makes of the 1 x 1 per inch that stands for "unknown".
        known = x is not None and y is not None and not (round(x) == round(y) == 25400)
        self.mpp_claim = MppClaim(x, y, "openslide.mpp-x") if known and x is not None and y is not None else None
        self.objective_power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))

    def _find_levels(self) -> None:
        """Keep the levels whose place is known; OpenSlide's own ratios are often the mean of two that differ."""
        properties = self._slide.properties
        spacings = dicom_spacings(self.path) if self.format == "dicom" else {}
        finest = spacings.get(self._slide.dimensions)
        shapes = []
        for number, size in enumerate(self._slide.level_dimensions):
            across, down = (_number(properties.get(f"openslide.level[{number}].tile-{side}")) for side in _SIDES)
            spacing = spacings.get(size)
            stated = spacing / finest if spacing and finest else None
            shapes.append(LevelShape(int(size[0]), int(size[1]), int(across or 0), int(down or 0), stated))
        full = shapes[0]
        inferred = [1.0, *level_ratios(full, shapes[1:])]
        numbers, sizes, ratios, notes = [], [], [], []
        for number, (shape, ratio) in enumerate(zip(shapes, inferred, strict=True)):
            mean = (full.width / shape.width + full.height / shape.height) / 2
            own = float(self._slide.level_downsamples[number])
            # The format itself says it where it is not what the sizes come to.
            is_stated = abs(own - mean) > 1e-9 * mean
            ratio = own if is_stated else ratio
            if ratio is None:
                notes.append(
                    f"the level of {shape.width} x {shape.height} px is left out: no one ratio explains its width and "
                    f"height beside {full.width} x {full.height} px"
                )
                continue
            numbers.append(number)
            sizes.append((shape.width, shape.height) if is_stated else size_without_padding(full, shape, ratio))
            ratios.append(ratio)
        self._numbers = tuple(numbers)
        self.level_sizes, self.level_downsamples, self.notes = tuple(sizes), tuple(ratios), tuple(notes)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Read the window and lay it on white; see PixelReader."""
        try:
            return _window(self._read_region(level, x, y, width, height), level, x, y, [])
        except openslide.OpenSlideError:
            return self._read_in_blocks(level, x, y, width, height)

    def _read_in_blocks(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Read the window piece by piece, so that something broken costs its own place only."""
        rgba = np.zeros((height, width, 4), np.uint8)
        missing = []
        for row in range(y // _BLOCK_PX, (y + height - 1) // _BLOCK_PX + 1):
            for column in range(x // _BLOCK_PX, (x + width - 1) // _BLOCK_PX + 1):
                left, right = max(column * _BLOCK_PX, x), min((column + 1) * _BLOCK_PX, x + width)
                top, bottom = max(row * _BLOCK_PX, y), min((row + 1) * _BLOCK_PX, y + height)
                place = np.s_[top - y : bottom - y, left - x : right - x]
                try:
                    rgba[place] = self._read_region(level, left, top, right - left, bottom - top)
                except openslide.OpenSlideError as error:
                    # Opaque white, so that it is not taken for a place that was never scanned.
                    rgba[place] = 255
                    missing.append(Missing(left, top, right, bottom, f"the place at {left}, {top}", one_line(error)))
        return _window(rgba, level, x, y, missing)

    def _read_region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "y x 4"]:
        """Pixels of OpenSlide with their transparency; after an error its object is of no use and opened again."""
        slide, number = self._slide, self._numbers[level]
        # OpenSlide divides by its own ratio, right or wrong; times that ratio, this is the pixel that is meant.
        downsample = slide.level_downsamples[number]
        corner = (round(x * downsample), round(y * downsample))
        try:
            return np.asarray(slide.read_region(corner, number, (width, height)))
        except openslide.OpenSlideError:
            with self._lock:
                # Another thread may have done it. The old object closes when the last reader lets go of it.
                if self._slide is slide:
                    self._slide = self._open()
            raise

    def _open(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(str(self.path))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: it does not open any more ({one_line(error)})."
            ) from error
        slide.set_cache(openslide.OpenSlideCache(MAX_CACHE_BYTES))
        return slide

    def close(self) -> None:
        """Close the file; see PixelReader."""
        self._slide.close()


def _window(rgba: UInt8[np.ndarray, "y x 4"], level: int, x: int, y: int, missing: list[Missing]) -> Window:
    return Window(on_white(rgba), join_gaps(missing + missing_where_transparent(rgba[..., 3], x, y), level))


def on_white(rgba: UInt8[np.ndarray, "y x 4"]) -> UInt8[np.ndarray, "y x 3"]:
    """Lay pixels with transparency on white."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint16)
    return ((rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
