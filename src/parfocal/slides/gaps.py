"""Places of a level that the file does not give, told in as few rectangles as possible."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from parfocal.slides.reader import Gap

__all__ = ["Missing", "join_gaps", "missing_where_transparent"]


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
    """Join neighbours of one kind; `missing` goes row by row and from left to right."""
    gaps = []
    for one in _columns(_rows(missing)):
        name = f"{one.name} of level {level}" + (f" and {one.more} beside it" if one.more else "")
        many = one.more > 0
        if one.problem is None:
            reason = f"{name} {'have' if many else 'has'} no pixels in the file"
        else:
            reason = f"{name} {'are' if many else 'is'} broken ({one.problem})"
        width, height = one.right - one.left, one.bottom - one.top
        gaps.append(Gap(one.left, one.top, width, height, reason, one.problem is not None))
    return tuple(gaps)


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


def _rows(missing: Iterable[Missing]) -> Iterator[Missing]:
    """Runs of neighbours along x."""
    run: Missing | None = None
    for one in missing:
        if run is not None and (run.right, run.top, run.bottom) == (one.left, one.top, one.bottom) and _alike(run, one):
            run = replace(run, right=one.right, more=run.more + 1 + one.more)
            continue
        if run is not None:
            yield run
        run = one
    if run is not None:
        yield run


def _columns(runs: Iterable[Missing]) -> Iterator[Missing]:
    """Runs joined with the same run above."""
    waiting: dict[tuple[int, int], Missing] = {}
    for run in runs:
        above = waiting.get((run.left, run.right))
        if above is not None and above.bottom == run.top and _alike(above, run):
            run = replace(above, bottom=run.bottom, more=above.more + 1 + run.more)
        elif above is not None:
            yield above
        waiting[run.left, run.right] = run
    yield from waiting.values()


def _alike(one: Missing, other: Missing) -> bool:
    return (one.problem is None) == (other.problem is None)
