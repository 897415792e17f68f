"""The transformer block of the trunk: pre-norm, attention with a geometric bias, LayerScale and drop path.

Its linear layers take many rows by the faster of the two matrix products that torch has on a CPU.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.plan import ROW_MULTIPLE, Chunk, ChunkPlan

# Below this many rows the layout change of the weights costs more than the faster product brings.
_FEWEST_ROWS = 256


def linear(layer: nn.Linear, rows: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
    """The same as `layer(rows)`.

    On a CPU torch computes float32 products with MKL, which keeps to 8-wide instructions on other than Intel's
    processors. The same product written as a 1 x 1 convolution goes to oneDNN, which takes what the processor has:
    measured on a Zen 5 core, 230 GFLOP/s instead of 110, and 200 instead of 105 with gradients. The views cost
    nothing, since channels-last images are rows; torch takes this way from 16 images on (`ROW_MULTIPLE`).
    """
    flat = rows.flatten(0, -2)
    if (
        # A traced graph must not depend on the number of rows.
        torch.compiler.is_exporting()
        or len(flat) < _FEWEST_ROWS
        or rows.device.type != "cpu"
        or rows.dtype != torch.float32
        or layer.weight.dtype != torch.float32
        or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        or torch.is_autocast_enabled("cpu")
    ):
        return functional.linear(rows, layer.weight, layer.bias)
    filling = -len(flat) % ROW_MULTIPLE
    if filling:
        flat = functional.pad(flat, (0, 0, 0, filling))
    images = flat.view(ROW_MULTIPLE, len(flat) // ROW_MULTIPLE, 1, -1).permute(0, 3, 1, 2)
    out = functional.conv2d(images, layer.weight[:, :, None, None], layer.bias).permute(0, 2, 3, 1).flatten(0, 2)
    return out[: len(out) - filling].view(*rows.shape[:-1], -1)


MLP_RATIO = 4
Queries = Float[Tensor, "region query head dim"]
Keys = Float[Tensor, "region key head dim"]
Bias = Float[Tensor, "_region head _query key"]
_VECTOR = 16


@dataclass(frozen=True, eq=False)
class Attended:
    """What comes out of attention, and how much CLS, the first query, looked at each key (mean over the heads)."""

    values: Float[Tensor, "region query width"]
    cls_weights: Float[Tensor, "region key"]


def attend(query: Queries, key: Keys, value: Keys, bias: Bias | None) -> Attended:
    """Softmax attention with an additive bias, by the way that is faster on the device."""
    way = attend_stepwise if query.device.type == "cpu" else attend_fused
    return way(query, key, value, bias)


def attend_stepwise(query: Queries, key: Keys, value: Keys, bias: Bias | None) -> Attended:
    """Attention in three steps: with a few dozen tokens they are faster on a CPU than torch's fused kernel."""
    regions, queries, heads, dim = query.shape
    q, k, v = (one.transpose(1, 2).reshape(regions * heads, -1, dim) for one in (query, key, value))
    keys = k.shape[1]
    added = q.new_zeros(()) if bias is None else bias.to(q.dtype)
    added = added.expand(regions, heads, queries, keys).reshape(regions * heads, queries, keys)
    # In float32 whatever the inputs are, and over the leading axis when rows are shorter than a vector register:
    # both are several times faster on a CPU, where the softmax of short rows would otherwise cost a tenth of a block.
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if keys < _VECTOR:
        scores = torch.baddbmm(added.transpose(1, 2), k, q.transpose(1, 2), alpha=dim**-0.5)
        weights = scores.softmax(dim=1, dtype=wide).transpose(1, 2)
    else:
        scores = torch.baddbmm(added, q, k.transpose(1, 2), alpha=dim**-0.5)
        weights = scores.softmax(dim=2, dtype=wide)  # (region * head, query, key)
    mixed = torch.bmm(weights.to(v.dtype), v).view(regions, heads, queries, dim)
    cls_weights = weights[:, 0].reshape(regions, heads, keys).mean(dim=1)
    return Attended(mixed.transpose(1, 2).reshape(regions, queries, heads * dim), cls_weights)


