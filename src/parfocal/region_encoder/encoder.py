"""The region encoder: the tile embeddings of a region, at any magnifications and with any gaps, become one picture.

Absent tokens are never computed and never read. The work of a call is planned once (`packing`), and what depends only
on the geometry (positions, relative bias) is computed once for each distinct place, however many regions there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.region_encoder.attention import Block
from parfocal.region_encoder.checkpoint import load_weights, read_config, resolve, weights_digest, write_checkpoint
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.packing import Chunk, Packing, Places, Span, find_places, pack
from parfocal.region_encoder.position import PositionEmbedding, RelativeBias
from parfocal.region_encoder.readout import EncodedRegions, Readout, read_out
from parfocal.region_encoder.standardise import Standardiser

__all__ = ["RegionEncoder", "initialise"]

# Rows of a chunk. On a CPU the widest activations of size S must stay in the cache, and below the size from which the
# allocator asks the system for fresh pages at every layer; with gradients a few large products beat many small ones.
_CPU_ROWS, _CPU_TRAINING_ROWS, _GPU_ROWS = 832, 4096, 1 << 20


class RegionEncoder(nn.Module):
    """A pre-norm transformer over the present tokens of a region, with CLS and registers."""

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.standardiser = Standardiser(config)
        self.projectors = nn.ModuleList(
            _Projector(config.dims[group[0]], config.width) for group in config.projector_groups
        )
        self.position = PositionEmbedding(config.width)
        self.relative = RelativeBias(
            config.heads, config.specials, tile_px=config.tile_px, unit_um=config.finest_tile_um
        )
        self.specials = nn.Parameter(torch.zeros(config.specials, config.width))
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialise)
        nn.init.normal_(self.specials, std=0.02)

    def forward(
        self,
        tokens: Float[Tensor, "region token dim"],
        xy_um: Float[Tensor, "region token 2"],
        mpp: Float[Tensor, "region token"],
        present: Bool[Tensor, "region token"],
        *,
        generator: torch.Generator | None = None,
    ) -> EncodedRegions:
        """Encode regions from the raw embeddings of their present tiles.

        A region without any present tile is allowed: it is what the model says when it has seen nothing.

        Args:
            tokens: tile embeddings as the tile encoder gives them; a magnification that is narrower than `dim` uses
                its leading features. Values at absent tokens are never read, here and below.
            xy_um: tile centres about the region's centre, x right and y down, in micrometres.
            mpp: micrometres per pixel of each tile; any positive number.
            present: which tokens there are.
            generator: for drop path in training; torch's own when None.
        """
        regions, slots = present.shape
        on_cpu = tokens.device.type == "cpu"
        max_rows = (_CPU_TRAINING_ROWS if torch.is_grad_enabled() else _CPU_ROWS) if on_cpu else _GPU_ROWS
        packing = pack(present, specials=self.config.specials, max_rows=max_rows)
        places = find_places(xy_um, mpp, packing)
        if not packing.chunks:
            return _empty(tokens, slots, self.config)
        plan = _Plan.of(self, packing, places)
        flat = tokens.flatten(0, 1)
        rows, weights = [], []
        for chunk in packing.chunks:
            tiles = self._project(flat, packing, places, plan, chunk)
            x = _with_specials(self.specials.to(tiles.dtype), tiles, chunk)
            biases = [plan.bias(span, chunk, places) for span in chunk.spans]
            expert_rows = plan.expert_rows(chunk, places)
            for block in self.blocks:
                x, cls_weights = block(x, chunk.spans, biases, expert_rows, generator)
            rows.append(self.norm(x))
            weights += cls_weights
        return _unpack(rows, weights, packing, self.config, shape=(regions, slots))

    def _project(
        self, flat: Float[Tensor, "slot dim"], packing: Packing, places: Places, plan: "_Plan", chunk: Chunk
    ) -> Float[Tensor, "tile width"]:
        """Standardise and project the tiles of a chunk, and add what their places say."""
        raw = flat[chunk.tiles] if packing.is_dense else flat.index_select(0, packing.source[chunk.tiles])
        place = places.index[chunk.tiles]
        magnification = plan.magnification[place]
        # In a dense chunk the tokens of all regions have one pattern of places, so statistics broadcast.
        z = self.standardiser.apply_affine(raw, plan.scale[magnification], plan.shift[magnification])
        projected = None
        for projector, group in zip(self.projectors, self.config.projector_groups, strict=True):
            if len(self.projectors) == 1:
                projected = projector(z)
                break
            own = torch.isin(plan.level[place], torch.tensor(group, device=z.device)).nonzero().flatten()
            part = projector(z.index_select(0, own)[:, : self.config.dims[group[0]]])
            projected = part.new_zeros(len(z), part.shape[1]) if projected is None else projected
            projected = projected.index_copy(0, own, part)
        assert projected is not None
        return projected + plan.position[place]

    @torch.inference_mode()
    def encode(
        self,
        tokens: Float[Tensor, "region token dim"],
        xy_um: Float[Tensor, "region token 2"],
        mpp: Float[Tensor, "region token"],
        present: Bool[Tensor, "region token"],
    ) -> EncodedRegions:
        """Encode regions for use: evaluation mode, no gradients, on the model's device and in its precision.

        Arguments as in `forward`, on any device; the results are float32 and on the device of `tokens`.
        """
        was_training, device = self.training, self.specials.device
        self.eval()
        try:
            encoded = self(tokens.to(device), xy_um.to(device), mpp.to(device), present.to(device))
        finally:
            self.train(was_training)
        return encoded.to(tokens.device, torch.float32)

    def standardise(
        self, tokens: Float[Tensor, "*batch dim"], mpp: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch dim"]:
        """The tokens as z-scores of their magnification, clipped; see `Standardiser`."""
        return self.standardiser(tokens, mpp)

    def readout(
        self,
        encoded: EncodedRegions,
        mpp: Float[Tensor, "region token"],
        present: Bool[Tensor, "region token"],
        kind: Readout,
    ) -> Float[Tensor, "region *rest"]:
        """What represents a region: `cls`, `tokens` or `attention`; see `readout.py`."""
        return read_out(encoded, mpp, present, kind, config=self.config)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over settings and weights."""
        return weights_digest(self.config, {f"encoder.{name}": value for name, value in self.state_dict().items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json; config.json comes last."""
        weights = {f"encoder.{name}": value for name, value in self.state_dict().items()}
        write_checkpoint(Path(folder), self.config, weights)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> "RegionEncoder":
        """A trained encoder from a folder or from the Hugging Face hub, in evaluation mode.

        Raises:
            StoreError: there is no checkpoint, or it is damaged; the message says what was looked for.
            FormatVersionError: a newer parfocal wrote it.
        """
        folder = resolve(folder_or_hub_id)
        encoder = cls(read_config(folder))
        load_weights(encoder, folder, prefix="encoder.")
        return encoder.to(device=device, dtype=getattr(torch, dtype)).eval()


class _Projector(nn.Sequential):
    """LN-Linear-SiLU-Linear from one tile encoder's width to the trunk's."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, z: Float[Tensor, "tile dim"]) -> Float[Tensor, "tile width"]:
        """Standardised embeddings come in float32 and are rounded to the precision of the weights here."""
        return super().forward(z.to(self[1].weight.dtype))


@dataclass(frozen=True, eq=False)
class _Plan:
    """What depends on the places alone: computed once for a call.

    Attributes:
        scale, shift: standardisation of each distinct mpp.
        magnification: the distinct mpp of each place.
        level: the nearest magnification of the model of each place.
        position: the position embedding of each place.
        bias_table: the bias between all tokens of a region that had every place, flattened; None where computing
            each region's own pairs is less work.
    """

    relative: RelativeBias
    n_places: int
    specials: int
    scale: Float[Tensor, "mpp dim"]
    shift: Float[Tensor, "mpp dim"]
    magnification: Int64[Tensor, " place"]
    level: Int64[Tensor, " place"]
    position: Float[Tensor, "place width"]
    bias_table: Float[Tensor, "pair head"] | None
    n_experts: int

    @classmethod
    def of(cls, encoder: RegionEncoder, packing: Packing, places: Places) -> "_Plan":
        """Evaluate positions, statistics and pairs of a batch."""
        mpps, magnification = torch.unique(places.mpp, return_inverse=True)
        scale, shift = encoder.standardiser.affine(mpps.tolist())
        levels = torch.tensor(
            [encoder.config.nearest(mpp) for mpp in mpps.tolist()], dtype=torch.long, device=places.mpp.device
        )
        specials = encoder.config.specials
        pairs = sum(span.regions * (span.length - specials) ** 2 for chunk in packing.chunks for span in chunk.spans)
        table = None
        if len(places.mpp) ** 2 <= pairs:
            table = encoder.relative(places.xy_um[None], places.mpp[None])[0].flatten(0, 1)
        return cls(
            relative=encoder.relative,
            n_places=len(places.mpp),
            specials=specials,
            scale=scale,
            shift=shift,
            magnification=magnification,
            level=levels[magnification],
            position=encoder.position(places.xy_um, places.mpp),
            bias_table=table,
            n_experts=len(encoder.blocks[0].experts),
        )

    def bias(self, span: Span, chunk: Chunk, places: Places) -> Float[Tensor, "#region head token token"]:
        """The bias of a span's regions; one for all of them where they have the same tiles."""
        tiles = span.length - self.specials
        before = sum(one.regions * (one.length - self.specials) for one in chunk.spans if one.start < span.start)
        first = chunk.tiles.start + before
        place = places.index[first : first + span.regions * tiles].view(span.regions, tiles)
        if span.regions > 1 and bool((place == place[:1]).all()):
            place = place[:1]
        if self.bias_table is None:
            bias = self.relative(places.xy_um[place], places.mpp[place])
            return bias.permute(0, 3, 1, 2).contiguous()
        special = torch.arange(self.specials, device=place.device).expand(len(place), -1)
        token = torch.cat([special, place + self.specials], dim=1)  # (region, token)
        pair = token[:, :, None] * (self.specials + self.n_places) + token[:, None, :]
        bias = self.bias_table.index_select(0, pair.flatten()).view(*pair.shape, -1)
        return bias.permute(0, 3, 1, 2).contiguous()

    def expert_rows(self, chunk: Chunk, places: Places) -> list[Int64[Tensor, " _row"]]:
        """The rows of each expert of a separate trunk; nothing for a shared one."""
        if self.n_experts == 1:
            return []
        level = self.level[places.index[chunk.tiles]]
        of_row = torch.cat(
            [
                torch.cat([part.new_full((len(part), self.specials), -1), part], dim=1).flatten()
                for part in _by_span(level, chunk, self.specials)
            ]
        )
        return [(of_row == expert - 1).nonzero().flatten() for expert in range(self.n_experts)]


def _by_span(tiles: Tensor, chunk: Chunk, specials: int) -> list[Tensor]:
    """The tiles of a chunk (first axis) as one (region, tile, ...) for each span."""
    lengths = [span.length - specials for span in chunk.spans]
    parts = tiles.split([span.regions * length for span, length in zip(chunk.spans, lengths, strict=True)])
    return [
        part.view(span.regions, length, *tiles.shape[1:])
        for part, span, length in zip(parts, chunk.spans, lengths, strict=True)
    ]


def _with_specials(
    specials: Float[Tensor, "special width"], tiles: Float[Tensor, "tile width"], chunk: Chunk
) -> Float[Tensor, "row width"]:
    """The rows of a chunk: for each region CLS and registers, then its tiles."""
    parts = [
        torch.cat([specials.expand(len(part), -1, -1), part], dim=1).flatten(0, 1)
        for part in _by_span(tiles, chunk, len(specials))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _unpack(
    rows: Sequence[Tensor],
    weights: Sequence[Tensor],
    packing: Packing,
    config: RegionEncoderConfig,
    *,
    shape: tuple[int, int],
) -> EncodedRegions:
    """Bring the rows back to the axes of the batch; absent tokens become 0."""
    regions, slots = shape
    specials = config.specials
    spans = [span for chunk in packing.chunks for span in chunk.spans]
    flat = rows[0] if len(rows) == 1 else torch.cat(list(rows))
    if packing.is_dense:
        grid = flat.view(regions, specials + slots, -1)
        cls_weights = torch.cat([weight[:, specials:] for weight in weights])
        return EncodedRegions(grid[:, 0], grid[:, 1:specials], grid[:, specials:], cls_weights)
    parts = [
        part.view(span.regions, span.length, -1)
        for part, span in zip(flat.split([span.regions * span.length for span in spans]), spans, strict=True)
    ]
    heads = torch.cat([part[:, :specials] for part in parts])
    tiles = torch.cat([part[:, specials:].flatten(0, 1) for part in parts])
    tile_weights = torch.cat([weight[:, specials:].flatten() for weight in weights])
    back = torch.argsort(packing.order)
    heads = heads.index_select(0, back)
    tokens = tiles.new_zeros(regions * slots, tiles.shape[1]).index_copy(0, packing.source, tiles)
    cls_weights = tile_weights.new_zeros(regions * slots).index_copy(0, packing.source, tile_weights)
    return EncodedRegions(heads[:, 0], heads[:, 1:], tokens.view(regions, slots, -1), cls_weights.view(regions, slots))


def _empty(tokens: Tensor, slots: int, config: RegionEncoderConfig) -> EncodedRegions:
    nothing = tokens.new_zeros(0, slots, config.width)
    return EncodedRegions(
        tokens.new_zeros(0, config.width), tokens.new_zeros(0, config.registers, config.width), nothing, nothing[..., 0]
    )


def initialise(module: nn.Module) -> None:
    """Truncated normal matrices of sd 0.02 and zero biases, as vision transformers start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
