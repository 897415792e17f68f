"""The region encoder: the tile embeddings of a region, at any magnifications and with any gaps, become one picture.

Absent tokens are never computed and never read. The work of a call is planned once (`plan`), and what depends only
on the geometry (positions, relative bias) is computed once for each distinct place, however many regions there are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.region_encoder.attention import Block, linear
from parfocal.region_encoder.batch import Centres, EncodedRegions, Mpps, Readout, TokenMask, Tokens
from parfocal.region_encoder.checkpoint import read_model, weights_digest, write_checkpoint
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.plan import ChunkPlan, Packing, Plan, find_places, pack, split_by_span
from parfocal.region_encoder.position import PositionEmbedding, RelativeBias
from parfocal.region_encoder.standardise import Standardiser, nearest_levels

# Rows of a chunk. On a CPU the widest activations of size S must stay in the cache, and below the size from which the
# allocator asks the system for fresh pages at every layer; with gradients a few large products beat many small ones.
_CPU_ROWS, _CPU_TRAINING_ROWS, _GPU_ROWS = 1664, 4096, 1 << 20


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
        tokens: Tokens,
        xy_um: Centres,
        mpp: Mpps,
        present: TokenMask,
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
        on_cpu = tokens.device.type == "cpu"
        max_rows = (_CPU_TRAINING_ROWS if torch.is_grad_enabled() else _CPU_ROWS) if on_cpu else _GPU_ROWS
        packing = pack(present, specials=self.config.specials, max_rows=max_rows)
        if not packing.chunks:
            return _nothing(tokens, xy_um, mpp, self.config)
        plan = Plan.of(
            packing,
            find_places(xy_um, mpp, packing),
            config=self.config,
            standardiser=self.standardiser,
            position=self.position,
            relative=self.relative,
        )
        flat = tokens.flatten(0, 1)
        rows, weights = [], []
        for chunk in packing.chunks:
            part = plan.of_chunk(chunk)
            x = self._embed(flat[chunk.tiles] if packing.is_dense else flat[packing.source[chunk.tiles]], plan, part)
            for block in self.blocks:
                x, cls_weights = block(x, part, generator)
            rows.append(self.norm(x)[: len(x) - chunk.filling])
            weights += cls_weights
        return _unpack(rows, weights, packing, xy_um, mpp, specials=self.config.specials)

    def _embed(self, raw: Float[Tensor, "tile dim"], plan: Plan, part: ChunkPlan) -> Float[Tensor, "row width"]:
        """The rows that enter the trunk: CLS and registers, and the tiles standardised, projected and put in place."""
        z = self.standardiser.apply_affine(raw, plan.scale, plan.shift, plan.magnification[part.place])
        groups = self.config.projector_groups
        if len(groups) == 1:
            tiles = self.projectors[0](z)
        else:
            level = plan.level[part.place]
            owns = [torch.isin(level, torch.tensor(group, device=z.device)).nonzero().flatten() for group in groups]
            projected = [
                projector(z.index_select(0, own)[:, : self.config.dims[group[0]]])
                for projector, group, own in zip(self.projectors, groups, owns, strict=True)
            ]
            tiles = torch.cat(projected).index_select(0, torch.argsort(torch.cat(owns)))
        tiles = tiles + plan.position[part.place]
        specials = self.specials.to(tiles.dtype)
        rows = [
            torch.cat([specials.expand(len(one), -1, -1), one], dim=1).flatten(0, 1)
            for one in split_by_span(tiles, part.chunk, specials=len(specials))
        ]
        if part.chunk.filling:
            rows.append(tiles.new_zeros(part.chunk.filling, tiles.shape[1]))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    @torch.inference_mode()
    def encode(self, tokens: Tokens, xy_um: Centres, mpp: Mpps, present: TokenMask) -> EncodedRegions:
        """Encode regions for use: evaluation mode, no gradients, on the model's device and in its precision.

        Arguments as in `forward`, on any device; the results are float32 and on the device of `tokens`.
        """
        was_training, device = self.training, self.specials.device
        self.eval()
        try:
            encoded: EncodedRegions = self(tokens.to(device), xy_um.to(device), mpp.to(device), present.to(device))
        finally:
            self.train(was_training)
        return encoded.to(tokens.device, torch.float32)

    def standardise(
        self, tokens: Float[Tensor, "*batch dim"], mpp: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch dim"]:
        """The tokens as z-scores of their magnification, clipped; see `Standardiser`."""
        z: Tensor = self.standardiser(tokens, mpp)
        return z

    def readout(
        self,
        encoded: EncodedRegions,
        mpp: Mpps,
        present: TokenMask,
        kind: Readout,
    ) -> Float[Tensor, "region *rest"]:
        """One vector for each region (`cls`: width; `attention`: width * (1 + magnifications)), or its `tokens`.

        The parts of `attention` are CLS and, for each magnification of the model, coarse to fine, the mean of its
        contextual tokens weighted by what CLS looked at in the last block. A token of another mpp counts to the nearest
        magnification. Where a region has no token of a magnification, that part is the weighted mean of all tokens that
        it has: the best that is known of the region, and never a zero vector that would look like an observation.

        Raises:
            ValueError: `attention` of a region without any present token.
        """
        if kind == "cls":
            return encoded.cls
        if kind == "tokens":
            return encoded.tokens
        if not bool(present.any(dim=1).all()):
            empty = (~present.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"regions {empty} have no tile present; drop them before reading out by attention")
        everything = encoded.weighted_mean(present)
        level = nearest_levels(mpp, self.config)
        parts = [encoded.cls]
        for k in range(len(self.config.mpps)):
            own = present & (level == k)
            parts.append(torch.where(own.any(dim=1, keepdim=True), encoded.weighted_mean(own), everything))
        return torch.cat(parts, dim=1)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over settings and weights."""
        return weights_digest(self.config, self._weights())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json; config.json comes last."""
        write_checkpoint(Path(folder), self.config, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        return {f"encoder.{name}": value for name, value in self.state_dict().items()}

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
        return read_model(cls, folder_or_hub_id, prefix="encoder.").to(device=device, dtype=getattr(torch, dtype))


class _Projector(nn.Module):
    """LN-Linear-SiLU-Linear from one tile encoder's width to the trunk's."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.into = nn.Linear(dim, width)
        self.out = nn.Linear(width, width)

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch width"]:
        """Standardised embeddings come in float32 and are rounded to the precision of the weights here."""
        hidden = linear(self.into, self.norm(z.to(self.into.weight.dtype)))
        return linear(self.out, nn.functional.silu(hidden))


