"""The slowly moving teacher of latent targets."""

import copy
import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from parfocal.region_encoder import RegionEncoder

__all__ = ["Teacher"]

_FIRST_MOMENTUM = 0.996
_LAYERS = 3


class Teacher(nn.Module):
    """An exponential average of the encoder, which sees all present tokens.

    Its targets are the mean of what the three last blocks give, each layer-normalised (data2vec), and normalised once
    more, so that no dim can grow; they are constants to the gradient. The average moves ever more slowly, from 0.996
    to 1 along half a cosine (as in BYOL and DINO).
    """

    def __init__(self, encoder: RegionEncoder) -> None:
        """Start as a copy."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self._layers: list[Tensor] = []
        # The encoder's packing of rows is its own affair: the last block hands on the mean in place of its rows.
        *before, last = list(self.encoder.blocks)[-_LAYERS:]
        for block in before:
            block.register_forward_hook(self._keep)
        last.register_forward_hook(self._average)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation: a teacher drops no paths."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        tokens: Float[Tensor, "region token dim"],
        xy_um: Float[Tensor, "region token 2"],
        mpp: Float[Tensor, "region token"],
        present: Bool[Tensor, "region token"],
    ) -> Float[Tensor, "region token width"]:
        """The target of every token."""
        return _normalised(self.encoder(tokens, xy_um, mpp, present).tokens)

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self._layers.append(_normalised(output[0]))

    def _average(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        rows, *rest = output
        mean = torch.stack([*self._layers, _normalised(rows)]).mean(dim=0)
        self._layers.clear()
        return (mean.to(rows.dtype), *rest)

    @torch.no_grad()
    def follow(self, encoder: RegionEncoder, share_done: float) -> None:
        """Move towards the encoder."""
        momentum = 1 - (1 - _FIRST_MOMENTUM) * (1 + math.cos(math.pi * share_done)) / 2
        for mine, its in zip(self.encoder.parameters(), encoder.parameters(), strict=True):
            mine.lerp_(its, 1 - momentum)


def _normalised(rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    return functional.layer_norm(rows.float(), rows.shape[-1:])
