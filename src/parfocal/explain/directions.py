"""The two ends of every contrast direction: the regions that lie furthest along it, to look at.

A contrast head knows pairs of directions u and v, one for each of two magnifications, and a region adds the product of
its projections, or of their tanh. A region at the same end of both raises the score, at opposite ends it lowers it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from parfocal.explain.asked import ShownSlide
from parfocal.heads.contrast.fit import FittedContrast

_FIRST = np.array([0])


@dataclass(frozen=True)
class Direction:
    """One direction in the embeddings of one magnification.

    Attributes:
        column: the score that it has a say in.
        pair: the two magnifications that are multiplied, as text; twice the same for one's own second moment.
        number: from 1, the strongest first.
        mpp: which of the two it lies in.
        side: 1 for u, 2 for v.
    """

    column: str
    pair: tuple[str, str]
    number: int
    mpp: str
    side: int


@dataclass(frozen=True)
class EndRegion:
    """A region at one end of a direction.

    Attributes:
        direction: which.
        end: `top` or `bottom`.
        place: from 1, the furthest first.
        slide: whose region it is.
        x_um: left of the region in the slide's frame, in micrometres.
        y_um: its top.
        side_um: its side.
        projection: how far it lies along the direction, about its slide's mean.
    """

    direction: Direction
    end: str
    place: int
    slide: str
    x_um: float
    y_um: float
    side_um: float
    projection: float


def along_directions(
    probe: FittedContrast, bags: Sequence[str], columns: Sequence[str], shown: ShownSlide, most: int
) -> Iterator[tuple[Direction, Float64[np.ndarray, " region"]]]:
    """Where the regions of a slide lie along the directions of a contrast probe.

    Args:
        probe: fitted.
        bags: the names of its bags.
        columns: the names of its scores.
        shown: the slide.
        most: directions of each pair.

    Yields:
        A direction, and each region's projection; NaN where the slide has no tile of that magnification there.
    """
    met = dict[tuple[str, tuple[str, str]], int]()
    for term in probe.terms:
        pair, column = (bags[term.first], bags[term.second]), columns[term.column]
        begin = met.get((column, pair), 0)
        sides = probe.along(term, shown.in_order, _FIRST)
        for side, (projected, there) in enumerate(sides, 1):
            numbers = shown.of_region[term.first if side == 1 else term.second]
            for number, one in enumerate(projected.T[:most], begin + 1):
                of_slide = np.full(shown.n_regions, np.nan)
                of_slide[numbers] = np.where(there, one, np.nan)
                yield Direction(column, pair, number, pair[side - 1], side), of_slide
        met[column, pair] = begin + sides[0][0].shape[1]


def furthest(
    before: Sequence[EndRegion],
    direction: Direction,
    projection: Float64[np.ndarray, " region"],
    slide: str,
    xy_um: Float64[np.ndarray, "region 2"],
    side_um: float,
    n: int,
) -> list[EndRegion]:
    """The ends of a direction when one slide more is seen: at most `n` regions each, the furthest first."""
    found = list[EndRegion]()
    there = np.flatnonzero(np.isfinite(projection))
    for end, sign in (("top", -1.0), ("bottom", 1.0)):
        own = there[np.argsort(sign * projection[there], kind="stable")[:n]]
        new = [
            EndRegion(
                direction, end, 0, slide, float(xy_um[one, 0]), float(xy_um[one, 1]), side_um, float(projection[one])
            )
            for one in own
        ]
        both = [one for one in before if one.end == end] + new
        both.sort(key=lambda one, sign=sign: sign * one.projection)  # type: ignore[misc]
        found += [replace(one, place=place) for place, one in enumerate(both[:n], 1)]
    return found


def all_ends(ends: Mapping[Direction, Sequence[EndRegion]]) -> tuple[EndRegion, ...]:
    """The ends of all directions, one direction after the other."""
    return tuple(one for direction in ends.values() for one in direction)


def joined_ends(of_shards: Sequence[Sequence[EndRegion]], order: Mapping[str, int], n: int) -> tuple[EndRegion, ...]:
    """The ends of all directions, as one run over all slides would have found them.

    Args:
        of_shards: what runs over some slides each have found.
        order: the number of each slide in the run over all.
        n: at most so many regions of each end.
    """
    ends = dict[tuple[Direction, str], list[EndRegion]]()
    for own in of_shards:
        for one in own:
            ends.setdefault((one.direction, one.end), []).append(one)
    found = list[EndRegion]()
    for (_, end), regions in ends.items():
        sign = -1.0 if end == "top" else 1.0
        # Of equal ones the slide that was seen first.
        regions.sort(key=lambda one, sign=sign: (sign * one.projection, order[one.slide]))  # type: ignore[misc]
        found += [replace(one, place=place) for place, one in enumerate(regions[:n], 1)]
    return tuple(found)
