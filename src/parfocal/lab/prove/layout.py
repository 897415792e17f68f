"""Regions on a raster of slots, so that a place in a region is a column of an array, and what of them is hidden.

Hidden are the mask patterns of pretraining, and each whole magnification by itself. Beside them the tile that a
person would look at first to guess a hidden one: its parent, else its children, else its sisters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.geometry import format_mpp, lattice_um
from parfocal.pretrain.masks import hide
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
            centre.append(lattice_um(region_um, n))
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
    def slots(self) -> list[slice]:
        """The slots of each magnification, which lie side by side."""
        bounds = np.searchsorted(self.level, np.arange(len(self.mpps) + 1)).tolist()
        return [slice(begin, end) for begin, end in pairwise(bounds)]

    @property
    def dim(self) -> int:
        """Width of a row of the arrays; a narrower magnification uses its leading numbers."""
        return max(self.dims)

    @property
    def mpp(self) -> Float32[np.ndarray, " slot"]:
        """Micrometres per pixel of each slot."""
        return np.take(np.asarray(self.mpps, dtype=np.float32), self.level)

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


def relation(layout: Layout, step: int) -> Bool[np.ndarray, "slot slot"]:
    """Which slots (second axis) lie `step` magnifications finer than a slot (first axis), inside or over it.

    A negative step gives what lies over it; 0 the other tiles of its own magnification.
    """
    apart = layout.level[None] - layout.level[:, None]
    nested = layout.contains | layout.contains.T
    if step == 0:
        return np.asarray((apart == 0) & ~np.eye(layout.n_slots, dtype=bool))
    return np.asarray((apart == step) & nested)


def nearest_relatives(tokens: Tiles, visible: Slots, layout: Layout) -> tuple[Tiles, Int64[np.ndarray, "region slot"]]:
    """For every slot the mean of its nearest visible relatives, and their magnification; -1 where it has none.

    The finest visible tile over it; else the visible tiles inside it, of the coarsest magnification that has one; else
    the visible others of its own magnification.
    """
    source = np.zeros_like(tokens)
    level = np.full(visible.shape, -1, dtype=np.int64)
    for step in _steps(len(layout.mpps)):
        weight = (visible[:, None] & relation(layout, step)[None]).astype(np.float32)  # (region, slot, source)
        count = weight.sum(axis=2)
        taken = (level < 0) & (count > 0)
        if not taken.any():
            continue
        mean = (weight / np.maximum(count, 1)[..., None]) @ tokens
        source[taken] = mean[taken]
        level[taken] = np.broadcast_to(layout.level + step, level.shape)[taken]
    return source, level


def _steps(n_levels: int) -> Iterator[int]:
    yield from range(-1, -n_levels, -1)
    yield from range(1, n_levels)
    yield 0


@dataclass(frozen=True)
class Pattern:
    """One way to hide tiles.

    Attributes:
        name: as in tables and files.
        title: as a heading.
        sentence: what it hides.
        mask: the pattern of pretraining that it is, or `whole`.
        level: the magnification that `whole` hides, as a place in the layout's.
    """

    name: str
    title: str
    sentence: str
    mask: str
    level: int | None = None

    @property
    def is_cross_scale(self) -> bool:
        """Whether everything visible is of other magnifications than everything hidden."""
        return self.mask == "whole"


def patterns_of(layout: Layout) -> tuple[Pattern, ...]:
    """The patterns that say something for these magnifications."""
    found = [Pattern("random", "Random tiles hidden", "Tiles drawn at random, of all magnifications.", "random")]
    if len(layout.mpps) > 1:
        for level, mpp in enumerate(layout.mpps):
            name = format_mpp(mpp)
            found.append(
                Pattern(
                    f"whole {name}",
                    f"All tiles at {name} mpp hidden",
                    f"All tiles at {name} mpp; the others are visible.",
                    "whole",
                    level,
                )
            )
        found.append(
            Pattern(
                "subtree",
                "A tile hidden with all inside it",
                "A tile and all finer tiles inside it, sometimes also the one over it.",
                "subtree",
            )
        )
    if len(layout.mpps) > 2:
        found.append(
            Pattern(
                "coarse only", "Only the coarsest visible", "Everything but the coarsest magnification.", "coarse_only"
            )
        )
    return tuple(found)


def draw_hidden(
    pattern: Pattern, layout: Layout, present: Slots, *, rate: Sequence[float], most: int | None = None, seed: int
) -> Slots:
    """The hidden tiles of each region; none where the pattern is impossible or nothing would stay visible.

    Args:
        pattern: the way to hide.
        layout: where slots lie.
        present: which tiles there are.
        rate: smallest and largest share that the random pattern hides.
        most: in at most so many regions something is hidden, drawn at random; None for all.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    if pattern.mask == "whole":
        hidden = present & (layout.level == pattern.level)
    else:
        n = len(present)
        hidden = hide(
            pattern.mask,
            torch.from_numpy(np.tile(layout.xy_um, (n, 1, 1))),
            torch.from_numpy(np.tile(layout.mpp, (n, 1))),
            torch.from_numpy(present),
            tile_px=layout.tile_px,
            rate=(float(rate[0]), float(rate[1])),
            generator=generator,
        ).numpy()
    possible = hidden.any(axis=1) & (present & ~hidden).any(axis=1)
    if most is not None and possible.sum() > most:
        chosen = torch.randperm(int(possible.sum()), generator=generator)[:most].numpy()
        kept = np.zeros_like(possible)
        kept[np.flatnonzero(possible)[chosen]] = True
        possible = kept
    return np.asarray(hidden & possible[:, None])
