"""Which regions and tiles of a slide are read: one lattice in micrometres, and what of it is kept.

With a stride below the side of a region, regions overlap, and a tile that several hold is read once. Where the stride
goes into the side a whole number of times, regions that lie side by side are among them, and a tile is read with the
one of these that holds it: so such a region has the very rows that it has without a stride.

The lattice begins at the slide's corner, or so that a small picture lies well in its one region. A picture smaller than
a region is laid in the middle of it, but on whole tiles: a picture of one tile's size that straddled four of them would
fill a quarter of each, and nothing would be mostly tissue. So of all places the one is taken at which the picture fills
the most tiles, the finest magnification first, and of those the one nearest to the middle.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from parfocal.config import GridConfig
from parfocal.errors import ConfigError, SlideError
from parfocal.geometry import to_l0px, whole_ratio
from parfocal.regions.tissue import TissueMask, find_tissue
from parfocal.slides import Slide, check_resolution

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


# Regions are read in vertical bands of so many columns, row by row: what one row shares with the next is then small
# enough to stay decoded, however wide the slide is.
BAND_COLUMNS = 16
_BOXES_AT_ONCE = 1 << 16
# A share is a quotient of areas; one that is whole may come out a hair below.
_ROUNDING = 1e-9
# Less of a tile than this is rounding, not slide.
_NOTHING = 1e-18
# Tiles whose corners are nearer than this part of a tile are one tile.
_SAME = 2.0**-20


_Lattice = Float64[np.ndarray, "region 2"]


@dataclass(frozen=True, eq=False)
class PlannedTiles:
    """The kept tiles of one magnification, in region order and row-major within a region, one in its middle last."""

    region: Int32[np.ndarray, "tile"]
    slot: Float64[np.ndarray, "tile 2"]
    """Row and column of the tile in its region; halves where it lies in the middle of an even number of them."""
    xy_um: Float64[np.ndarray, "tile 2"]
    """Top left, in the slide's frame."""
    coords_l0px: Int64[np.ndarray, "tile 2"]
    """Top left, as the nearest level-0 pixel."""
    center_um: Float32[np.ndarray, "tile 2"]
    """The tile's centre about its region's centre."""
    is_read: Bool[np.ndarray, " tile"]
    """Whether the tile is read with this region: every tile is with one of those that hold it."""
    row: Int64[np.ndarray, " tile"]
    """Its number among the tiles that are read."""

    def __len__(self) -> int:
        return len(self.region)

    def only_read(self) -> "PlannedTiles":
        """Every tile once, with the region that it is read with."""
        return self if self.is_read.all() else PlannedTiles(**{name: v[self.is_read] for name, v in vars(self).items()})


