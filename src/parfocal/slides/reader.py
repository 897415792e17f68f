"""What a file format has to offer to become a slide.

Places of a level that the file does not give are told in as few rectangles as possible.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from parfocal.errors import SlideError
from parfocal.slides.calibration import MppClaim

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


@contextmanager
def foreign_bytes(refusal: Callable[[str], Exception]) -> Iterator[None]:
    """Whatever a library raises on foreign bytes becomes the one error that `refusal` makes of its text.

    Libraries raise what they happen to there, so this is the place that takes every exception; ours pass.
    """
    try:
        yield
    except (SlideError, NotMineError):
        raise
    except Exception as error:
        raise refusal(one_line(error)) from error


@dataclass(frozen=True)
class Missing:
    """A rectangle without pixels, in pixels of its level, right and bottom excluded.

    Attributes:
        left: left edge.
        top: upper edge.
        right: right edge.
        bottom: lower edge.
        name: what it is in the file: `tile 12`.
        problem: why it cannot be decoded; None where the file has nothing for it.
        more: how many others have been joined to it.
    """

    left: int
    top: int
    right: int
    bottom: int
    name: str
    problem: str | None
    more: int = 0


def join_gaps(missing: Iterable[Missing], level: int) -> tuple[Gap, ...]:
    """Join neighbours of one kind, along rows first."""
    gaps = []
    for one in _joined(sorted(_joined(missing, "x"), key=lambda run: (run.top, run.left)), "y"):
        name = f"{one.name} of level {level}" + (f" and {one.more} beside it" if one.more else "")
        if one.problem is None:
            reason = f"{name} {'have' if one.more else 'has'} no pixels in the file"
        else:
            reason = f"{name} {'are' if one.more else 'is'} broken ({one.problem})"
        width, height = one.right - one.left, one.bottom - one.top
        gaps.append(Gap(one.left, one.top, width, height, reason, one.problem is not None))
    return tuple(gaps)


def _joined(missing: Iterable[Missing], along: Literal["x", "y"]) -> Iterator[Missing]:
    """Each rectangle with those that go on where it ends, between the same two sides; they come in that order."""
    open_ends: dict[tuple[int, int, bool], Missing] = {}
    for one in missing:
        sides, start = ((one.top, one.bottom), one.left) if along == "x" else ((one.left, one.right), one.top)
        key = (*sides, one.problem is None)
        before = open_ends.get(key)
        if before is not None and start == (before.right if along == "x" else before.bottom):
            one = replace(before, right=one.right, bottom=one.bottom, more=before.more + 1 + one.more)
        elif before is not None:
            yield before
        open_ends[key] = one
    yield from open_ends.values()


def missing_where_transparent(alpha: UInt8[np.ndarray, "y x"], left: int, top: int) -> list[Missing]:
    """The wholly transparent parts of a window whose corner is at (left, top)."""
    is_empty = alpha == 0
    if not is_empty.any():
        return []
    height, _width = alpha.shape
    bands = [0, *(np.flatnonzero((is_empty[1:] != is_empty[:-1]).any(axis=1)) + 1).tolist(), height]
    found = []
    for upper, lower in itertools.pairwise(bands):
        edges = np.diff(is_empty[upper].astype(np.int8), prepend=0, append=0)
        for first, end in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
            name = f"a place of {end - first} x {lower - upper} px"
            found.append(Missing(left + first, top + upper, left + end, top + lower, name, None))
    return found
