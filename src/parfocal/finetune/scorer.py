"""From the embeddings of drawn tiles to scores: the region encoder, what is read out of it, and the head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.finetune.heads import Head
from parfocal.finetune.reading import PreparedRegion
from parfocal.heads.preparation import bounds_of
from parfocal.region_encoder import RegionBatch, RegionEncoder

Readout = Literal["cls", "tokens", "cls+mixed", "tokens+mixed"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tiles of drawn regions lie; nothing of what they show.

    Attributes:
        batch: the regions, whose tokens are the numbers of their tiles.
        share: how much each tile counts for its region's vector of each magnification, coarse to fine.
    """

    batch: RegionBatch
    share: Float[Tensor, "region level token"]

    @staticmethod
    def of(regions: Sequence[PreparedRegion], mpps: Sequence[float], *, at_places: bool) -> "Layout":
        """Lay regions side by side.

        Of each magnification counts the tile in the middle at places, and the mean of all tiles elsewhere; of one that
        a region has no tile of, the mean of all that there is.

        Args:
            regions: as they were read.
            mpps: the magnifications, coarse to fine.
            at_places: whether regions lie on places.
        """
        counts = np.array([len(one) for one in regions], dtype=np.int64)
        place = np.concatenate([np.column_stack([one.xy_um, one.mpp]) for one in regions]).astype(np.float32)
        number = np.arange(len(place), dtype=np.float32)[:, None]
        none = np.zeros(len(regions), dtype=np.int64)
        batch = RegionBatch.of_rows(number, place, bounds_of(counts), slide=none, region=none)
        shares = []
        for mpp in mpps:
            own = batch.present & (batch.mpp == np.float32(mpp))
            if at_places:
                away = batch.xy_um.abs().amax(dim=2).masked_fill(~own, float("inf"))
                nearest = torch.zeros_like(own).scatter(1, away.argmin(dim=1, keepdim=True), True)
                own &= nearest
            own = torch.where(own.any(dim=1, keepdim=True), own, batch.present)
            shares.append(own / own.sum(dim=1, keepdim=True).clamp(min=1))
        return Layout(batch, torch.stack(shares, dim=1))

    def with_rows(self, rows: Float[Tensor, "tile dim"]) -> Float[Tensor, "region token dim"]:
        """The embeddings of the tiles in their places; absent ones are 0."""
        present = self.batch.present.to(rows.device)
        empty = rows.new_zeros(*present.shape, rows.shape[1])
        number = self.batch.tokens[..., 0].long().to(rows.device)[present]
        return empty.index_put(present.nonzero(as_tuple=True), rows[number])


class Scorer(nn.Module):
    """Everything behind the tile encoder."""

    def __init__(self, region: RegionEncoder, readout: Readout, head: Head) -> None:
        """Put the parts together; the head takes what `part_widths` says."""
        super().__init__()
        self.region, self.readout, self.head = region, readout, head

    def vectors(
        self, rows: Float[Tensor, "tile dim"], layout: Layout, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "region width"]:
        """The vector of every region."""
        device = rows.device
        tokens, batch = layout.with_rows(rows), layout.batch
        placed = (batch.xy_um.to(device), batch.mpp.to(device), batch.present.to(device))
        encoded = self.region(tokens, *placed, generator=generator)
        share = layout.share.to(device)
        kind, _, beside = self.readout.partition("+")
        parts = [encoded.cls] if kind == "cls" else [_levels(share, encoded.tokens)]
        if beside:
            parts.append(_levels(share, tokens))
        return torch.cat([one.to(rows.dtype) for one in parts], dim=1)

    def forward(
        self,
        rows: Float[Tensor, "tile dim"],
        layout: Layout,
        units: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "column unit"]:
        """The scores of units of consecutive regions: slides, or single places.

        Args:
            rows: embeddings of the tiles.
            layout: of the regions.
            units: how many regions each has.
            generator: for dropped paths in training.
        """
        return self.score(self.vectors(rows, layout, generator=generator), units)

    def score(self, vectors: Float[Tensor, "region width"], units: Sequence[int]) -> Float[Tensor, "column unit"]:
        """The scores of units from the vectors of their regions."""
        number, present = padded(units)
        scores: Tensor = self.head(vectors[number.to(vectors.device)], present.to(vectors.device))
        return scores


def part_widths(region: RegionEncoder, readout: Readout) -> list[int]:
    """How long the parts of a region's vector are: CLS or the token of each magnification, and tile embeddings."""
    config = region.config
    kind, _, beside = readout.partition("+")
    own = [config.width] * (1 if kind == "cls" else len(config.mpps))
    return own + ([config.dim] * len(config.mpps) if beside else [])


def _levels(
    share: Float[Tensor, "region level token"], tokens: Float[Tensor, "region token dim"]
) -> Float[Tensor, "region _wide"]:
    return torch.einsum("rlt,rtd->rld", share.to(tokens.dtype), tokens).flatten(1)


def padded(counts: Sequence[int]) -> tuple[Int64[Tensor, "unit _most"], Bool[Tensor, "unit _most"]]:
    """The numbers of consecutive things of each unit, with which of them are real."""
    count = torch.tensor(counts)
    first = torch.cumsum(count, dim=0) - count
    order = torch.arange(int(count.max()))
    present = order < count[:, None]
    return torch.where(present, first[:, None] + order, first[:, None]), present
