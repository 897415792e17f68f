"""Where a tile lies and how sharp it is, in micrometres, as numbers that a network can use.

Nothing here knows a raster: any layout, any magnification and any missing tile are the same formula.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# Wavelengths of 56 to 1,792 um: from half a 20x tile to four regions of 448 um.
_SHORTEST_UM = 56.0
_OCTAVES = 6
# Periods of log2(mpp / 0.5): one octave tells 20x from 15x, eight octaves order everything a scanner gives.
_PERIODS = (1.0, 2.0, 4.0, 8.0)
N_FOURIER = 4 * _OCTAVES + 2 * len(_PERIODS)
N_PAIR = 4
_BIAS_HIDDEN = 32
# How much a tile that lies over a question, or in it, counts at the start, in steps of distance of one finest tile.
_OVERLAP = 4.0


def fourier_features(xy_um: Float[Tensor, "*batch 2"], mpp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch fourier"]:
    """Sines and cosines of the position about the region's centre and of log2(mpp / 0.5).

    Args:
        xy_um: the tile's centre about the region's centre, in micrometres.
        mpp: micrometres per pixel of the tile.
    """
    octaves = torch.arange(_OCTAVES, dtype=xy_um.dtype, device=xy_um.device)
    space = xy_um[..., None] * (2 * math.pi / (_SHORTEST_UM * 2**octaves))  # (*batch, 2, octave)
    periods = torch.tensor(_PERIODS, dtype=xy_um.dtype, device=xy_um.device)
    scale = torch.log2(mpp / 0.5)[..., None] * (2 * math.pi / periods)  # (*batch, period)
    angles = torch.cat([space.flatten(-2), scale], dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PositionEmbedding(nn.Module):
    """A vector for a place: Fourier features through an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(N_FOURIER, width)
        self.out = nn.Linear(width, width)

    def forward(self, xy_um: Float[Tensor, "*batch 2"], mpp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """One vector for each place, in the precision of the weights; the angles are computed in that of `xy_um`."""
        features = fourier_features(xy_um, mpp)
        vector: Tensor = self.out(functional.silu(self.into(features.to(self.into.weight.dtype))))
        return vector


def pair_features(
    xy_um: Float[Tensor, "*batch query 2"],
    mpp: Float[Tensor, "*batch query"],
    key_xy_um: Float[Tensor, "*batch key 2"],
    key_mpp: Float[Tensor, "*batch key"],
    *,
    tile_px: int,
    unit_um: float,
) -> Float[Tensor, "*batch query key 4"]:
    """What a tile (second to last axis but one) sees of another (last axis but one): offset, scale and containment.

    Args:
        xy_um: centres of those that look, about the region's centre, in micrometres.
        mpp: their micrometres per pixel.
        key_xy_um: centres of those that are looked at.
        key_mpp: their micrometres per pixel.
        tile_px: side of a tile in pixels, at every magnification.
        unit_um: the distance that counts as one, in micrometres.

    Returns:
        sgn(dx) log2(1 + |dx| / unit), the same of dy, log2(mpp_i / mpp_j), and the overlap of the two footprints as a
        share of the smaller one: 1 for a parent and its child, 0 for neighbours.
    """
    offset = key_xy_um[..., None, :, :] - xy_um[..., :, None, :]  # (*batch, i, j, 2): j about i
    log_offset = offset.sign() * torch.log2(1 + offset.abs() / unit_um)
    log_scale = torch.log2(mpp)[..., :, None] - torch.log2(key_mpp)[..., None, :]  # (*batch, i, j)
    half_um, key_half_um = tile_px * mpp[..., :, None] / 2, tile_px * key_mpp[..., None, :] / 2
    reach, smaller = half_um + key_half_um, 2 * torch.minimum(half_um, key_half_um)
    shared = (reach[..., None] - offset.abs()).clamp(min=0).minimum(smaller[..., None])  # (*batch, i, j, 2)
    containment = shared.prod(dim=-1) / smaller.square()
    return torch.cat([log_offset, log_scale[..., None], containment[..., None]], dim=-1)


class RelativeBias(nn.Module):
    """What is added to the scores of each head: an MLP of the pair's geometry, and constants for CLS and registers.

    One bias serves all blocks. A constant that is the same for all keys of a query would change nothing, so CLS and
    registers as queries have constants for each other only, and every tile has one for each of them as a key.
    """

    def __init__(self, heads: int, specials: int, *, tile_px: int, unit_um: float) -> None:
        super().__init__()
        self.tile_px, self.unit_um, self.specials = tile_px, unit_um, specials
        self.into = nn.Linear(N_PAIR, _BIAS_HIDDEN)
        self.out = nn.Linear(_BIAS_HIDDEN, heads)
        self.special_to_special = nn.Parameter(torch.zeros(specials, specials, heads))
        self.tile_to_special = nn.Parameter(torch.zeros(specials, heads))

    def forward(
        self, xy_um: Float[Tensor, "region tile 2"], mpp: Float[Tensor, "region tile"]
    ) -> Float[Tensor, "region token token head"]:
        """The bias of each query (second axis) to each key (third): CLS, registers, then the tiles."""
        regions, tiles = mpp.shape
        pairs = pair_features(xy_um, mpp, xy_um, mpp, tile_px=self.tile_px, unit_um=self.unit_um)
        hidden = functional.silu(self.into(pairs.to(self.into.weight.dtype)))
        between: Tensor = self.out(hidden)  # (region, tile, tile, head)
        heads = between.shape[-1]
        special = torch.cat(
            [self.special_to_special, self.special_to_special.new_zeros(self.specials, tiles, heads)], dim=1
        )  # (special, token, head)
        to_special = self.tile_to_special.expand(regions, tiles, self.specials, heads)
        return torch.cat([special.expand(regions, -1, -1, -1), torch.cat([to_special, between], dim=2)], dim=1)


class NearnessBias(nn.Module):
    """What is added to the scores of a decoder's heads: a question looks at the tiles over, in and beside its place.

    An MLP of the pair's geometry, and from the start a term that falls with the distance and one that rises with the
    overlap. Each head's is half as steep as that of the head before, as in ALiBi (Press et al. 2022): the first sees
    little beyond its place, the last the whole region. CLS and registers lie nowhere and have a constant each.
    """

    def __init__(self, heads: int, specials: int, *, tile_px: int, unit_um: float) -> None:
        super().__init__()
        self.tile_px, self.unit_um = tile_px, unit_um
        self.into = nn.Linear(N_PAIR, _BIAS_HIDDEN)
        self.out = nn.Linear(_BIAS_HIDDEN, heads)
        steepness = 0.5 ** torch.arange(heads)
        self.far = nn.Parameter(-steepness)
        self.overlap = nn.Parameter(_OVERLAP * steepness)
        self.special = nn.Parameter(torch.zeros(specials, heads))

    def forward(
        self,
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
        key_xy_um: Float[Tensor, "region tile 2"],
        key_mpp: Float[Tensor, "region tile"],
    ) -> Float[Tensor, "region head query slot"]:
        """The bias of each question to each slot: CLS, registers, then the tiles."""
        pairs = pair_features(xy_um, mpp, key_xy_um, key_mpp, tile_px=self.tile_px, unit_um=self.unit_um)
        pairs = pairs.to(self.into.weight.dtype)
        between = self.out(functional.silu(self.into(pairs)))
        between = between + self.far * pairs[..., :2].abs().sum(dim=-1, keepdim=True) + self.overlap * pairs[..., 3:]
        special = self.special.expand(*mpp.shape, -1, -1)
        return torch.cat([special, between], dim=2).permute(0, 3, 1, 2)