def attend_fused(query: Queries, key: Keys, value: Keys, bias: Bias | None) -> Attended:
    """Attention by torch's fused kernel, which keeps the weights to itself: those of CLS are computed once more."""
    regions, queries, heads, dim = query.shape
    q, k, v = (one.transpose(1, 2) for one in (query, key, value))  # (region, head, token, dim)
    if bias is not None:
        bias = bias.to(q.dtype).expand(regions, heads, queries, -1)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = torch.einsum("rhd,rhkd->rhk", q[:, :, 0] * dim**-0.5, k)
    scores = scores if bias is None else scores + bias[:, :, 0]
    return Attended(mixed.transpose(1, 2).reshape(regions, queries, heads * dim), scores.softmax(dim=-1).mean(dim=1))


class Attention(nn.Module):
    """Self-attention inside each region."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, rows: Float[Tensor, "row width"], part: ChunkPlan
    ) -> tuple[Float[Tensor, "row width"], list[Float[Tensor, "_region _key"]]]:
        """The mixed rows, and for each span how much CLS looked at each token of its region."""
        qkv = linear(self.qkv, rows)
        mixed, cls_weights = [], []
        spans = part.chunk.spans
        # Split and unbind, not slices: the gradient of a slice is a whole tensor of zeros.
        owns = torch.split(qkv, [span.regions * span.length for span in spans] + [part.chunk.filling])
        for span, own, bias in zip(spans, owns[:-1], part.biases, strict=True):
            query, key, value = torch.unbind(own.view(span.regions, span.length, 3, self.heads, -1), dim=2)
            attended = attend(query, key, value, bias)
            mixed.append(attended.values.flatten(0, 1))
            cls_weights.append(attended.cls_weights)
        if part.chunk.filling:
            mixed.append(mixed[0].new_zeros(part.chunk.filling, rows.shape[1]))
        return linear(self.out, mixed[0] if len(mixed) == 1 else torch.cat(mixed)), cls_weights


class FeedForward(nn.Module):
    """Norm and MLP of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, MLP_RATIO * width)
        self.down = nn.Linear(MLP_RATIO * width, width)

    def forward(self, rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The branch's addition, without the residual."""
        return linear(self.down, functional.gelu(linear(self.up, self.norm(rows))))


class Block(nn.Module):
    """One block of the trunk. It never sees which tokens are absent: they are not there."""

    def __init__(self, config: RegionEncoderConfig, *, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        # A separate trunk: expert 0 is for CLS and registers, then one for each magnification, as in models with one
        # expert per modality. Attention is common, else the magnifications could not speak with each other.
        experts = 1 if config.trunk == "shared" else 1 + len(config.mpps)
        self.experts = nn.ModuleList(FeedForward(config.width) for _ in range(experts))
        self.attention_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.mlp_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))

    def forward(
        self, rows: Float[Tensor, "row width"], part: ChunkPlan, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "row width"], list[Float[Tensor, "_region _key"]]]:
        """The rows after the block, and for each span how much CLS looked at each token.

        Args:
            rows: the tokens of a chunk.
            part: which rows make a region, and what follows from their places.
            generator: for drop path, which is active in training only.
        """
        mixed, cls_weights = self.attention(self.norm(rows), part)
        rows = self._add(rows, mixed, self.attention_scale, part.chunk, generator)
        if part.expert_rows:
            lifted = torch.cat(
                [expert(rows.index_select(0, own)) for expert, own in zip(self.experts, part.expert_rows, strict=True)]
            ).index_select(0, torch.argsort(torch.cat(list(part.expert_rows))))
        else:
            lifted = self.experts[0](rows)
        return self._add(rows, lifted, self.mlp_scale, part.chunk, generator), cls_weights

    def _add(
        self,
        rows: Float[Tensor, "row width"],
        branch: Float[Tensor, "row width"],
        scale: Float[Tensor, " width"],
        chunk: Chunk,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "row width"]:
        """The residual connection with LayerScale, in one pass; in training some regions skip the branch."""
        if self.training and self.drop_path:
            branch = branch * self._kept(chunk, generator, like=branch)
        return torch.addcmul(rows, branch, scale.to(branch.dtype))

    def _kept(self, chunk: Chunk, generator: torch.Generator | None, *, like: Tensor) -> Float[Tensor, "row 1"]:
        regions = sum(span.regions for span in chunk.spans)
        kept = torch.rand(regions, generator=generator, device=like.device) >= self.drop_path
        factor = kept.to(like.dtype) / (1 - self.drop_path)
        parts = torch.split(factor, [span.regions for span in chunk.spans])
        rows = [one.repeat_interleave(span.length) for one, span in zip(parts, chunk.spans, strict=True)]
        return functional.pad(torch.cat(rows), (0, chunk.filling))[:, None]
