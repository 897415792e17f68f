"""Which of a model's magnifications an arbitrary mpp belongs to, in log2 mpp, without leaving the device."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.region_encoder.config import RegionEncoderConfig

__all__ = ["level_shares", "nearest_levels"]


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
