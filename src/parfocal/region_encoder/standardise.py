"""Tile embeddings to mean 0 and standard deviation 1 per magnification, with the statistics kept in the checkpoint."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.region_encoder.config import RegionEncoderConfig

__all__ = ["Standardiser"]


class Standardiser(nn.Module):
    """Z-scores per magnification, clipped.

    The difference of the means *between* magnifications is the largest component of real embeddings: with pooled
    statistics most of the variance would only say which magnification a tile has.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(len(config.mpps), config.dim))
        self.register_buffer("sd", torch.ones(len(config.mpps), config.dim))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Standardiser":
        # A model cast to half precision must not round its statistics: a mean of 100 sd would be off by 0.4 sd.
        kept = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype in (torch.float32, torch.float64)}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = getattr(self, name)
            if moved.dtype not in (torch.float32, torch.float64):
                setattr(self, name, buffer.to(moved.device))
        return self

    def set(self, mean: Mapping[float, Any], sd: Mapping[float, Any]) -> None:
        """Take over statistics, one row of features for each magnification of the model.

        A feature that never changes has no scale: its standard deviation counts as 1, and it stays at 0.

        Raises:
            ValueError: a magnification is missing or has another width, or a number is not finite or negative.
        """
        for k, mpp in enumerate(self.config.mpps):
            if mpp not in mean or mpp not in sd:
                raise ValueError(f"there are no statistics for {mpp:g} mpp; they name {sorted(mean, reverse=True)}")
            for buffer, values in ((self.mean, mean[mpp]), (self.sd, sd[mpp])):
                row = torch.as_tensor(np.asarray(values, dtype=np.float64))
                if row.shape != (self.config.dims[k],):
                    raise ValueError(
                        f"statistics at {mpp:g} mpp have shape {tuple(row.shape)}; the model has {self.config.dims[k]} features"
                    )
                if not bool(torch.isfinite(row).all()) or (buffer is self.sd and bool((row < 0).any())):
                    raise ValueError(f"statistics at {mpp:g} mpp hold a value that is not finite, or a negative sd")
                if buffer is self.sd:
                    row = torch.where(row > 1e-6 * row.max(), row, 1.0)
                buffer[k, : len(row)] = row.to(buffer)

    def at(self, mpp: float) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and standard deviation at any mpp.

        Between two magnifications of one tile encoder they are interpolated linearly in log2 mpp; outside them the
        nearest counts. Encoders are never mixed: the nearest magnification says whose statistics are used.
        """
        nearest = self.config.nearest(mpp)
        group = next(group for group in self.config.encoder_groups if nearest in group)
        coarser = max((k for k in group if self.config.mpps[k] >= mpp), default=group[0])
        finer = min((k for k in group if self.config.mpps[k] <= mpp), default=group[-1])
        if coarser == finer:
            return self.mean[coarser], self.sd[coarser]
        span = math.log2(self.config.mpps[coarser] / self.config.mpps[finer])
        share = math.log2(self.config.mpps[coarser] / mpp) / span
        return torch.lerp(self.mean[coarser], self.mean[finer], share), torch.lerp(
            self.sd[coarser], self.sd[finer], share
        )

    def forward(self, tokens: Float[Tensor, "*batch dim"], mpp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The z-scores, clipped to `clip_sd`, in float32 (float64 stays); features beyond a magnification's width are 0.

        Values at absent tokens become some number or stay NaN; whoever reads them makes a mistake.
        """
        magnifications, index = torch.unique(mpp, return_inverse=True)
        scale, shift = self.affine(magnifications.tolist())
        return self.apply_affine(tokens, scale[index], shift[index])

    def affine(self, mpps: list[float]) -> tuple[Float[Tensor, "mpp dim"], Float[Tensor, "mpp dim"]]:
        """Scale and shift of each magnification: z = scale * token + shift, 0 beyond a magnification's width."""
        scales, shifts = [], []
        # The mpp of an absent token may be anything, NaN included.
        for mpp in (mpp if mpp > 0 else self.config.mpps[0] for mpp in mpps):
            mean, sd = self.at(mpp)
            is_feature = torch.arange(self.config.dim, device=mean.device) < self.config.dims[self.config.nearest(mpp)]
            scales.append(torch.where(is_feature, 1 / sd, 0.0))
            shifts.append(torch.where(is_feature, -mean / sd, 0.0))
        return torch.stack(scales), torch.stack(shifts)

    def apply_affine(
        self,
        tokens: Float[Tensor, "*batch dim"],
        scale: Float[Tensor, "*#batch dim"],
        shift: Float[Tensor, "*#batch dim"],
    ) -> Float[Tensor, "*batch dim"]:
        """One fused pass of scale and shift, and the clip."""
        return torch.addcmul(shift, tokens.to(shift.dtype), scale).clamp(-self.config.clip_sd, self.config.clip_sd)
