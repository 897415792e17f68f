"""Small encoders and batches for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from parfocal.region_encoder import SIZES, RegionEncoderConfig, RegionModel

MPPS = (2.0, 1.0, 0.5)
DIM = 24
TINY = {"width": 32, "depth": 2, "heads": 4}


@contextmanager
def tiny_models(**changes: int) -> Iterator[None]:
    """Here size T is `TINY`, with changes, a quarter as wide as it is: the mechanics of a training need no more."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SIZES, "T", TINY | changes)
        yield


def raster(region_um: float = 448.0, mpps: tuple[float, ...] = MPPS, tile_px: int = 224) -> tuple[Tensor, Tensor]:
    """Centres and mpp of all tiles of a region."""
    xy, mpp = [], []
    for one in mpps:
        side = tile_px * one
        n = round(region_um / side)
        for row in range(n):
            for column in range(n):
                xy.append([(column + 0.5) * side - region_um / 2, (row + 0.5) * side - region_um / 2])
                mpp.append(one)
    return torch.tensor(xy), torch.tensor(mpp)


def model_of(seed: int = 0, **settings: Any) -> RegionModel:
    """A small model, in evaluation mode, with all weights far from their start, so that every part of it counts."""
    torch.manual_seed(seed)
    given = {"width": 32, "depth": 2, "heads": 4, "mpps": MPPS, "dims": (DIM,) * 3, "layer_scale": 0.5} | settings
    model = RegionModel(RegionEncoderConfig(**given)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        model.encoder.standardiser.mean.normal_()
        model.encoder.standardiser.sd.uniform_(0.5, 2.0)
    return model


def batch_of(
    regions: int, seed: int = 0, *, absent: float = 0.0, dim: int = DIM
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random tokens on the default raster; each token but one is absent with the given probability."""
    generator = torch.Generator().manual_seed(seed)
    xy, mpp = raster()
    tokens = torch.randn(regions, len(mpp), dim, generator=generator)
    present = torch.rand(regions, len(mpp), generator=generator) >= absent
    present[:, 3] = True
    return tokens, xy.expand(regions, -1, -1), mpp.expand(regions, -1), present
