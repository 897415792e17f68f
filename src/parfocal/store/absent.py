"""Planned tiles that a slide has no pixels for: counted while it is read, and too many of them are a failure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from parfocal.errors import UnreadableSlideError
from parfocal.regions import PlannedTiles
from parfocal.regions.tiles import RegionTiles


@dataclass(frozen=True, eq=False)
class AbsentRows:
    """The planned tiles of one magnification that are absent.

    Attributes:
        coords_l0px: top left of each, in level-0 pixels.
        reasons: why, one for each.
    """

    coords_l0px: Int64[np.ndarray, "tile 2"]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reasons)


def watch_absent(
    regions: Iterable[RegionTiles],
    planned: Mapping[float, PlannedTiles],
    name: str,
    *,
    most: float,
    found: dict[float, dict[int, str]],
    total: int | None = None,
    before: int = 0,
) -> Iterator[RegionTiles]:
    """Pass the regions of a slide on, and note which of the planned rows do not come.

    Where more than the share `most` of all planned tiles, or every one, is absent, the slide is refused. It is read to
    its end before that, so that the message has the whole count, but nothing is passed on any more.

    Args:
        regions: all regions of the slide, in order.
        planned: the planned tiles of each magnification.
        name: how messages call the slide.
        most: the largest share of planned tiles that may be absent.
        found: gets, per magnification, the number of each absent row among the planned ones and why.
        total: of what number of tiles the share is taken, where only a part of the slide's is read here.
        before: how many of these have been found absent when other parts were read.

    Raises:
        UnreadableSlideError: too many are absent.
    """
    total = sum(map(len, planned.values())) if total is None else total
    n_absent, first = before, ""
    for region in regions:
        for mpp, absent in region.absent.items():
            rows = found.setdefault(mpp, {})
            start = int(np.searchsorted(planned[mpp].region, region.region))
            for tile in absent:
                rows[start + tile.number] = tile.reason
                if not first:
                    x_um, y_um = planned[mpp].xy_um[start + tile.number]
                    first = f"at x {x_um:.0f} um, y {y_um:.0f} um: {tile.reason}"
                n_absent += 1
        if n_absent / total <= most:
            yield region
    if n_absent and (n_absent == total or n_absent / total > most):
        remedy = f"or allow more (--max-absent, now {most:g})" if n_absent < total else "or leave it out"
        raise UnreadableSlideError(
            f"cannot read {name}: the file has no pixels for {n_absent} of its {total} planned tiles "
            f"({n_absent / total:.1%}), the first {first}. Copy the file again, {remedy}."
        )
