"""The slowly moving teacher of latent targets."""

import copy
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from parfocal.region_encoder import RegionEncoder

__all__ = ["Teacher"]

_FIRST_MOMENTUM = 0.996


class Teacher(nn.Module):
    """An exponential average of the encoder, which sees all present tokens.

    Its targets are layer-normalised tokens, so that no dim can grow, and constants to the gradient. The average moves
    ever more slowly, from 0.996 to 1 along half a cosine (as in BYOL and DINO).
    """

    def __init__(self, encoder: RegionEncoder) -> None:
        """Start as a copy."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)

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
        encoded = self.encoder(tokens, xy_um, mpp, present).tokens.float()
        return functional.layer_norm(encoded, encoded.shape[-1:])

    @torch.no_grad()
    def follow(self, encoder: RegionEncoder, share_done: float) -> None:
        """Move towards the encoder."""
        momentum = 1 - (1 - _FIRST_MOMENTUM) * (1 + math.cos(math.pi * share_done)) / 2
        for mine, its in zip(self.encoder.parameters(), encoder.parameters(), strict=True):
            mine.lerp_(its, 1 - momentum)
