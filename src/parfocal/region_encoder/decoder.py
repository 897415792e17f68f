"""The query decoder: what a tile at any place and any magnification should look like, given an encoded region.

With the encoder it is the model that pretraining trains, and one checkpoint holds both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from parfocal.region_encoder.attention import FeedForward, attend, linear
from parfocal.region_encoder.batch import EncodedRegions, TokenMask
from parfocal.region_encoder.checkpoint import read_model, weights_digest, write_checkpoint
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.encoder import RegionEncoder, initialise
from parfocal.region_encoder.plan import ROW_MULTIPLE
from parfocal.region_encoder.position import NearnessBias, PositionEmbedding
from parfocal.region_encoder.standardise import nearest_levels

# A log-variance outside this says nothing about standardised features, and its exponential would only overflow.
_LOG_VARIANCE = (-10.0, 10.0)


@dataclass(frozen=True, eq=False)
class Decoded:
    """The embedding that is expected at each query, in standardised features; 0 beyond a magnification's width."""

    mean: Float[Tensor, "region query dim"]
    log_variance: Float[Tensor, "region query dim"]


class EmbeddingDecoder(nn.Module):
    """Cross-attention from queries (x, y, mpp) to the encoded region. Queries do not see each other.

    So the answer at a place does not depend on what else is asked, and a tile can be asked about that was never read.
    """

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.position = PositionEmbedding(config.width)
        self.nearness = None
        if config.decoder_bias == "nearness":
            self.nearness = NearnessBias(
                config.heads, config.specials, tile_px=config.tile_px, unit_um=config.finest_tile_um
            )
        self.blocks = nn.ModuleList(_CrossBlock(config) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.width)
        self.memory_norm = nn.LayerNorm(config.width)
        # Each magnification has its own answer sheet: their features are standardised separately.
        self.outputs = nn.ModuleList(nn.Linear(config.width, 2 * dim) for dim in config.dims)
        self.apply(initialise)

    def forward(
        self,
        memory: Float[Tensor, "region slot width"],
        memory_present: Bool[Tensor, "region slot"],
        tile_xy_um: Float[Tensor, "region tile 2"],
        tile_mpp: Float[Tensor, "region tile"],
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
        query_present: Bool[Tensor, "region query"] | None = None,
    ) -> Decoded:
        """Ask for embeddings.

        Args:
            memory: what may be looked at: CLS and registers alone (the bottleneck), or with the contextual tokens.
            memory_present: which of it there is; at least one slot of each region. Other values are never read.
            tile_xy_um: centres of the tiles that `memory` ends with; none under the bottleneck.
            tile_mpp: their micrometres per pixel.
            xy_um: centres of the asked tiles about the region's centre, in micrometres.
            mpp: micrometres per pixel of the asked tiles; the output layer is that of the nearest magnification.
            query_present: which queries there are, where regions are asked about different numbers of tiles; the
                answers at the others are 0. All of them when None.
        """
        queries = _Cells.of(torch.ones_like(mpp, dtype=torch.bool) if query_present is None else query_present)
        slots = _Cells.of(memory_present)
        x = self.position(queries.rows(xy_um), queries.rows(mpp))
        seen = self.memory_norm(slots.rows(memory))
        bias = self._bias(memory_present, tile_xy_um, tile_mpp, xy_um, mpp, seen.dtype)
        for block in self.blocks:
            x = block(x, seen, queries, slots, bias)
        answers = self._answer(self.norm(x), nearest_levels(queries.rows(mpp), self.config))
        mean, log_variance = queries.grid(answers).chunk(2, dim=-1)
        return Decoded(mean, log_variance.clamp(*_LOG_VARIANCE))

    def _bias(
        self,
        memory_present: Bool[Tensor, "region slot"],
        tile_xy_um: Float[Tensor, "region tile 2"],
        tile_mpp: Float[Tensor, "region tile"],
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "region head _query slot"] | None:
        """What is added to the scores: what is near, and minus infinity at absent slots; None where that is nothing."""
        bias = None
        if not bool(memory_present.all()):
            absent = torch.zeros_like(memory_present, dtype=dtype).masked_fill(~memory_present, float("-inf"))
            bias = absent[:, None, None].expand(-1, self.config.heads, -1, -1)
        if self.nearness is not None and tile_mpp.shape[1]:
            there = memory_present[:, self.config.specials :]
            tile_mpp = torch.where(there, tile_mpp, 1.0)
            tile_xy_um = torch.where(there[..., None], tile_xy_um, 0.0)
            near: Tensor = self.nearness(xy_um, mpp, tile_xy_um, tile_mpp)
            bias = near if bias is None else near + bias
        return bias

    def _answer(
        self, x: Float[Tensor, "query width"], level: Int64[Tensor, " query"]
    ) -> Float[Tensor, "query both_dims"]:
        """Mean and log-variance of each query, by the output layer of its magnification."""
        owns, answers = [], []
        for k, (dim, output) in enumerate(zip(self.config.dims, self.outputs, strict=True)):
            own = (level == k).nonzero().flatten()
            answer = linear(cast(nn.Linear, output), x.index_select(0, own)).view(len(own), 2, dim)
            owns.append(own)
            if dim < self.config.dim:
                answer = functional.pad(answer, (0, self.config.dim - dim))
            answers.append(answer.flatten(1))
        return torch.cat(answers).index_select(0, torch.argsort(torch.cat(owns)))


