"""What represents a region: its CLS, its contextual tokens, or CLS with a weighted mean per magnification."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.region_encoder.batch import Mpps, TokenMask
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.standardise import nearest_levels

Readout = Literal["cls", "tokens", "attention"]
READOUTS: tuple[Readout, ...] = ("cls", "tokens", "attention")


@dataclass(frozen=True, eq=False)
class EncodedRegions:
    """What the encoder says about regions. Values at absent tokens are 0 and stand for nothing.

    Attributes:
        cls: the region's own vector.
        registers: vectors that belong to no tile.
        tokens: the contextual vector of each tile.
        cls_weights: how much CLS looked at each tile in the last block, mean over the heads; the rest to 1 went to CLS
            itself and to the registers.
    """

    cls: Float[Tensor, "region width"]
    registers: Float[Tensor, "region register width"]
    tokens: Float[Tensor, "region token width"]
    cls_weights: Mpps

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "EncodedRegions":
        """The same on a device and in a precision."""
        return EncodedRegions(*(part.to(device, dtype) for part in vars(self).values()))

    def take(self, rows: Int64[Tensor, " row"]) -> "EncodedRegions":
        """Some of the regions, in the given order."""
        return EncodedRegions(*(part[rows] for part in vars(self).values()))


def read_out(
    encoded: EncodedRegions,
    mpp: Mpps,
    present: TokenMask,
    kind: Readout,
    *,
    config: RegionEncoderConfig,
) -> Float[Tensor, "region *rest"]:
    """One vector for each region (`cls`: width; `attention`: width * (1 + magnifications)), or its `tokens`.

    The parts of `attention` are CLS and, for each magnification of the model, coarse to fine, the mean of its
    contextual tokens weighted by what CLS looked at in the last block. A token of another mpp counts to the nearest
    magnification. Where a region has no token of a magnification, that part is the weighted mean of all tokens that it
    has: the best that is known of the region, and never a zero vector that would look like an observation.

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
    everything = _weighted_mean(encoded, present)
    level = nearest_levels(mpp, config)
    parts = [encoded.cls]
    for k in range(len(config.mpps)):
        own = present & (level == k)
        parts.append(torch.where(own.any(dim=1, keepdim=True), _weighted_mean(encoded, own), everything))
    return torch.cat(parts, dim=1)


def _weighted_mean(encoded: EncodedRegions, chosen: TokenMask) -> Float[Tensor, "region width"]:
    """The mean of the chosen tokens, weighted by CLS; of a region without any it is 0 and must not be used."""
    # A softmax weight can underflow to 0 in half precision; the tiny number keeps the mean defined.
    weights = torch.where(
        chosen, encoded.cls_weights.clamp(min=1e-12 if encoded.cls.dtype != torch.float16 else 1e-7), 0.0
    )
    share = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    tokens = torch.where(chosen[..., None], encoded.tokens, 0.0)
    return torch.einsum("rt,rtw->rw", share.to(tokens.dtype), tokens)
