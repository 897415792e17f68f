"""Where the tiles of one features file lie in micrometres, and on what lattice: measured, not believed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

from parfocal.errors import StoreError
from parfocal.store.formats.format import FeatureFile
from parfocal.store.formats.lattice import distances_on_lines

# Tools cut the sides of tiles to whole pixels, so tiles of one lattice lie up to this from where it says.
_SLACK = 0.02
_SLACK_L0PX = 1.5
# Of fewer tiles nobody can tell what lattice they lie on.
_FEWEST = 5
# A lattice of its own in each piece of tissue, as some tools have, leaves few tiles beside others of another piece.
_SHARE_OF_LATTICE = 0.5
_SHARE_OF_STEP = 0.05
_NEIGHBOURS = 4
_ONE_PLACE = 1e-3


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The tiles of one slide at one magnification, in the slide's true micrometres.

    Attributes:
        name: of the file.
        xy_um: top left of each tile.
        side_um: side of a tile.
        stride_um: from one tile to the next.
    """

    name: str
    xy_um: Float64[np.ndarray, "tile 2"]
    side_um: float
    stride_um: float

    @property
    def overlaps(self) -> bool:
        """Whether tiles reach into their neighbours."""
        return self.stride_um < (1 - _SLACK) * self.side_um


def lay_grid(file: FeatureFile, unit_um: float) -> TileGrid:
    """The tiles of a file in micrometres; the step from one to the next is measured.

    Args:
        file: with the places of its tiles.
        unit_um: micrometres in one of the file's units.

    Raises:
        StoreError: two tiles lie in one place, they lie on no lattice, or on another one than the file says.
    """
    stride = _stride(file)
    return TileGrid(str(file.source), file.xy * unit_um, file.tile * unit_um, stride * unit_um)


def _stride(file: FeatureFile) -> float:
    n_tiles, stated = len(file.xy), file.stride
    if n_tiles < 2:
        return stated or file.tile
    nearest, apart = _neighbours(file.xy, 1)
    doubled = int(np.count_nonzero(nearest <= _ONE_PLACE * file.tile))
    if doubled:
        raise StoreError(
            f"cannot use {file.source}: {doubled} tiles lie where another one does. Extract it again, or leave it out."
        )
    if n_tiles < _FEWEST:
        return stated or min(file.tile, float(nearest.min()))
    slack = max(_SLACK * file.tile, _SLACK_L0PX if file.unit == "l0px" else 0.0)
    pairs = distances_on_lines(file.xy)
    # Pieces of tissue whose boxes overlap may each have a lattice of its own, so that the nearest tile is of another.
    # Those of one row or column are of one lattice, where there are enough.
    on_lines = len(pairs) >= _SHARE_OF_LATTICE * n_tiles
    step = _commonest_step(pairs if on_lines else nearest, slack)
    compared = pairs[:, None, None] if on_lines else apart
    if step is None or _share_on(compared, step, slack) < _SHARE_OF_LATTICE:
        raise StoreError(
            f"cannot use {file.source}: its {n_tiles} tiles lie on no lattice, as if their coordinates were of another "
            "unit or file. Extract it again, or leave it out."
        )
    times = max(1, round(step / (stated or file.tile)))
    if stated is None:
        # Tiles that stand apart by whole sides are some of those that lie side by side.
        return file.tile if times > 1 and abs(step - times * file.tile) <= slack else step
    on_another = times > 1 and _share_on(_neighbours(file.xy, _NEIGHBOURS)[1], step, slack) > 1 - _SHARE_OF_STEP
    if abs(step - times * stated) > slack or on_another:
        raise StoreError(
            f"cannot use {file.source}: its tiles lie {step:.6g} {_UNITS[file.unit]} apart, and by their side and "
            f"overlap it should be {stated:.6g}. Extract it again, or leave it out."
        )
    return stated


_UNITS = {"l0px": "level-0 pixels", "um": "um"}


def _neighbours(
    xy: Float64[np.ndarray, "tile 2"], count: int
) -> tuple[Float64[np.ndarray, " tile"], Float64[np.ndarray, "tile neighbour 2"]]:
    """How far each tile is from the nearest one, along the axis where it is further, and from so many, along both."""
    distance, neighbour = cKDTree(xy).query(xy, k=min(len(xy), count + 1), p=np.inf)
    return distance[:, 1], xy[neighbour[:, 1:]] - xy[:, None]


def _commonest_step(nearest: Float64[np.ndarray, " tile"], slack: float) -> float | None:
    """The smallest distance that enough tiles have from their nearest one; None where no distance is frequent."""
    ordered = np.sort(nearest)
    # How many lie within the slack above each.
    beyond = np.searchsorted(ordered, ordered + slack, side="right")
    frequent = np.flatnonzero(beyond - np.arange(len(ordered)) >= max(2, _SHARE_OF_STEP * len(ordered)))
    if len(frequent) == 0:
        return None
    first = frequent[0]
    return float(np.median(ordered[first : beyond[first]]))


def _share_on(apart: Float64[np.ndarray, "tile neighbour axis"], step: float, slack: float) -> float:
    """The share of distances that are whole steps, in both directions."""
    return float(np.mean((np.abs(apart - np.rint(apart / step) * step) <= slack).all(axis=-1)))