@dataclass(frozen=True, eq=False)
class _Cells:
    """The way between a (region, cell) grid and rows of its present cells.

    Attributes:
        index: the cell of each row; None when all are there. Some copies of the first follow, to fill up to a whole
            number of `ROW_MULTIPLE`; what becomes of them is dropped.
        n_rows: the rows without those.
    """

    regions: int
    width: int
    index: Int64[Tensor, " row"] | None
    n_rows: int

    @classmethod
    def of(cls, present: Bool[Tensor, "region cell"]) -> "_Cells":
        """The cells of a grid."""
        regions, width = present.shape
        if bool(present.all()) and regions * width % ROW_MULTIPLE == 0:
            return cls(regions, width, None, regions * width)
        index = present.flatten().nonzero().flatten()
        filling = -len(index) % ROW_MULTIPLE if len(index) else 0
        return cls(regions, width, torch.cat([index, index[:1].expand(filling)]), len(index))

    def rows(self, grid: Float[Tensor, "region cell *rest"]) -> Float[Tensor, "row *rest"]:
        """The present cells as rows, and the filling."""
        flat = grid.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def grid(self, rows: Float[Tensor, "row dim"]) -> Float[Tensor, "region cell dim"]:
        """The rows at their cells, 0 at absent ones."""
        if self.index is not None:
            blank = rows.new_zeros(self.regions * self.width, rows.shape[1])
            rows = blank.index_copy(0, self.index[: self.n_rows], rows[: self.n_rows])
        return rows.view(self.regions, self.width, -1)


class _CrossBlock(nn.Module):
    """Queries look at the memory, then think for themselves."""

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.mlp = FeedForward(config.width)

    def forward(
        self,
        x: Float[Tensor, "query width"],
        memory: Float[Tensor, "slot width"],
        queries: _Cells,
        slots: _Cells,
        bias: Float[Tensor, "region head _query _cell"] | None,
    ) -> Float[Tensor, "query width"]:
        """The queries after the block."""
        query = queries.grid(linear(self.query, self.norm(x)))
        both = slots.grid(linear(self.key_value, memory))
        query = query.view(*query.shape[:2], self.heads, -1)
        both = both.view(*both.shape[:2], 2, self.heads, -1)
        key, value = torch.unbind(both, dim=2)
        attended = attend(query, key, value, bias)
        x = x + linear(self.out, queries.rows(attended.values))
        added: Tensor = self.mlp(x)
        return x + added


class RegionModel(nn.Module):
    """A region encoder with the decoder that can be asked about any tile."""

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.encoder = RegionEncoder(config)
        self.decoder = EmbeddingDecoder(config)

    @property
    def config(self) -> RegionEncoderConfig:
        """The settings of both."""
        return self.encoder.config

    def decode(
        self,
        encoded: EncodedRegions,
        present: TokenMask,
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
        *,
        query_present: Bool[Tensor, "region query"] | None = None,
        bottleneck: bool = False,
    ) -> Decoded:
        """Ask an encoded region about tiles.

        Args:
            encoded: what the encoder made of the tokens.
            present: which tokens it was given.
            xy_um: centres of the asked tiles about the region's centre, in micrometres.
            mpp: their micrometres per pixel.
            query_present: which of the questions are asked; all when None.
            bottleneck: look at CLS and the registers only; what CLS must then carry makes it the region's vector.
        """
        memory = torch.cat([encoded.cls[:, None], encoded.registers], dim=1)
        memory_present = present.new_ones(memory.shape[:2])
        n_tiles = 0 if bottleneck else present.shape[1]
        memory = torch.cat([memory, encoded.tokens[:, :n_tiles]], dim=1)
        memory_present = torch.cat([memory_present, present[:, :n_tiles]], dim=1)
        places = encoded.xy_um[:, :n_tiles], encoded.mpp[:, :n_tiles]
        decoded: Decoded = self.decoder(memory, memory_present, *places, xy_um, mpp, query_present)
        return decoded

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over settings and weights."""
        return weights_digest(self.config, self.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json; config.json comes last."""
        write_checkpoint(Path(folder), self.config, self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> "RegionModel":
        """A trained model from a folder or from the Hugging Face hub, in evaluation mode.

        Raises:
            StoreError: there is no checkpoint, it is damaged, or it holds an encoder alone.
            FormatVersionError: a newer parfocal wrote it.
        """
        return read_model(cls, folder_or_hub_id).to(device=device, dtype=getattr(torch, dtype))
