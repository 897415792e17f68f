"""Heads: from the vectors of a unit's regions to its scores, by their mean, by gated attention or by ABMILX.

A region's vector comes standardised and divided by the root of its width, so that its length is about 1 however wide it
is; weights that look at it start that much larger.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from parfocal.heads.finetune import PoolingHead

HeadKind = Literal["linear", "attention", "abmilx"]
_INNER, _HEADS = 128, 4


class LinearHead(nn.Module):
    """The mean of the regions, and one linear map for all scores, which are 0 at first."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int, columns: int) -> None:
        """Nothing is drawn.

        Args:
            width: of a region's vector.
            columns: of the outcome.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))
        self.weight = nn.Parameter(torch.zeros(columns, width))
        self.bias = nn.Parameter(torch.zeros(columns))

    def forward(
        self, vectors: Float[Tensor, "unit region width"], present: Bool[Tensor, "unit region"]
    ) -> Float[Tensor, "column unit"]:
        """The scores of units from some of their regions, at least one each."""
        kept = torch.where(present[..., None], vectors.float(), 0.0).sum(dim=1) / present.sum(dim=1, keepdim=True)
        return self.weight @ ((kept - self.mean) / self.sd).T + self.bias[:, None]


class RefinedHead(nn.Module):
    """ABMILX (Tang et al. 2025, arXiv 2506.02408): attention of several heads, refined by what alike regions get.

    Where few regions get all the attention, only they teach the tile encoder, and early mistakes stay. Here every head
    pools a part of the features, and its logits are averaged over regions that are alike before the softmax, so that a
    region's logit is that of its kind.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int, columns: int) -> None:
        """All scores are 0 at first; of the rest `start` draws the weights.

        Args:
            width: of a region's vector.
            columns: of the outcome.
        """
        super().__init__()
        part = _INNER // _HEADS
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))
        self.inner = nn.Linear(width, _INNER)
        self.hidden = nn.Linear(part, part)
        self.attention = nn.Linear(part, 1, bias=False)
        self.norm = nn.LayerNorm(part)
        self.query, self.key = nn.Linear(part, part, bias=False), nn.Linear(part, part, bias=False)
        self.gain = nn.Parameter(torch.ones(()))
        self.out = nn.LayerNorm(_INNER)
        self.score = nn.Linear(_INNER, columns)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def start(self, generator: torch.Generator) -> None:
        """Draw the weights of everything before the scores."""
        for layer, spread in (
            (self.inner, 1.0),
            *((one, one.in_features**-0.5) for one in (self.hidden, self.attention, self.query, self.key)),
        ):
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator) * spread)
            if layer.bias is not None:
                layer.bias.data.zero_()

    def forward(
        self, vectors: Float[Tensor, "unit region width"], present: Bool[Tensor, "unit region"]
    ) -> Float[Tensor, "column unit"]:
        """The scores of units from some of their regions, at least one each."""
        x = functional.gelu(self.inner((vectors.float() - self.mean) / self.sd))
        x = torch.unflatten(x, 2, (_HEADS, -1)).transpose(1, 2)  # (unit, head, region, part)
        there = present[:, None, None]
        logit = self.attention(functional.gelu(self.hidden(x))).squeeze(3)  # (unit, head, region)
        alike = self.norm(x)
        likeness = self.query(alike) @ self.key(alike).transpose(2, 3) * x.shape[3] ** -0.5
        likeness = functional.softmax(likeness.masked_fill(~there, float("-inf")), dim=3)
        logit = logit + self.gain * (likeness @ logit[..., None]).squeeze(3)
        share = functional.softmax(logit.masked_fill(~present[:, None], float("-inf")), dim=2)
        pooled = torch.einsum("uhr,uhrp->uhp", share, x).flatten(1)
        scores: Tensor = self.score(self.out(pooled))
        return scores.T


Head = LinearHead | PoolingHead | RefinedHead


def new_head(kind: HeadKind, width: int, columns: int, generator: torch.Generator) -> Head:
    """A head whose scores are all 0.

    Args:
        kind: how regions are pooled.
        width: of a region's vector.
        columns: how many scores there are.
        generator: draws the other weights.
    """
    if kind == "linear":
        return LinearHead(width, columns)
    if kind == "abmilx":
        refined = RefinedHead(width, columns)
        refined.start(generator)
        return refined
    head = PoolingHead(width, _INNER // 2, columns)
    head.start(generator)
    for gates in (head.value, head.gate):
        gates.data.mul_(width**0.5)
    head.attends.fill_(True)
    return head
