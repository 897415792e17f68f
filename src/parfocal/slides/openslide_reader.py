"""Every scanner's own format, through OpenSlide."""

from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.reader import MAX_CACHE_BYTES, NotMineError, PixelReader, Window

__all__ = ["OpenSlideReader"]


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
            raise NotMineError(str(error).removeprefix(f"Reading {path}: ")) from error
        self._slide.set_cache(openslide.OpenSlideCache(MAX_CACHE_BYTES))
        properties = self._slide.properties
        self.format = properties.get(openslide.PROPERTY_NAME_VENDOR, "OpenSlide")
        self.level_sizes = tuple((int(width), int(height)) for width, height in self._slide.level_dimensions)
        x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
        y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
        # 25,400 is what OpenSlide makes of the 1 x 1 per inch that stands for "unknown".
        known = x is not None and y is not None and not (round(x) == round(y) == 25400)
        self.mpp_claim = MppClaim(x, y, "openslide.mpp-x") if known and x is not None and y is not None else None
        self.objective_power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Read the window and lay it on white; see PixelReader."""
        downsample = self._slide.level_downsamples[level]
        corner = (round(x * downsample), round(y * downsample))
        try:
            rgba = np.asarray(self._slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: a window of level {level} is broken ({error}). "
                "Copy the file again or leave the slide out."
            ) from error
        return Window(on_white(rgba))

    def close(self) -> None:
        """Close the file; see PixelReader."""
        self._slide.close()


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
