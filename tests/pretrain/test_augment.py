"""A turned region is what embedding the turned picture would have given."""

import numpy as np
import pytest
import torch

from parfocal.encoders import FilterBank, Symmetry, symmetries_of_square
from parfocal.pretrain.augment import SquareSymmetries, declared_symmetries, move_under
from parfocal.region_encoder.batch import RegionBatch

from .conftest import MakeSet


@pytest.mark.parametrize("element", range(8))
def test_positions_move_as_pixels_do(element: int) -> None:
    # A raster that knows where each of its cells was; the region is square, its content is not symmetric.
    n = 4
    cells = symmetries_of_square(np.arange(n * n).reshape(n, n), element)
    place = np.arange(n) - (n - 1) / 2
    x, y = np.meshgrid(place, place)
    before = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1))[None]

    after = move_under(before, torch.tensor([element]))[0]
    for row in range(n):
        for column in range(n):
            assert after[cells[row, column]].tolist() == [place[column], place[row]]


def test_rows_change_as_the_encoder_declares() -> None:
    bank = FilterBank(64)
    tile = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    row = torch.from_numpy(bank.encode(tile[None]))
    n = 64
    regions = RegionBatch(
        row[None].expand(n, 1, -1).clone(),
        torch.tensor([10.0, 3.0]).expand(n, 1, 2).clone(),
        torch.full((n, 1), 2.0),
        torch.ones(n, 1, dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
        torch.arange(n),
    )
    symmetries = SquareSymmetries.of({2.0: bank.symmetry, 1.0: Symmetry("invariant")}, dim=bank.dim)

    turned = symmetries.apply(regions, torch.Generator().manual_seed(0))
    seen = set()
    for tokens, xy in zip(turned.tokens, turned.xy_um, strict=True):
        (element,) = [e for e in range(8) if torch.equal(move_under(regions.xy_um[:1], torch.tensor([e]))[0], xy)]
        seen.add(element)
        expected = bank.encode(np.ascontiguousarray(symmetries_of_square(tile, element))[None])
        assert np.allclose(tokens.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert seen == set(range(8))


def test_an_unknown_symmetry_turns_nothing(make_set: MakeSet) -> None:
    symmetries = declared_symmetries(make_set((3,)))

    assert {one.kind for one in symmetries.values()} == {"unknown"}
    assert not SquareSymmetries.of(symmetries, dim=8).active
