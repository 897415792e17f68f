"""Which regions and tiles of a slide are read: one lattice in micrometres, and what of it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64

from parfocal.config import GridConfig
from parfocal.geometry import to_l0px
from parfocal.regions.tissue import TissueMask, find_tissue
from parfocal.slides import Slide, check_resolution

__all__ = ["PlannedTiles", "RegionPlan", "plan_regions"]

# Regions are read in vertical bands of so many columns, row by row: what one row shares with the next is then small
# enough to stay decoded, however wide the slide is.
BAND_COLUMNS = 16
_BOXES_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class PlannedTiles:
    """The kept tiles of one magnification, in region order and row-major within a region."""

    region: Int32[np.ndarray, "tile"]
    slot: Int32[np.ndarray, "tile 2"]
    """Row and column of the tile in its region."""
    xy_um: Float64[np.ndarray, "tile 2"]
    """Top left, in the slide's frame."""
    coords_l0px: Int64[np.ndarray, "tile 2"]
    """Top left, as the nearest level-0 pixel."""
    center_um: Float32[np.ndarray, "tile 2"]
    """The tile's centre about its region's centre."""

    def __len__(self) -> int:
        return len(self.region)


@dataclass(frozen=True, eq=False)
class RegionPlan:
    """The kept regions of one slide, in reading order, and which of their tiles are kept."""

    grid: GridConfig
    slide_mpp: float
    lattice: Int64[np.ndarray, "region 2"]
    """Column and row of each region; region (c, r) begins at (c, r) times the side of a region."""
    kept: Mapping[float, Bool[np.ndarray, "region _row _col"]]
    """For each magnification, the slots of each region that are kept."""
    tissue_share: Float[np.ndarray, "region"]
    tissue: TissueMask
    """Where the tissue is, over the whole slide."""

    @property
    def n_regions(self) -> int:
        """How many regions are kept."""
        return len(self.lattice)

    def n_tiles(self, mpp: float) -> int:
        """How many tiles of one magnification are kept."""
        return int(self.kept[mpp].sum())

    def region_xy_um(self) -> Float64[np.ndarray, "region 2"]:
        """The top left of each region, in micrometres of the slide."""
        return self.lattice * np.float64(self.grid.region_um)

    def tiles(self, mpp: float) -> PlannedTiles:
        """The kept tiles of one magnification with their places."""
        side = self.grid.tiles_per_side(mpp)
        region, row, column = np.nonzero(self.kept[mpp])
        within = np.stack([column, row], axis=1)
        # One multiplication and one division of whole numbers by the side: nothing adds up, so nothing drifts.
        xy_um = (self.lattice[region] * side + within) * self.grid.region_um / side
        center_um = ((within + 0.5) / side - 0.5) * self.grid.region_um
        return PlannedTiles(
            region.astype(np.int32),
            np.stack([row, column], axis=1).astype(np.int32),
            xy_um,
            to_l0px(xy_um, self.slide_mpp),
            center_um.astype(np.float32),
        )

    def window_l0px(self, region: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a region in level-0 pixels; neighbours share their edges exactly."""
        corners = np.stack([self.lattice[region], self.lattice[region] + 1]) * np.float64(self.grid.region_um)
        (left, top), (right, bottom) = to_l0px(corners, self.slide_mpp).tolist()
        return left, top, right, bottom


def plan_regions(slide: Slide, grid: GridConfig, *, tissue: TissueMask | None = None) -> RegionPlan:
    """Lay the lattice of regions over a slide and keep what holds enough tissue.

    A region is kept when its share of tissue is at least `grid.min_tissue`, a tile when its own is. Where a tile is
    the whole region the two are one question. With `min_tissue=0` everything that touches the slide is kept.

    Args:
        slide: an open slide with a trusted mpp.
        grid: the settings of the lattice.
        tissue: where the tissue is; found here when it is not given.

    Raises:
        ResolutionError: the finest magnification is more than 5 % finer than the slide.
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: the file's data are broken.
    """
    check_resolution(slide, min(grid.mpps))
    if tissue is None:
        tissue = find_tissue(slide)
    size_um = (slide.width_px * slide.mpp, slide.height_px * slide.mpp)
    enough = grid.min_tissue - 1e-9  # a share is a quotient of areas; one that is whole may come out a hair below
    lattice = _lattice(size_um, grid.region_um)
    share = _tissue_shares(tissue, lattice, 1, grid.region_um)[:, 0, 0]
    chosen = share >= enough
    lattice, share = lattice[chosen], share[chosen]
    kept = {}
    for mpp in grid.mpps:
        side = grid.tiles_per_side(mpp)
        if side == 1:
            kept[mpp] = np.ones((len(lattice), 1, 1), bool)
            continue
        within = np.arange(side)
        touches = [
            ((lattice[:, axis, None] * side + within) * grid.region_um / side) < size_um[axis] for axis in (0, 1)
        ]
        on_slide = touches[1][:, :, None] & touches[0][:, None, :]
        kept[mpp] = on_slide & (_tissue_shares(tissue, lattice, side, grid.region_um) >= enough)
    return RegionPlan(grid, slide.mpp, lattice, kept, share, tissue)


def _lattice(size_um: tuple[float, float], region_um: float) -> Int64[np.ndarray, "region 2"]:
    """Every region that touches the slide, as column and row, in reading order."""
    # A sliver thinner than a millionth of a region is rounding, not slide.
    columns, rows = (max(int(np.ceil(side / region_um - 1e-6)), 1) for side in size_um)
    row, column = np.divmod(np.arange(rows * columns), columns)
    order = np.lexsort((column, row, column // BAND_COLUMNS))
    return np.stack([column, row], axis=1)[order].astype(np.int64)


def _tissue_shares(
    tissue: TissueMask, lattice: Int[np.ndarray, "region 2"], side: int, region_um: float
) -> Float[np.ndarray, "region side side"]:
    """The share of tissue in each slot (row, column) of each region."""
    row, column = np.mgrid[:side, :side]
    within = np.stack([column, row], axis=-1)
    shares = np.empty((len(lattice), side, side))
    # In portions: the corners of all tiles of a large slide would be its largest array.
    step = max(_BOXES_AT_ONCE // side**2, 1)
    for first in range(0, len(lattice), step):
        start = lattice[first : first + step, None, None, :] * side + within  # (region, row, column, xy)
        edges = np.concatenate([start, start + 1], axis=-1) * region_um / side
        shares[first : first + step] = tissue.shares(edges.reshape(-1, 4)).reshape(-1, side, side)
    return shares
