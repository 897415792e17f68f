"""Space in micrometres: boxes, the lattice of tiles, and the way to level-0 pixels.

The frame is the slide's: x to the right, y down, zero at the top-left corner of level 0. Positions are always computed
as *whole number times side*, never by adding steps, so that nothing drifts however large the slide is.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle, in micrometres of the slide (or any other one unit that its user names)."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """The area, in the square of the box's unit."""
        return self.width * self.height

    @property
    def right(self) -> float:
        """The x of the right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y of the lower edge."""
        return self.y + self.height

    @property
    def center(self) -> tuple[float, float]:
        """The x and y of the middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def overlap(self, other: "Box") -> float:
        """The area that both boxes cover; 0 where they only touch."""
        width = min(self.right, other.right) - max(self.x, other.x)
        height = min(self.bottom, other.bottom) - max(self.y, other.y)
        return max(width, 0.0) * max(height, 0.0)

    def contains(self, other: "Box") -> bool:
        """Whether `other` lies inside this box, edges included."""
        return self.x <= other.x and self.y <= other.y and self.right >= other.right and self.bottom >= other.bottom


def whole_ratio(larger: float, smaller: float, *, tolerance: float = 1e-6) -> int | None:
    """How many times `smaller` goes into `larger`, or None where that is no whole number of at least 1.

    The tolerance is relative; it absorbs the rounding of numbers such as 0.1, not a real mismatch.
    """
    ratio = larger / smaller
    nearest = round(ratio)
    return nearest if nearest >= 1 and math.isclose(ratio, nearest, rel_tol=tolerance) else None


def lattice_um(region_um: float, side: int) -> Float64[np.ndarray, "tile 2"]:
    """Centres of `side` x `side` tiles that fill a region, about the region's centre, as (x, y) row by row."""
    at = ((np.arange(side) + 0.5) / side - 0.5) * region_um
    x, y = np.meshgrid(at, at)
    return np.column_stack([x.ravel(), y.ravel()])


def to_l0px(
    xy_um: Float[np.ndarray, "*batch 2"] | Int[np.ndarray, "*batch 2"], slide_mpp: float
) -> Int[np.ndarray, "*batch 2"]:
    """Positions in micrometres as the nearest level-0 pixels (halves to the even neighbour, as numpy rounds)."""
    return np.rint(np.asarray(xy_um, dtype=np.float64) / slide_mpp).astype(np.int64)


def format_mpp(mpp: float) -> str:
    """The name of a magnification in paths, tables and messages: `0.5`, `2`, `0.252`."""
    return f"{mpp:g}"
