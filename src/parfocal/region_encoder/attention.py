"""The transformer block of the trunk: pre-norm, attention with a geometric bias, LayerScale and drop path."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.packing import Span

__all__ = ["Attended", "Attention", "Block", "FeedForward", "attend"]

MLP_RATIO = 4


@dataclass(frozen=True, eq=False)
class Attended:
    """What comes out of attention, and how much CLS, the first query, looked at each key (mean over the heads)."""

    values: Float[Tensor, "region query width"]
    cls_weights: Float[Tensor, "region key"]


def attend(
    query: Float[Tensor, "region query head dim"],
    key: Float[Tensor, "region key head dim"],
    value: Float[Tensor, "region key head dim"],
    bias: Float[Tensor, "#region head #query key"] | None,
) -> Attended:
    """Softmax attention with an additive bias, all in the precision of the inputs.

    With a few dozen tokens the three steps written out are faster than a fused kernel on a CPU, and the weights of CLS
    come for free.
    """
    regions, queries, heads, dim = query.shape
    q, k, v = (one.transpose(1, 2).reshape(regions * heads, -1, dim) for one in (query, key, value))
    if bias is None:
        scores = torch.bmm(q * dim**-0.5, k.transpose(1, 2))
    else:
        added = bias.expand(regions, heads, queries, k.shape[1]).reshape(regions * heads, queries, -1)
        scores = torch.baddbmm(added.to(q.dtype), q, k.transpose(1, 2), alpha=dim**-0.5)
    weights = scores.softmax(dim=-1)  # (region * head, query, key)
    mixed = torch.bmm(weights.to(v.dtype), v).view(regions, heads, queries, dim)
    cls_weights = weights.view(regions, heads, queries, -1)[:, :, 0].mean(dim=1)
    return Attended(mixed.transpose(1, 2).reshape(regions, queries, heads * dim), cls_weights)


class Attention(nn.Module):
    """Self-attention inside each region."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, rows: Float[Tensor, "row width"], spans: Sequence[Span], biases: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "row width"], list[Float[Tensor, "region key"]]]:
        """The mixed rows, and for each span how much CLS looked at each token of its region."""
        qkv = self.qkv(rows)
        attended = []
        for span, bias in zip(spans, biases, strict=True):
            parts = qkv[span.start : span.stop].view(span.regions, span.length, 3, self.heads, -1)
            attended.append(attend(*parts.unbind(dim=2), bias))
        mixed = [one.values.flatten(0, 1) for one in attended]
        return self.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed)), [one.cls_weights for one in attended]


class FeedForward(nn.Module):
    """Norm and MLP of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, MLP_RATIO * width)
        self.down = nn.Linear(MLP_RATIO * width, width)

    def forward(self, rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The branch's addition, without the residual."""
        return self.down(F.gelu(self.up(self.norm(rows))))


class Block(nn.Module):
    """One block of the trunk. It never sees which rows are missing: they are not there."""

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
        self,
        rows: Float[Tensor, "row width"],
        spans: Sequence[Span],
        biases: Sequence[Tensor],
        expert_rows: Sequence[Int64[Tensor, " _row"]],
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "row width"], list[Float[Tensor, "_region _key"]]]:
        """The rows after the block, and for each span how much CLS looked at each token.

        Args:
            rows: the tokens of a chunk.
            spans: which rows make a region.
            biases: for each span what is added to the scores.
            expert_rows: for a separate trunk, the rows of each expert; else nothing.
            generator: for drop path, which is active in training only.
        """
        mixed, cls_weights = self.attention(self.norm(rows), spans, biases)
        rows = self._add(rows, mixed, self.attention_scale, spans, generator)
        if len(self.experts) == 1:
            lifted = self.experts[0](rows)
        else:
            lifted = torch.empty_like(rows)
            for expert, own in zip(self.experts, expert_rows, strict=True):
                added = expert(rows.index_select(0, own))
                lifted = lifted.to(added.dtype).index_copy(0, own, added)
        return self._add(rows, lifted, self.mlp_scale, spans, generator), cls_weights

    def _add(
        self,
        rows: Float[Tensor, "row width"],
        branch: Float[Tensor, "row width"],
        scale: Float[Tensor, " width"],
        spans: Sequence[Span],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "row width"]:
        """Residual connection: scale, drop path and addition in one pass."""
        if not self.training or self.drop_path == 0:
            return torch.addcmul(rows, branch, scale.to(branch.dtype))
        regions = sum(span.regions for span in spans)
        drawn = torch.rand(regions, generator=generator, device=rows.device) >= self.drop_path
        lengths = torch.tensor([span.length for span in spans for _ in range(span.regions)], device=rows.device)
        kept = (drawn.to(branch.dtype) / (1 - self.drop_path)).repeat_interleave(lengths)
        return torch.addcmul(rows, branch * kept[:, None], scale.to(branch.dtype))