def _unpack(
    rows: Sequence[Tensor], weights: Sequence[Tensor], packing: Packing, xy_um: Centres, mpp: Mpps, *, specials: int
) -> EncodedRegions:
    """Bring the rows back to the axes of the batch; absent tokens become 0."""
    regions, slots = mpp.shape
    spans = [span for chunk in packing.chunks for span in chunk.spans]
    flat = rows[0] if len(rows) == 1 else torch.cat(list(rows))
    if packing.is_dense:
        grid = flat.view(regions, specials + slots, -1)
        cls_weights = torch.cat([weight[:, specials:] for weight in weights])
        return EncodedRegions(grid[:, 0], grid[:, 1:specials], grid[:, specials:], cls_weights, xy_um, mpp)
    parts = [
        part.view(span.regions, span.length, -1)
        for part, span in zip(torch.split(flat, [span.regions * span.length for span in spans]), spans, strict=True)
    ]
    heads = torch.cat([part[:, :specials] for part in parts]).index_select(0, torch.argsort(packing.order))
    tiles = torch.cat([part[:, specials:].flatten(0, 1) for part in parts])
    tile_weights = torch.cat([weight[:, specials:].flatten() for weight in weights])
    tokens = tiles.new_zeros(regions * slots, tiles.shape[1]).index_copy(0, packing.source, tiles)
    cls_weights = tile_weights.new_zeros(regions * slots).index_copy(0, packing.source, tile_weights)
    tokens, cls_weights = tokens.view(regions, slots, -1), cls_weights.view(regions, slots)
    return EncodedRegions(heads[:, 0], heads[:, 1:], tokens, cls_weights, xy_um, mpp)


def _nothing(tokens: Tokens, xy_um: Centres, mpp: Mpps, config: RegionEncoderConfig) -> EncodedRegions:
    empty = tokens.new_zeros(0, mpp.shape[1], config.width)
    specials = tokens.new_zeros(0, config.specials, config.width)
    return EncodedRegions(specials[:, 0], specials[:, 1:], empty, empty[..., 0], xy_um, mpp)


def initialise(module: nn.Module) -> None:
    """Truncated normal matrices of sd 0.02 and zero biases, as vision transformers start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
