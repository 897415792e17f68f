"""Tile embeddings to mean 0 and standard deviation 1 per magnification, with the statistics kept in the checkpoint.

An arbitrary mpp belongs to the nearest of the model's magnifications in log2 mpp, found without leaving the device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.region_encoder.config import RegionEncoderConfig


def nearest_levels(mpp: Float[Tensor, "*batch"], config: RegionEncoderConfig) -> Int64[Tensor, "*batch"]:
    """The place in `config.mpps` of each value's nearest magnification, the coarser one of two equally near.

    Where there is no valid mpp (0 or NaN, at absent tokens) it is some place.
    """
    # Distances are rounded, so that a value in the very middle goes to the coarser side on every machine.
    return (_log2(mpp)[..., None] - _levels(mpp, config)).abs().mul(1e5).round().argmin(dim=-1)


def level_shares(mpp: Float[Tensor, "*batch"], config: RegionEncoderConfig) -> Float[Tensor, "*batch level"]:
    """How much each of the model's magnifications counts when something known at them is interpolated; sums to 1.

    Only magnifications of one tile encoder are mixed: that of the nearest.
    """
    at, levels = _log2(mpp), _levels(mpp, config)
    nearest = nearest_levels(mpp, config)
    shares = torch.zeros(*mpp.shape, len(config.mpps), dtype=at.dtype, device=mpp.device)
    for group in config.encoder_groups:
        own = levels[list(group)]
        inside = at.clamp(own.min(), own.max())
        # Hats: 1 at a magnification, falling linearly to 0 at its neighbours of the same encoder.
        hats = []
        for k in range(len(group)):
            coarser = 1 - (inside - own[k]) / (own[k - 1] - own[k]) if k > 0 else torch.ones_like(inside)
            finer = 1 - (own[k] - inside) / (own[k] - own[k + 1]) if k + 1 < len(group) else torch.ones_like(inside)
            hats.append(torch.minimum(coarser, finer).clamp(0, 1))
        is_of_group = torch.isin(nearest, torch.tensor(group, device=mpp.device))
        spread = torch.zeros_like(shares)
        spread[..., list(group)] = torch.stack(hats, dim=-1)
        shares = torch.where(is_of_group[..., None], spread, shares)
    return shares


def _levels(mpp: Float[Tensor, "*batch"], config: RegionEncoderConfig) -> Float[Tensor, " level"]:
    return torch.tensor(config.mpps, dtype=torch.float64, device=mpp.device).log2()


def _log2(mpp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    return torch.where(mpp > 0, mpp, 1.0).double().log2()


_ROWS = 128


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
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
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
                        f"statistics at {mpp:g} mpp have shape {tuple(row.shape)}; "
                        f"the model has {self.config.dims[k]} features"
                    )
                if not bool(torch.isfinite(row).all()) or (buffer is self.sd and bool((row < 0).any())):
                    raise ValueError(f"statistics at {mpp:g} mpp hold a value that is not finite, or a negative sd")
                if buffer is self.sd:
                    row = torch.where(row > 1e-6 * row.max(), row, 1.0)
                buffer[k, : len(row)] = row.to(buffer)

    def forward(self, tokens: Float[Tensor, "*batch dim"], mpp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The z-scores, clipped to `clip_sd`, in the statistics' precision; 0 beyond a magnification's width.

        Values at absent tokens become some number or stay NaN; whoever reads them makes a mistake.
        """
        magnifications, index = torch.unique(mpp, return_inverse=True)
        scale, shift = self.affine(magnifications)
        return self.apply_affine(tokens.flatten(0, -2), scale, shift, index.flatten()).view(tokens.shape)

    def restore(
        self, mean: Float[Tensor, "*batch dim"], variance: Float[Tensor, "*batch dim"], mpp: Float[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim"]]:
        """Z-scores and their variances in the units of tile embeddings; 0 beyond a magnification's width."""
        magnifications, index = torch.unique(mpp, return_inverse=True)
        scale, shift = self.affine(magnifications)
        sd = torch.where(scale > 0, 1 / scale, 0.0)
        return (mean - shift[index]) * sd[index], variance * sd[index].square()

    def affine(self, mpp: Float[Tensor, " mpp"]) -> tuple[Float[Tensor, "mpp dim"], Float[Tensor, "mpp dim"]]:
        """Scale and shift of each magnification: z = scale * token + shift, 0 beyond a magnification's width.

        Between two magnifications of one tile encoder, mean and standard deviation are interpolated linearly in
        log2 mpp; outside them the nearest counts. Encoders are never mixed: the nearest magnification says whose
        statistics are used.
        """
        share = level_shares(mpp, self.config).to(self.mean.dtype)
        mean, sd = share @ self.mean, share @ self.sd
        dims = torch.tensor(self.config.dims, device=mpp.device)[nearest_levels(mpp, self.config)]
        is_feature = torch.arange(self.config.dim, device=mpp.device) < dims[:, None]
        return torch.where(is_feature, 1 / sd, 0.0), torch.where(is_feature, -mean / sd, 0.0)

    def apply_affine(
        self,
        tokens: Float[Tensor, "token dim"],
        scale: Float[Tensor, "mpp dim"],
        shift: Float[Tensor, "mpp dim"],
        index: Int64[Tensor, " token"],
    ) -> Float[Tensor, "token dim"]:
        """Scale and shift each token by the row of its magnification, and clip."""
        if tokens.requires_grad or torch.compiler.is_exporting():
            z = torch.addcmul(shift[index], tokens.to(shift.dtype), scale[index])
            return z.clamp(-self.config.clip_sd, self.config.clip_sd)
        # Embeddings are wide: a few rows at a time stay in the cache between the passes.
        z = torch.empty_like(tokens, dtype=shift.dtype)
        for rows in range(0, len(tokens), _ROWS):
            part, own = slice(rows, rows + _ROWS), index[rows : rows + _ROWS]
            torch.addcmul(shift[own], tokens[part].to(shift.dtype), scale[own], out=z[part])
            z[part].clamp_(-self.config.clip_sd, self.config.clip_sd)
        return z
