"""The encoder: what is absent cannot matter, order cannot matter, and geometry is what counts."""

import pytest
import torch
from torch import Tensor

from parfocal.region_encoder import EncodedRegions, RegionEncoder, RegionEncoderConfig

MPPS = (2.0, 1.0, 0.5)
DIM = 24


def raster(region_um: float = 448.0, mpps: tuple[float, ...] = MPPS, tile_px: int = 224) -> tuple[Tensor, Tensor]:
    """Centres and mpp of all tiles of a region, written out by hand."""
    xy, mpp = [], []
    for one in mpps:
        side = tile_px * one
        n = round(region_um / side)
        for row in range(n):
            for column in range(n):
                xy.append([(column + 0.5) * side - region_um / 2, (row + 0.5) * side - region_um / 2])
                mpp.append(one)
    return torch.tensor(xy), torch.tensor(mpp)


def encoder_of(seed: int = 0, *, wake: bool = True, **settings: object) -> RegionEncoder:
    """A small encoder; awake means that its branches count, which LayerScale at its start hides."""
    torch.manual_seed(seed)
    given = {"width": 32, "depth": 3, "heads": 4, "mpps": MPPS, "dims": (DIM,) * 3, "layer_scale": 0.5} | settings
    encoder = RegionEncoder(RegionEncoderConfig(**given)).eval()  # type: ignore[arg-type]
    if wake:
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def batch_of(
    regions: int, seed: int = 0, *, absent: float = 0.0, dim: int = DIM
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random tokens on the default raster; each token is absent with the given share, one stays."""
    generator = torch.Generator().manual_seed(seed)
    xy, mpp = raster()
    tokens = torch.randn(regions, len(mpp), dim, generator=generator)
    present = torch.rand(regions, len(mpp), generator=generator) >= absent
    present[:, 3] = True
    return tokens, xy.expand(regions, -1, -1), mpp.expand(regions, -1), present


def assert_same(a: EncodedRegions, b: EncodedRegions, tolerance: float = 1e-5) -> None:
    for name in ("cls", "registers", "tokens", "cls_weights"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize("projector", ["shared", "separate"])
def test_absent_tokens_are_as_if_they_had_never_been_listed(trunk: str, projector: str) -> None:
    encoder = encoder_of(trunk=trunk, projector=projector)
    tokens, xy, mpp, present = batch_of(7, absent=0.5)

    together = encoder.encode(tokens, xy, mpp, present)

    for r in range(7):
        kept = present[r]
        alone = encoder.encode(
            tokens[r : r + 1, kept], xy[r : r + 1, kept], mpp[r : r + 1, kept], present[r : r + 1, kept]
        )
        torch.testing.assert_close(together.cls[r], alone.cls[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.tokens[r, kept], alone.tokens[0], atol=1e-5, rtol=1e-5)
        assert not together.tokens[r, ~kept].any()
