"""Turning and mirroring regions: coordinates move, and the tiles' rows change as their encoder declares."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from parfocal.encoders import FilterBank, Symmetry
from parfocal.encoders.network import grid_symmetry
from parfocal.geometry import format_mpp
from parfocal.region_encoder.batch import Centres, RegionBatch
from parfocal.store import EmbeddingSet


def move_under(xy_um: Centres, element: Int[Tensor, " region"]) -> Centres:
    """Positions about the region's centre under the eight symmetries of the square, numbered as in `Symmetry`.

    The region is mirrored left to right first (elements 4 to 7), then turned counter-clockwise; y points down, so a
    quarter turn takes (x, y) to (y, -x).
    """
    flip, turns = element // 4, element % 4
    x = torch.where((flip == 1)[:, None], -xy_um[..., 0], xy_um[..., 0])
    y = xy_um[..., 1]
    turns = turns[:, None]
    x, y = torch.where(turns % 2 == 1, y, x), torch.where(turns % 2 == 1, -x, y)
    # A turn by 180 degrees more for the third and fourth.
    sign = torch.where(turns >= 2, -1.0, 1.0).to(xy_um.dtype)
    return torch.stack([x * sign, y * sign], dim=-1)


def declared_symmetries(tiles: EmbeddingSet) -> dict[float, Symmetry]:
    """How the rows of each magnification change, as far as the set knows its encoders.

    An encoder's description says so under `symmetry`; the filter bank's permutation comes from the bank itself, that of
    a 2 x 2 grid from its cells. Everything else is unknown: features of other tools, and networks that declare nothing.
    """
    described = tiles.settings.get("encoders", {})
    found = {}
    for mpp in tiles.mpps:
        description = described.get(format_mpp(mpp), {}) if isinstance(described, Mapping) else {}
        found[mpp] = _symmetry_of(description if isinstance(description, Mapping) else {}, tiles.dims[mpp])
    return found


def _symmetry_of(description: Mapping[str, object], dim: int) -> Symmetry:
    if description.get("symmetry") == "invariant":
        return Symmetry("invariant")
    if description.get("symmetry") == "permutation" and description.get("readout") == "grid2":
        return grid_symmetry(dim // 4)
    if description.get("encoder") == "filterbank":
        bank = FilterBank(int(str(description.get("tile_px", 224))))
        if bank.describe() == {**description, **bank.describe()} and bank.dim == dim:
            return bank.symmetry
    return Symmetry("unknown")


@dataclass(frozen=True, eq=False)
class SquareSymmetries:
    """Applies a random symmetry to each region of a batch; does nothing where one magnification's is unknown.

    Attributes:
        mpps: coarse to fine.
        permutation: per magnification, element and dim, the dim that moves there; None where no row changes.
        active: whether anything is done.
        sentence: what is done, and why.
    """

    mpps: tuple[float, ...]
    permutation: Int[Tensor, "mpp 8 dim"] | None
    active: bool
    sentence: str

    @classmethod
    def of(
        cls,
        symmetries: Mapping[float, Symmetry],
        *,
        dim: int,
        wanted: Literal["declared", "invariant", "off"] = "declared",
    ) -> "SquareSymmetries":
        """From how each magnification's rows change; `dim` is the width of a batch's rows.

        A setting may want something else than what is declared: rows that are taken not to change, or no turns.
        """
        mpps = tuple(sorted(symmetries, reverse=True))
        if wanted == "off":
            return cls(mpps, None, False, "regions are not turned, as asked")
        if wanted == "invariant":
            return cls(mpps, None, True, "regions are turned, rows taken as unchanged, as asked")
        if any(symmetries[mpp].kind == "unknown" for mpp in mpps):
            sentence = "regions are not turned, as it is unknown how the tile encoder's rows change"
            return cls(mpps, None, False, sentence)
        if all(symmetries[mpp].permutation is None for mpp in mpps):
            return cls(mpps, None, True, "regions are turned, rows unchanged, as the tile encoder declares")
        tables = np.tile(np.arange(dim), (len(mpps), 8, 1))
        for k, mpp in enumerate(mpps):
            table = symmetries[mpp].permutation
            if table is not None:
                tables[k, :, : table.shape[1]] = table
        sentence = "regions are turned, rows permuted, as the tile encoder declares"
        return cls(mpps, torch.from_numpy(tables), True, sentence)

    def apply(self, regions: RegionBatch, generator: torch.Generator) -> RegionBatch:
        """The regions, each under a symmetry of its own."""
        if not self.active:
            return regions
        element = torch.randint(0, 8, (len(regions),), generator=generator)
        tokens = regions.tokens
        if self.permutation is not None:
            level = torch.zeros_like(regions.mpp, dtype=torch.long)
            for k, mpp in enumerate(self.mpps):
                level[regions.mpp == mpp] = k
            tokens = tokens.gather(2, self.permutation[level, element[:, None]])  # (region, token, dim)
        return replace(regions, tokens=tokens, xy_um=move_under(regions.xy_um, element))
