"""What a file format has to offer to become a slide."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from parfocal.slides.calibration import MppClaim

__all__ = ["MAX_CACHE_BYTES", "NotMineError", "PixelReader"]

# Of decoded tiles, per open slide. 64 MiB hold what a band of sixteen regions shares with the next row.
MAX_CACHE_BYTES = 64 << 20


class NotMineError(Exception):
    """This reader does not take the file; the text says why. Another one may."""


class PixelReader(ABC):
    """One open file of one format: the sizes of its levels, what it says of itself, and its pixels.

    A reader belongs to the process that opened it; it may be used from several threads.
    """

    path: Path
    format: str
    """A word or two for people: `aperio`, `tiled TIFF`, `picture`."""
    level_sizes: tuple[tuple[int, int], ...]
    """Width and height of each level in pixels, level 0 first."""
    mpp_claim: MppClaim | None
    objective_power: float | None

    @abstractmethod
    def read(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "y x 3"]:
        """Pixels of a window that lies wholly inside the level, in the level's own pixels.

        Raises:
            UnreadableSlideError: the file's data are broken there.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the file back; a second call does nothing."""
