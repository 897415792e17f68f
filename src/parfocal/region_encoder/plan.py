"""What a call needs beside the embeddings: everything that follows from places alone, computed once for each place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.levels import nearest_levels
from parfocal.region_encoder.packing import Chunk, Packing, Places, split_by_span
from parfocal.region_encoder.position import PositionEmbedding, RelativeBias
from parfocal.region_encoder.standardise import Standardiser

__all__ = ["ChunkPlan", "Plan"]


@dataclass(frozen=True, eq=False)
class ChunkPlan:
    """What the trunk needs to know about a chunk.

    Attributes:
        chunk: its ranges and spans.
        place: the place of each tile.
        biases: for each span what is added to the attention scores; one for all its regions where they have the
            same tiles.
        expert_rows: for a separate trunk the rows of each expert; empty for a shared one.
    """

    chunk: Chunk
    place: Int64[Tensor, " tile"]
    biases: Sequence[Float[Tensor, "_region head _token _token"]]
    expert_rows: Sequence[Int64[Tensor, " _row"]]


@dataclass(frozen=True, eq=False)
class Plan:
    """What the places of a batch's tiles decide.

    Attributes:
        places: the distinct places.
        scale: of the standardisation, for each distinct mpp.
        shift: likewise.
        magnification: the distinct mpp of each place.
        level: the model's nearest magnification of each place.
        position: the position embedding of each place.
        bias_table: the bias between all tokens of a region that had every place, with the pairs in one axis; None
            where that would be more work than the pairs that really occur.
    """

    config: RegionEncoderConfig
    relative: RelativeBias
    places: Places
    scale: Float[Tensor, "mpp dim"]
    shift: Float[Tensor, "mpp dim"]
    magnification: Int64[Tensor, " place"]
    level: Int64[Tensor, " place"]
    position: Float[Tensor, "place width"]
    bias_table: Float[Tensor, "pair head"] | None

    @classmethod
    def of(
        cls,
        packing: Packing,
        places: Places,
        *,
        config: RegionEncoderConfig,
        standardiser: Standardiser,
        position: PositionEmbedding,
        relative: RelativeBias,
    ) -> "Plan":
        """Evaluate statistics, positions and pairs of a batch."""
        mpps, magnification = torch.unique(places.mpp, return_inverse=True)
        scale, shift = standardiser.affine(mpps)
        n_pairs = sum(
            span.regions * (span.length - config.specials) ** 2 for chunk in packing.chunks for span in chunk.spans
        )
        table = None
        if len(places.mpp) ** 2 <= n_pairs:
            table = relative(places.xy_um[None], places.mpp[None])[0].flatten(0, 1)
        return cls(
            config=config,
            relative=relative,
            places=places,
            scale=scale,
            shift=shift,
            magnification=magnification,
            level=nearest_levels(places.mpp, config),
            position=position(places.xy_um, places.mpp),
            bias_table=table,
        )

    def of_chunk(self, chunk: Chunk) -> ChunkPlan:
        """The part of a chunk."""
        place = self.places.index[chunk.tiles]
        by_span = split_by_span(place, chunk, specials=self.config.specials)
        biases = [self._bias(part) for part in by_span]
        return ChunkPlan(chunk, place, biases, self._expert_rows(place, chunk))

    def _bias(self, place: Int64[Tensor, "region tile"]) -> Float[Tensor, "_region head token token"]:
        if len(place) > 1 and bool((place == place[:1]).all()):
            place = place[:1]
        if self.bias_table is None:
            direct: Tensor = self.relative(self.places.xy_um[place], self.places.mpp[place])
            return direct.permute(0, 3, 1, 2).contiguous()
        specials = self.config.specials
        special = torch.arange(specials, device=place.device).expand(len(place), -1)
        token = torch.cat([special, place + specials], dim=1)  # (region, token)
        pair = token[:, :, None] * (specials + len(self.places.mpp)) + token[:, None, :]
        bias = self.bias_table.index_select(0, pair.flatten()).view(*pair.shape, -1)
        return bias.permute(0, 3, 1, 2).contiguous()

    def _expert_rows(self, place: Int64[Tensor, " tile"], chunk: Chunk) -> list[Int64[Tensor, " _row"]]:
        if self.config.trunk == "shared":
            return []
        # Expert 0 is for what belongs to no tile, the filling rows included.
        parts = split_by_span(self.level[place] + 1, chunk, specials=self.config.specials)
        expert = torch.cat([torch.nn.functional.pad(part, (self.config.specials, 0)).flatten() for part in parts])
        expert = torch.nn.functional.pad(expert, (0, chunk.filling))
        return [(expert == one).nonzero().flatten() for one in range(1 + len(self.config.mpps))]