@dataclass(frozen=True, eq=False)
class RegionPlan:
    """The kept regions of one slide, in reading order, and which of their tiles are kept."""

    grid: GridConfig
    slide_mpp: float
    lattice: _Lattice
    """Column and row of each region; region (c, r) begins at `origin_um` plus (c, r) times the side of a region. Whole
    numbers but where regions overlap or lie on places."""
    kept: Mapping[float, Bool[np.ndarray, "region _row _col"]]
    """For each magnification, the slots of each region that are kept."""
    tissue_share: Float[np.ndarray, "region"]
    tissue: TissueMask
    """Where the tissue is, over the whole slide."""
    origin_um: tuple[float, float] = (0.0, 0.0)
    """Where region (0, 0) begins: at the slide's corner, or before it where the slide is smaller than a region."""
    centred: Mapping[float, Bool[np.ndarray, " region"]] = field(default_factory=dict)
    """For a magnification of which no slot lies in the middle of a region, the regions that have one tile more there,
    after those of their slots; none where regions lie on a lattice."""
    read: Mapping[float, Bool[np.ndarray, "region _row _col"]] = field(default_factory=dict)
    """Where regions overlap, the kept slots of each region whose tiles are read with it; all of them otherwise."""
    row: Mapping[float, Int64[np.ndarray, " _tile"]] = field(default_factory=dict)
    """Where regions overlap, the number of each kept tile among those that are read."""

    @property
    def n_regions(self) -> int:
        """How many regions are kept."""
        return len(self.lattice)

    def n_tiles(self, mpp: float) -> int:
        """How many tiles of one magnification are read; one that several regions hold counts once."""
        return int(self.read.get(mpp, self.kept[mpp]).sum() + self.centred.get(mpp, np.zeros(0)).sum())

    def n_places(self, mpp: float) -> int:
        """How many tiles of one magnification all regions hold; one that several of them hold counts in each."""
        return int(self.kept[mpp].sum() + self.centred.get(mpp, np.zeros(0)).sum())

    def only(self, wanted: Mapping[float, Bool[np.ndarray, " _tile"]]) -> "RegionPlan":
        """The same regions with some of their tiles, where regions lie side by side.

        Args:
            wanted: per magnification, which of its kept tiles stay, in the order of `tiles`; none of one that is not
                named.
        """
        kept = {mpp: np.zeros_like(slots) for mpp, slots in self.kept.items()}
        for mpp, stays in wanted.items():
            kept[mpp][self.kept[mpp]] = stays
        return replace(self, kept=kept)

    def unshared(self) -> "RegionPlan":
        """The same regions, each to be read with all of its tiles."""
        return replace(self, read={}, row={})

    def region_xy_um(self) -> Float64[np.ndarray, "region 2"]:
        """The top left of each region, in micrometres of the slide."""
        return self.lattice * np.float64(self.grid.region_um) + self.origin_um

    def tiles(self, mpp: float) -> PlannedTiles:
        """The kept tiles of one magnification with their places."""
        side = self.grid.tiles_per_side(mpp)
        region, row, column = np.nonzero(self.kept[mpp])
        within = np.stack([column, row], axis=1).astype(np.float64)
        if mpp in self.centred:
            middle = np.flatnonzero(self.centred[mpp])
            region = np.concatenate([region, middle])
            within = np.concatenate([within, np.full((len(middle), 2), (side - 1) / 2)])
            order = np.argsort(region, kind="stable")
            region, within = region[order], within[order]
        # One multiplication and one division of whole numbers by the side: nothing adds up, so nothing drifts.
        xy_um = (self.lattice[region] * side + within) * self.grid.region_um / side + self.origin_um
        center_um = ((within + 0.5) / side - 0.5) * self.grid.region_um
        return PlannedTiles(
            region.astype(np.int32),
            within[:, ::-1].copy(),
            xy_um,
            to_l0px(xy_um, self.slide_mpp),
            center_um.astype(np.float32),
            self.read[mpp][self.kept[mpp]] if self.read else np.ones(len(region), dtype=bool),
            self.row[mpp] if self.row else np.arange(len(region)),
        )

    def tissue_of_tiles(self, mpp: float) -> Float32[np.ndarray, " tile"]:
        """The share of each kept tile of one magnification that is tissue, 0 to 1, in the order of `tiles`."""
        xy_um = self.tiles(mpp).xy_um
        return self.tissue.shares(np.concatenate([xy_um, xy_um + self.grid.tile_um(mpp)], axis=1)).astype(np.float32)

    def window_l0px(self, region: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a region in level-0 pixels; neighbours share their edges exactly."""
        corners = np.stack([self.lattice[region], self.lattice[region] + 1]) * np.float64(self.grid.region_um)
        corners = corners + self.origin_um
        (left, top), (right, bottom) = to_l0px(corners, self.slide_mpp).tolist()
        return left, top, right, bottom


def plan_regions(
    slide: Slide, grid: GridConfig, *, tissue: TissueMask | None = None, slide_id: str | None = None
) -> RegionPlan:
    """Lay the lattice of regions over a slide and keep what holds enough tissue.

    A tile is kept when at least `grid.min_inside` of it lies on the slide and at least `grid.min_tissue` of that part
    is tissue; a region when its own part on the slide holds as much and a tile of it is kept. With both at 0 everything
    that touches the slide is kept; `grid.tissue="none"` asks for no tissue either. The lattice begins at the slide's
    corner; along a side that is shorter than a region the slide lies in the middle of it, on whole tiles. With a stride
    below the side, regions begin every stride, until one reaches as far as the last of those side by side.

    Args:
        slide: an open slide with a trusted mpp.
        grid: the settings of the lattice.
        tissue: where the tissue is; found here, as `grid.tissue` says, when it is not given.
        slide_id: the slide's id, by which a folder of masks names it; the file's stem when None.

    Raises:
        ResolutionError: the finest magnification is more than 5 % finer than the slide.
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: nothing of the file can be decoded.
        SlideError: it is no brightfield slide, its mask is absent or another slide's, or it is smaller than a tile.
    """
    check_resolution(slide, min(grid.mpps))
    if tissue is None:
        tissue = find_tissue(slide, grid.tissue, slide_id=slide_id)
    size_um = (slide.width_px * slide.mpp, slide.height_px * slide.mpp)
    ground = _Ground(grid.region_um, region_origin_um(size_um, grid, slide.mpp), size_um)
    lattice = ground.lattice(grid.step_um)
    _check_size(slide.name, lattice, grid, ground)
    inside, share = ground.shares(tissue, lattice, 1)
    least = 0.0 if grid.tissue == "none" else grid.min_tissue - _ROUNDING
    chosen = ((share >= least) & (inside > _NOTHING))[:, 0, 0]
    lattice, share = lattice[chosen], share[chosen, 0, 0]
    kept = {}
    for mpp in grid.mpps:
        inside, own = ground.shares(tissue, lattice, grid.tiles_per_side(mpp))
        kept[mpp] = (inside >= max(grid.min_inside - _ROUNDING, _NOTHING)) & (own >= least)
    some = np.array([tiles.any(axis=(1, 2)) for tiles in kept.values()]).any(axis=0)
    lattice, kept = lattice[some], {mpp: tiles[some] for mpp, tiles in kept.items()}
    shared = {mpp: shared_tiles(lattice, tiles) for mpp, tiles in kept.items()} if grid.overlaps else {}
    return RegionPlan(
        grid,
        slide.mpp,
        lattice,
        kept,
        share[some],
        tissue,
        ground.origin_um,
        read={mpp: read for mpp, (read, _) in shared.items()},
        row={mpp: row for mpp, (_, row) in shared.items()},
    )


def shared_tiles(
    lattice: _Lattice, kept: Bool[np.ndarray, "region side side"]
) -> tuple[Bool[np.ndarray, "region side side"], Int64[np.ndarray, " tile"]]:
    """Which kept slots are read with their region, so that every tile is read once; and the row of each kept tile."""
    region, row, column = np.nonzero(kept)
    place = lattice[region] * kept.shape[1] + np.stack([column, row], axis=1)
    tile = np.unique(np.rint(place / _SAME).astype(np.int64), axis=0, return_inverse=True)[1].reshape(-1)
    is_between = (np.abs(lattice - np.rint(lattice)) > _SAME).any(axis=1)[region]
    order = np.lexsort((is_between, tile))  # of equal ones the first region stays first
    first = order[np.unique(tile[order], return_index=True)[1]]  # of each tile
    is_read = np.zeros(len(region), dtype=bool)
    is_read[first] = True
    read = np.zeros_like(kept)
    read[region[is_read], row[is_read], column[is_read]] = True
    return read, (np.cumsum(is_read) - 1)[first[tile]]


def plan_places(
    slide: Slide,
    grid: GridConfig,
    places_um: Float64[np.ndarray, "place 2"],
    *,
    tissue: TissueMask | None = None,
    slide_id: str | None = None,
) -> RegionPlan:
    """Lay a region on every place, so that a tile of every magnification has the place in its middle.

    The tiles of a region are those of its slots and, where an even number of them lies along its side, one more in the
    middle. The tile in the middle is kept wherever `grid.min_inside` of it lies on the slide, whatever it shows: the
    place was asked for. The others are kept as in `plan_regions`. Regions may overlap; they are in an order in which
    what one shares with the next is still decoded.

    Args:
        slide: an open slide with a trusted mpp.
        grid: how regions are cut.
        places_um: x and y of each place, from the top left corner of the slide.
        tissue: as in `plan_regions`.
        slide_id: as in `plan_regions`.

    Raises:
        ConfigError: a tile of an odd side would have to begin at half a pixel.
        SlideError: places lie beside the slide, or what `plan_regions` refuses.
    """
    check_resolution(slide, min(grid.mpps))
    even = [mpp for mpp in grid.mpps if grid.tiles_per_side(mpp) % 2 == 0]
    if even and grid.tile_px % 2:
        raise ConfigError(f"a tile of {grid.tile_px} px cannot lie in the middle of a place. Use an even --tile-px.")
    size_um = np.array([slide.width_px, slide.height_px]) * slide.mpp
    beside = ((places_um < 0) | (places_um > size_um)).any(axis=1)
    if beside.any():
        x, y = places_um[np.flatnonzero(beside)[0]]
        raise SlideError(
            f"{int(beside.sum())} of {len(places_um)} places lie beside {slide.name}, the first at {x:g}, {y:g} um; it "
            f"has {size_um[0]:g} x {size_um[1]:g} um. Are they in another unit, of another slide, or y before x?"
        )
    if tissue is None:
        tissue = find_tissue(slide, grid.tissue, slide_id=slide_id)
    lattice = places_um / grid.region_um - 0.5
    band = np.floor(lattice[:, 0] / BAND_COLUMNS)
    lattice = lattice[np.lexsort((lattice[:, 0], np.floor(lattice[:, 1]), band))]
    ground = _Ground(grid.region_um, (0.0, 0.0), (float(size_um[0]), float(size_um[1])))
    least = 0.0 if grid.tissue == "none" else grid.min_tissue - _ROUNDING
    kept, centred = {}, {}
    for mpp in grid.mpps:
        side = grid.tiles_per_side(mpp)
        inside, own = ground.shares(tissue, lattice, side)
        is_inside = inside >= max(grid.min_inside - _ROUNDING, _NOTHING)
        kept[mpp] = is_inside & (own >= least)
        across, down = ground.inside_parts(lattice, side, middle=True)
        in_middle = (across * down)[:, 0] >= max(grid.min_inside - _ROUNDING, _NOTHING)
        if mpp in even:
            centred[mpp] = in_middle
        else:
            kept[mpp][:, side // 2, side // 2] = in_middle
    _, share = ground.shares(tissue, lattice, 1)
    some = np.array([tiles.any(axis=(1, 2)) for tiles in kept.values()] + list(centred.values())).any(axis=0)
    return RegionPlan(
        grid,
        slide.mpp,
        lattice[some],
        {mpp: tiles[some] for mpp, tiles in kept.items()},
        share[some, 0, 0],
        tissue,
        centred={mpp: middle[some] for mpp, middle in centred.items()},
    )


@dataclass(frozen=True)
class _Ground:
    """Where the lattice lies: the side of a region, the corner of the first one, and the slide's width and height."""

    region_um: float
    origin_um: tuple[float, float]
    size_um: tuple[float, float]

    def lattice(self, step_um: float) -> _Lattice:
        """A region every `step_um`, until one reaches as far as the last that lies side by side, in reading order."""
        # A sliver thinner than a millionth of a region is rounding, not slide.
        columns, rows = (max(int(np.ceil(side / self.region_um - 1e-6)), 1) for side in self.size_um)
        per_region = whole_ratio(self.region_um, step_um) or self.region_um / step_um
        # One division of whole numbers where regions meet: those side by side lie at whole numbers exactly.
        across, down = (np.arange(math.ceil((n - 1) * per_region - _EXACT) + 1) / per_region for n in (columns, rows))
        row, column = (axis.ravel() for axis in np.meshgrid(down, across, indexing="ij"))
        order = np.lexsort((column, row, column // BAND_COLUMNS))
        return np.stack([column, row], axis=1)[order]

    def inside_parts(
        self, lattice: _Lattice, side: int, *, middle: bool = False
    ) -> list[Float[np.ndarray, "region side"]]:
        """Along x and along y, the part of each tile of each region that lies between the slide's edges.

        Args:
            lattice: column and row of the regions.
            side: how many tiles lie along a region's side.
            middle: whether only a tile in the middle is asked about.
        """
        parts, within = [], np.array([(side - 1) / 2]) if middle else np.arange(side)
        for axis in (0, 1):
            start = (lattice[:, axis, None] * side + within) * self.region_um / side + self.origin_um[axis]
            length = np.minimum(start + self.region_um / side, self.size_um[axis]) - np.maximum(start, 0.0)
            parts.append(np.clip(length * side / self.region_um, 0.0, 1.0))
        return parts

    def shares(
        self, tissue: TissueMask, lattice: _Lattice, side: int
    ) -> tuple[Float[np.ndarray, "region side side"], Float[np.ndarray, "region side side"]]:
        """For each slot (row, column) of each region, its share on the slide, and the tissue's share of that."""
        row, column = np.mgrid[:side, :side]
        within = np.stack([column, row], axis=-1)
        across, down = self.inside_parts(lattice, side)
        inside = down[:, :, None] * across[:, None, :]
        shares = np.empty((len(lattice), side, side))
        # In portions: the corners of all tiles of a large slide would be its largest array.
        step = max(_BOXES_AT_ONCE // side**2, 1)
        for first in range(0, len(lattice), step):
            start = lattice[first : first + step, None, None, :] * side + within  # (region, row, column, xy)
            edges = np.concatenate([start, start + 1], axis=-1) * self.region_um / side + np.tile(self.origin_um, 2)
            shares[first : first + step] = tissue.shares(edges.reshape(-1, 4)).reshape(-1, side, side)
        return inside, np.minimum(np.divide(shares, inside, out=np.zeros_like(shares), where=inside > _NOTHING), 1.0)


def _check_size(name: str, lattice: _Lattice, grid: GridConfig, ground: _Ground) -> None:
    """Refuse a slide on which no tile of any magnification lies for its smallest part: it has tissue, but no tile."""
    ends = np.concatenate([lattice[:1], lattice[-1:]])  # a middle region is as full as these or fuller
    for mpp in grid.mpps:
        across, down = ground.inside_parts(ends, grid.tiles_per_side(mpp))
        if across.max() * down.max() >= grid.min_inside - _ROUNDING:
            return
    width_um, height_um = ground.size_um
    raise SlideError(
        f"cannot cut {name}: it is smaller than a tile. It has {width_um:g} x {height_um:g} um, and of no tile of "
        f"{grid.tile_um(min(grid.mpps)):g} um or more {grid.min_inside:.0%} would lie on it. Leave it out, ask for "
        "smaller tiles, or keep tiles that are mostly white with --min-inside 0."
    )
