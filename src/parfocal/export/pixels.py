"""The pixels of a set's tiles, from the slide's file.

Of what parfocal has embedded they are those that the tile encoder was given: the same regions are read in the same way.
Of an indexed set nobody knows how its tiles were read; each is read at its footprint.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from parfocal.config import GridConfig
from parfocal.errors import UnreadableSlideError
from parfocal.export.tiles import whole_px
from parfocal.geometry import Box
from parfocal.regions.plan import RegionPlan, shared_tiles
from parfocal.regions.tiles import Coarse, iter_tiles
from parfocal.regions.tissue import find_tissue
from parfocal.slides import Slide, read_tile
from parfocal.store import EmbeddingSet, SlidePlaces

# Slots are told from centres that are stored as float32.
_SLOT_DECIMALS = 2


@dataclass(frozen=True, eq=False)
class PlacedTile:
    """A tile as a picture, and where it lies.

    Attributes:
        mpp: micrometres in one of its pixels.
        x_l0px: left, in the nearest pixel of level 0.
        y_l0px: top.
        x_um: left, in micrometres.
        y_um: top.
        side_um: side.
        region: number of the region of the store that it is read with.
        slide_mpp: micrometres in a pixel of level 0.
        pixels: RGB.
    """

    mpp: float
    x_l0px: int
    y_l0px: int
    x_um: float
    y_um: float
    side_um: float
    region: int
    slide_mpp: float
    pixels: UInt8[np.ndarray, "_y _x 3"]

    def describe(self, slide: str) -> dict[str, object]:
        """What stands beside the picture in a shard."""
        return {
            "slide": slide,
            "mpp": self.mpp,
            "magnification": float(f"{10 / self.mpp:g}"),
            "x": self.x_l0px,
            "y": self.y_l0px,
            "x_um": round(self.x_um, 3),
            "y_um": round(self.y_um, 3),
            "side_um": round(self.side_um, 3),
            "region": self.region,
            "slide_mpp": self.slide_mpp,
        }


def read_tiles(slide: Slide, embeddings: EmbeddingSet, slide_id: str) -> Iterator[PlacedTile]:
    """Every tile that a set holds of a slide, once.

    Raises:
        UnreadableSlideError: the pixels of a tile are not there, or not any more.
        ResolutionError: the set's tiles are finer than the slide.
    """
    places = embeddings.places(slide_id)
    grid = embeddings.settings.get("grid", {})
    if "tile_px" not in grid:
        return _at_footprints(slide, embeddings, places)
    known = {
        name: grid[name] for name in ("region_um", "tile_px", "stride_um", "min_tissue", "min_inside") if name in grid
    }
    plan = _plan(slide, GridConfig(mpps=embeddings.mpps, **known), places)
    return _of_plan(slide, plan, embeddings.settings["coarse"], slide_id)


def _plan(slide: Slide, grid: GridConfig, places: SlidePlaces) -> RegionPlan:
    """The plan of what a set holds, as it was when the slide was embedded, without the tiles that are not there."""
    kept: dict[float, np.ndarray] = {}
    centred: dict[float, np.ndarray] = {}
    for mpp in grid.mpps:
        side, region = grid.tiles_per_side(mpp), places.region[mpp]
        slot = (places.center_um[mpp].astype(np.float64) / grid.region_um + 0.5) * side - 0.5
        slot = np.round(slot, _SLOT_DECIMALS)
        between = (slot % 1 != 0).any(axis=1)
        column, row = slot[~between].astype(np.int64).T
        kept[mpp] = np.zeros((len(places.region_xy_um), side, side), dtype=bool)
        kept[mpp][region[~between], row, column] = True
        if between.any():
            centred[mpp] = np.zeros(len(places.region_xy_um), dtype=bool)
            centred[mpp][region[between]] = True
    # Whatever is without data was no hole in the tissue when the tiles were embedded.
    everywhere = find_tissue(slide, "none")
    nowhere = replace(everywhere, is_tissue=np.zeros_like(everywhere.is_tissue))
    lattice = places.region_xy_um / np.float64(grid.region_um)
    plan = RegionPlan(grid, slide.mpp, lattice, kept, np.zeros(len(lattice)), nowhere, centred=centred)
    if not grid.overlaps:
        return plan
    shared = {mpp: shared_tiles(lattice, slots) for mpp, slots in kept.items()}
    return replace(
        plan,
        read={mpp: read for mpp, (read, _) in shared.items()},
        row={mpp: row for mpp, (_, row) in shared.items()},
    )


def _of_plan(slide: Slide, plan: RegionPlan, coarse: Coarse, slide_id: str) -> Iterator[PlacedTile]:
    planned = {mpp: plan.tiles(mpp).only_read() for mpp in plan.grid.mpps}
    first = {mpp: np.searchsorted(tiles.region, np.arange(plan.n_regions)) for mpp, tiles in planned.items()}
    for region in iter_tiles(slide, plan, coarse=coarse):
        for absent in region.absent.values():
            raise UnreadableSlideError(
                f"cannot read a tile of {slide_id} that was embedded: {absent[0].reason}. Copy the file again or leave "
                "the slide out."
            )
        for mpp, tiles in region.tiles.items():
            own = planned[mpp]
            for number, pixels in enumerate(tiles, int(first[mpp][region.region])):
                (x, y), (x_um, y_um) = own.coords_l0px[number].tolist(), own.xy_um[number].tolist()
                side_um = plan.grid.tile_um(mpp)
                yield PlacedTile(mpp, x, y, x_um, y_um, side_um, region.region, slide.mpp, pixels)


def _at_footprints(slide: Slide, embeddings: EmbeddingSet, places: SlidePlaces) -> Iterator[PlacedTile]:
    stretch = places.region_um / embeddings.region_um
    for mpp, nominal_um in embeddings.tile_um.items():
        side_um, tile_px = nominal_um * stretch, round(nominal_um / mpp)
        region = places.region[mpp]
        corner_um = places.region_xy_um[region] + (places.region_um - side_um) / 2 + places.center_um[mpp]
        xy_l0px = whole_px(corner_um, slide.mpp)
        for number in np.sort(np.unique(xy_l0px, axis=0, return_index=True)[1]).tolist():
            (x, y), (x_um, y_um) = xy_l0px[number].tolist(), corner_um[number].tolist()
            pixels = read_tile(slide, Box(x_um, y_um, side_um, side_um), mpp=side_um / tile_px)
            yield PlacedTile(mpp, x, y, x_um, y_um, side_um, int(region[number]), slide.mpp, pixels)
