"""What a file format has to offer to become a slide."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from parfocal.slides.calibration import MppClaim

__all__ = ["MAX_CACHE_BYTES", "Gap", "NotMineError", "PixelReader", "Window", "one_line"]

# Of decoded tiles, per open slide. 64 MiB hold what a band of sixteen regions shares with the next row.
MAX_CACHE_BYTES = 64 << 20


class NotMineError(Exception):
    """This reader does not take the file; the text says why. Another one may."""


@dataclass(frozen=True)
class Gap:
    """A rectangle of a level whose pixels the file does not give; in the level's own pixels.

    Attributes:
        x: left edge.
        y: upper edge.
        width: width.
        height: height.
        reason: why, as a clause: `tile 12 of level 0 is broken (...)`.
        is_broken: the file has bytes and they cannot be decoded; False where it has none, which is how sparse files say
            "nothing was scanned here".
    """

    x: int
    y: int
    width: int
    height: int
    reason: str
    is_broken: bool


@dataclass(frozen=True, eq=False)
class Window:
    """Pixels of a level, white where the file gives none, and where that is."""

    pixels: UInt8[np.ndarray, "y x 3"]
    gaps: tuple[Gap, ...] = ()


class PixelReader(ABC):
    """One open file of one format: the sizes of its levels, what it says of itself, and its pixels.

    A reader belongs to the process that opened it; it may be used from several threads.
    """

    path: Path
    format: str
    """A word or two for people: `aperio`, `tiled TIFF`, `picture`."""
    level_sizes: tuple[tuple[int, int], ...]
    """Width and height of each level in pixels, level 0 first; without what fills up its tiles."""
    level_downsamples: tuple[float, ...] = ()
    """How many level-0 pixels a pixel of each level has, along either side; empty where the sizes alone say it."""
    scan: int = 0
    """Which scan of the file this is."""
    scan_sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each scan of the file, in its order; empty where it holds one."""
    notes: tuple[str, ...] = ()
    """What of the file is left out, as clauses."""
    mpp_claim: MppClaim | None
    objective_power: float | None

    @abstractmethod
    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Pixels of a window that lies wholly inside the level, in the level's own pixels.

        What cannot be decoded is a gap and no error: the rest of the window, and of the slide, is good.

        Raises:
            UnreadableSlideError: the file cannot be read any more at all.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the file back; a second call does nothing."""


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
