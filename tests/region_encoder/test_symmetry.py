"""Turning coordinates is turning tissue: with tiles whose rows do not change, both give the same encodings."""

import numpy as np
import pytest
import torch
from torch import Tensor

from parfocal.encoders import symmetries_of_square
from parfocal.pretrain.augment import SquareSymmetries, move_under
from parfocal.region_encoder.batch import EncodedRegions, RegionBatch

from .toy import DIM, MPPS, model_of, raster

CELLS = 16  # of a picture's side: a 20x tile is four cells wide


def tiles_of(picture: np.ndarray) -> Tensor:
    """The rows of a tile encoder that is invariant by construction: mean and spread of each tile's cells."""
    rows = []
    for mpp in MPPS:
        side = round(CELLS * mpp / MPPS[0])
        for y in range(0, CELLS, side):
            for x in range(0, CELLS, side):
                cells = picture[y : y + side, x : x + side].reshape(-1, picture.shape[2])
                rows.append(np.concatenate([cells.mean(axis=0), cells.std(axis=0)]))
    return torch.from_numpy(np.stack(rows)).float()


def encoded(tokens: Tensor, xy: Tensor) -> EncodedRegions:
    _, mpp = raster()
    return model_of().encoder.encode(tokens[None], xy[None], mpp[None], torch.ones(1, len(mpp), dtype=torch.bool))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(CELLS, CELLS, DIM // 2))


@pytest.mark.parametrize("element", range(8))
def test_a_turned_region_is_encoded_as_the_turned_picture(picture: np.ndarray, element: int) -> None:
    xy, mpp = raster()
    tokens, turned = tiles_of(picture), tiles_of(symmetries_of_square(picture, element))
    moved = move_under(xy[None], torch.tensor([element]))[0]
    # Which tile came to each place of the raster.
    came = [((moved - place).abs().sum(dim=1) + (mpp - at).abs()).argmin() for place, at in zip(xy, mpp, strict=True)]
    came = torch.stack(came)

    by_coordinates, by_pixels = encoded(tokens, moved), encoded(turned, xy)

    # Sums over a tile's cells run in another order: rounding of float32.
    assert torch.allclose(tokens[came], turned, atol=1e-5)
    assert torch.allclose(by_coordinates.cls, by_pixels.cls, atol=1e-5)
    assert torch.allclose(by_coordinates.registers, by_pixels.registers, atol=1e-5)
    assert torch.allclose(by_coordinates.tokens[:, came], by_pixels.tokens, atol=1e-5)
    if element:
        # The model is not blind to it, so the equality above says something.
        assert not torch.allclose(by_pixels.cls, encoded(tokens, xy).cls, atol=1e-3)


def test_the_decoder_finds_a_hidden_tile_at_the_place_it_was_turned_to(picture: np.ndarray) -> None:
    xy, mpp = raster()
    model, element = model_of(), 5
    visible = torch.ones(1, len(mpp), dtype=torch.bool)
    visible[:, 9] = False
    moved = move_under(xy[None], torch.tensor([element]))
    turned = tiles_of(symmetries_of_square(picture, element))[None]
    (place,) = ((moved[0, 9] - xy).abs().sum(dim=1) + (mpp[9] - mpp).abs() < 1e-3).nonzero().flatten().tolist()
    hidden = torch.ones_like(visible)
    hidden[:, place] = False

    by_coordinates = model.encoder.encode(tiles_of(picture)[None], moved, mpp[None], visible)
    by_pixels = model.encoder.encode(turned, xy[None], mpp[None], hidden)

    asked = moved[:, 9:10], mpp[None, 9:10]
    answers = [model.decode(by_coordinates, visible, *asked), model.decode(by_pixels, hidden, *asked)]
    assert torch.allclose(answers[0].mean, answers[1].mean, atol=1e-5)
    assert torch.allclose(answers[0].log_variance, answers[1].log_variance, atol=1e-5)


def test_the_augmentation_of_an_invariant_encoder_does_just_that(picture: np.ndarray) -> None:
    xy, mpp = raster()
    n = 32
    regions = RegionBatch(
        tiles_of(picture).expand(n, -1, -1),
        xy.expand(n, -1, -1),
        mpp.expand(n, -1),
        torch.ones(n, len(mpp), dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
        torch.arange(n),
    )
    symmetries = SquareSymmetries.of({}, dim=DIM, wanted="invariant")

    turned = symmetries.apply(regions, torch.Generator().manual_seed(0))
    found = model_of().encoder.encode(turned.tokens, turned.xy_um, turned.mpp, turned.present).cls

    of_pictures = torch.cat([encoded(tiles_of(symmetries_of_square(picture, e)), xy).cls for e in range(8)])
    distance = torch.cdist(found, of_pictures, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(dim=1).values < 1e-4).all()
    assert set(distance.argmin(dim=1).tolist()) == set(range(8))
