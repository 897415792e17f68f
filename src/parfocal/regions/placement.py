"""Where the lattice of regions begins: at the slide's corner, or so that a small picture lies well in its one region.

A picture smaller than a region is laid in the middle of it, but on whole tiles: a picture of one tile's size that
straddled four of them would fill a quarter of each, and nothing would be mostly tissue. So of all places the one is
taken at which the picture fills the most tiles, the finest magnification first, and of those the one nearest to the
middle.
"""

import math

from parfocal.config import GridConfig

__all__ = ["region_origin_um"]

# A tile counts as filled along one axis from here on: of both axes together that is half of a tile. Where the picture
# is narrower than a tile along the other axis, more of it has to be filled along this one.
_HALF = 0.5
_FILLED = math.sqrt(_HALF)
_EXACT = 1e-6


def region_origin_um(size_um: tuple[float, float], grid: GridConfig, slide_mpp: float) -> tuple[float, float]:
    """The x and y of the first region's corner, 0 or less, in micrometres of the slide and on a whole level-0 pixel.

    Args:
        size_um: width and height of the slide.
        grid: how it is cut.
        slide_mpp: micrometres per level-0 pixel.
    """
    finest_um = grid.tile_um(min(grid.mpps))
    filled = [min(max(_FILLED, _HALF * finest_um / other), 1.0) for other in reversed(size_um)]
    leads = (_lead_um(size, grid, part) for size, part in zip(size_um, filled, strict=True))
    x, y = (-round(lead / slide_mpp) * slide_mpp for lead in leads)
    return x + 0.0, y + 0.0  # no minus before a zero


def _lead_um(size_um: float, grid: GridConfig, filled: float) -> float:
    """How far from the start of its region a slide begins along one axis."""
    room = grid.region_um - size_um
    if room <= _EXACT * grid.region_um:
        return 0.0
    middle = room / 2
    finest_um = grid.region_um / grid.tiles_per_side(min(grid.mpps))
    whole = int(size_um / finest_um + _EXACT)
    leads = {middle}
    for tiles in {max(whole, 1), whole + 1}:
        # The picture in the middle of so many tiles, these at every place of the region.
        slack = (tiles * finest_um - size_um) / 2
        leads |= {start * finest_um + slack for start in range(grid.tiles_per_side(min(grid.mpps)) - tiles + 1)}
    inside = {min(max(lead, 0.0), room) for lead in leads}
    return max(inside, key=lambda lead: (_filled(lead, size_um, grid, filled), -round(abs(lead - middle), 3), -lead))


def _filled(lead_um: float, size_um: float, grid: GridConfig, filled: float) -> tuple[tuple[int, ...], float]:
    """How many tiles of each magnification, finest first, the picture fills along this axis, and how wholly.

    The second is a sum of squares: one tile of which two thirds are filled is better than two of one third.
    """
    counts, total = [], 0.0
    for mpp in sorted(grid.mpps):
        side_um = grid.region_um / grid.tiles_per_side(mpp)
        parts = [
            (min(lead_um + size_um, (tile + 1) * side_um) - max(lead_um, tile * side_um)) / side_um
            for tile in range(grid.tiles_per_side(mpp))
        ]
        counts.append(sum(part >= filled - _EXACT for part in parts))
        total += sum(max(part, 0.0) ** 2 for part in parts)
    return tuple(counts), round(total, 6)
