"""Regions on a raster of slots, so that a place in a region is a column of an array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.region_encoder.batch import RegionBatch
from parfocal.store import EmbeddingSet

Tiles = Float32[np.ndarray, "region slot dim"]
"""The tiles of regions in their slots; 0 where there is none."""

Slots = Bool[np.ndarray, "region slot"]
"""Which tiles: those that are there, that are seen, or that are asked for."""

Regions = Int64[np.ndarray, " region"]
"""A number for each region, such as that of its slide, or of another region."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The places that the tiles of a region can have: one raster for each magnification, coarse to fine.

    Attributes:
        mpps: the magnifications.
        dims: width of a tile's row at each of them.
        region_um: side of a region.
        tile_px: side of a tile in pixels.
        level: magnification of each slot, as a place in `mpps`.
        xy_um: centre of each slot about the region's centre.
        contains: whether the (coarser) tile of the first slot covers the centre of the (finer) one of the second.
    """

    mpps: tuple[float, ...]
    dims: tuple[int, ...]
    region_um: float
    tile_px: int
    level: Int64[np.ndarray, " slot"]
    xy_um: Float32[np.ndarray, "slot 2"]
    contains: Bool[np.ndarray, "slot slot"]

    @classmethod
    def of(cls, mpps: Sequence[float], dims: Sequence[int], *, region_um: float, tile_px: int) -> "Layout":
        """The rasters; where tiles do not fill a region exactly, as many as come nearest to it."""
        level, centre = [], []
        for number, mpp in enumerate(mpps):
            n = max(1, round(region_um / (tile_px * mpp)))
            at = ((np.arange(n) + 0.5) / n - 0.5) * region_um
            x, y = np.meshgrid(at, at)
            centre.append(np.column_stack([x.ravel(), y.ravel()]))
            level.append(np.full(n * n, number, dtype=np.int64))
        levels, xy_um = np.concatenate(level), np.concatenate(centre).astype(np.float32)
        offset = np.abs(xy_um[:, None] - xy_um[None]).max(axis=2)
        half_um = tile_px * np.asarray(mpps)[levels] / 2
        contains = (levels[:, None] < levels[None]) & (offset < half_um[:, None])
        return cls(tuple(mpps), tuple(dims), region_um, tile_px, levels, xy_um, contains)

    @classmethod
    def of_set(cls, tiles: EmbeddingSet) -> "Layout":
        """The rasters of a set of tile embeddings."""
        dims = [tiles.dims[mpp] for mpp in tiles.mpps]
        return cls.of(tiles.mpps, dims, region_um=tiles.region_um, tile_px=tiles.tile_px or 224)

    @property
    def n_slots(self) -> int:
        """How many tiles a region has when none is absent."""
        return len(self.level)

    @property
    def dim(self) -> int:
        """Width of a row of the arrays; a narrower magnification uses its leading numbers."""
        return max(self.dims)

    @property
    def mpp(self) -> Float32[np.ndarray, " slot"]:
        """Micrometres per pixel of each slot."""
        return np.asarray(np.asarray(self.mpps, dtype=np.float32)[self.level])

    @property
    def symmetries(self) -> Int64[np.ndarray, "8 slot"]:
        """Where each slot comes to lie under the eight symmetries of the square."""
        moved = []
        for flip in (1.0, -1.0):
            x, y = flip * self.xy_um[:, 0], self.xy_um[:, 1]
            for _ in range(4):
                x, y = y, -x
                apart = np.abs(np.stack([x, y], axis=1)[:, None] - self.xy_um[None]).max(axis=2)
                moved.append(np.where(self.level[:, None] == self.level[None], apart, np.inf).argmin(axis=1))
        return np.stack(moved)

    @property
    def distance_um(self) -> Float32[np.ndarray, "slot slot"]:
        """Between the centres of two slots."""
        return np.asarray(np.linalg.norm(self.xy_um[:, None] - self.xy_um[None], axis=2))


def slot_regions(
    regions: RegionBatch, layout: Layout, *, of: Bool[Tensor, "region token"] | None = None
) -> RegionBatch:
    """A column for each slot: every tile, or those of `of`, in the slot whose square it lies in.

    Of two in one square the first stays. Absent tiles have the place of their slot.
    """
    present, mpp = (regions.present if of is None else of).numpy(), regions.mpp.numpy()
    row, column = np.nonzero(present)
    xy = regions.xy_um.numpy()[row, column]
    slot = np.zeros(len(row), dtype=np.int64)
    for number, level_mpp in enumerate(layout.mpps):
        is_of_level = np.isclose(mpp[row, column], level_mpp)
        slots = np.flatnonzero(layout.level == number)
        n = round(np.sqrt(len(slots)))
        cell = np.clip(np.floor((xy[is_of_level] / layout.region_um + 0.5) * n), 0, n - 1).astype(np.int64)
        slot[is_of_level] = slots[cell[:, 1] * n + cell[:, 0]]
    _, first = np.unique(row * layout.n_slots + slot, return_index=True)
    row, column, slot, xy = row[first], column[first], slot[first], xy[first]
    tokens = np.zeros((len(present), layout.n_slots, layout.dim), dtype=np.float32)
    tokens[row, slot] = regions.tokens.numpy()[row, column]
    centres = np.tile(layout.xy_um, (len(present), 1, 1))
    centres[row, slot] = xy
    filled = np.zeros((len(present), layout.n_slots), dtype=bool)
    filled[row, slot] = True
    return RegionBatch(
        torch.from_numpy(tokens),
        torch.from_numpy(centres),
        torch.from_numpy(np.tile(layout.mpp, (len(present), 1))),
        torch.from_numpy(filled),
        regions.slide,
        regions.region,
    )


@dataclass(frozen=True, eq=False)
class Query:
    """What a baseline may see of some regions, and what it is asked.

    Attributes:
        tokens: standardised embeddings of the visible tiles; everything else is 0, hidden tiles above all.
        visible: which tiles are seen.
        hidden: which tiles are asked for.
        slide_mean: for each region and magnification, the mean over the *other* regions of its slide.
    """

    tokens: Tiles
    visible: Slots
    hidden: Slots
    slide_mean: Float32[np.ndarray, "region level dim"]

    def __len__(self) -> int:
        return len(self.visible)

    def take(self, rows: Bool[np.ndarray, " region"]) -> "Query":
        """Some of the regions."""
        return Query(self.tokens[rows], self.visible[rows], self.hidden[rows], self.slide_mean[rows])


def query_of(
    tokens: Float[np.ndarray, "region slot dim"],
    present: Slots,
    hidden: Slots,
    slide_mean: Float[np.ndarray, "region level dim"],
) -> Query:
    """Hide the hidden tiles, so that no baseline can look at them by mistake."""
    visible = present & ~hidden
    seen = np.where(visible[..., None], tokens, 0).astype(np.float32)
    return Query(seen, visible, hidden, slide_mean.astype(np.float32))
