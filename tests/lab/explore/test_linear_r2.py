import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.lab.explore.linear_r2 import PENALTIES, linear_r2, summaries
from parfocal.pretrain.evaluation import HeldOut
from parfocal.region_encoder.batch import RegionBatch
from parfocal.stats.regression import fit_ridge

COARSE, FINE = 2.0, 1.0


def regions_of(n: int, seed: int, *, noise: float = 0.0) -> RegionBatch:
    """A coarse tile and four fine ones; a fine tile is twice the coarse one, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 3, generator=generator)
    fine = 2 * coarse.expand(-1, 4, -1) + noise * torch.randn(n, 4, 3, generator=generator)
    places = torch.tensor([(0.0, 0.0), (-112.0, -112.0), (112.0, -112.0), (-112.0, 112.0), (112.0, 112.0)])
    return RegionBatch(
        torch.cat([coarse, fine], dim=1),
        places.repeat(n, 1, 1),
        torch.tensor([COARSE, FINE, FINE, FINE, FINE]).repeat(n, 1),
        torch.ones(n, 5, dtype=torch.bool),
        torch.arange(n) // 8,
        torch.arange(n) % 8,
    )


def hiding_fine(regions: RegionBatch) -> HeldOut:
    return HeldOut(regions, {"coarse_only": regions.mpp == FINE})


def as_they_are(
    regions: RegionBatch, visible: Tensor
) -> tuple[Float[Tensor, "region cls"], Float[Tensor, "region t d"]]:
    return torch.zeros(len(regions), 1), regions.tokens.masked_fill(~visible[..., None], torch.nan)


def r2(noise: float, *, context: object = as_they_are) -> float:
    sums = linear_r2(
        context,  # type: ignore[arg-type]
        lambda regions: regions.tokens,
        hiding_fine(regions_of(64, 0, noise=noise)),
        hiding_fine(regions_of(64, 1, noise=noise)),
        (COARSE, FINE),
        tile_px=224,
        dims=(3, 3),
        device=torch.device("cpu"),
    )
    assert {mpp for _, mpp in sums.error} == {FINE}
    return sums.of(pattern="coarse_only", mpp=FINE)


def test_a_linear_function_of_visible_tiles_is_read_out_and_noise_is_not() -> None:
    # Variance 4 of what the coarse tile says, and the noise's on top.
    assert r2(0.0) > 0.999
    assert r2(2.0) == pytest.approx(4 / (4 + 4), abs=0.08)


def test_an_encoder_that_says_nothing_scores_nothing() -> None:
    def silent(regions: RegionBatch, visible: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(regions), 1), torch.zeros_like(regions.tokens)

    assert r2(0.5, context=silent) == pytest.approx(0.0, abs=0.1)


def test_what_overlaps_is_told_from_what_lies_beside() -> None:
    regions = regions_of(1, 0)
    visible = torch.tensor([[True, False, True, False, False]])
    asked = torch.tensor([[0, 1], [0, 2]])

    found = summaries(torch.zeros(1, 2), regions.tokens, regions, visible, asked, (COARSE, FINE), tile_px=224)

    # CLS 2, then for each magnification overlapping (3 + flag) and all (3 + flag).
    overlap_coarse, overlap_fine, all_fine = found[:, 2:6], found[:, 10:14], found[:, 14:18]
    assert torch.equal(overlap_coarse[:, :3], regions.tokens[0, :1].expand(2, -1))
    assert overlap_fine[:, 3].tolist() == [0.0, 1.0]
    assert torch.equal(all_fine[:, :3], regions.tokens[0, 2:3].expand(2, -1))


def test_with_more_inputs_than_rows_the_same_weights_come_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 30, generator=generator), torch.randn(20, 2, generator=generator)
    new = torch.randn(5, 30, generator=generator)
    validation = torch.arange(20) % 4 == 3

    def predict(times: int) -> np.ndarray:
        cases = (values.repeat(times, *[1] * (values.ndim - 1)).numpy() for values in (x, y, validation))
        return fit_ridge(*cases, PENALTIES, standardised=True).predict(new.numpy())

    wide = predict(1)
    # Inputs that are always 0 change nothing, but with many rows again the other system is solved.
    tall = predict(2)
    assert np.allclose(wide, tall, atol=1e-8)
