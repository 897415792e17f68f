"""What a tile encoder must do."""

import json
from abc import ABC, abstractmethod

import numpy as np

from parfocal.encoders import TileEncoder, symmetries_of_square
from parfocal.errors import EncoderError


class TileEncoderContract(ABC):
    """One row for each tile, which nothing but the tile decides."""

    @abstractmethod
    def make(self) -> TileEncoder:
        """The encoder; called once in each test."""

    tolerance = 1e-4
    """How far the rows of one tile may lie apart, over the largest number: sums of floats depend on the batch."""

    def test_it_gives_one_finite_row_of_its_width_for_each_tile(self) -> None:
        """The shape and type of rows, also of no tile."""
        encoder = self.make()
        for n in (0, 1, 3):
            rows = encoder.encode(_tiles(encoder, n))
            assert rows.shape == (n, encoder.dim)
            assert rows.dtype == np.float32
            assert np.isfinite(rows).all()

    def test_tiles_of_one_call_do_not_see_each_other(self) -> None:
        """A tile alone has the row that it has among others."""
        encoder = self.make()
        tiles = _tiles(encoder, 4)
        alone = np.concatenate([encoder.encode(tiles[n : n + 1]) for n in range(len(tiles))])
        self._are_close(encoder.encode(tiles), alone)

    def test_different_tiles_have_different_rows(self) -> None:
        """Something of a tile arrives in its row."""
        encoder = self.make()
        rows = encoder.encode(_tiles(encoder, 2))
        assert np.abs(rows[0] - rows[1]).max() > 0

    def test_it_describes_all_that_changes_a_row(self) -> None:
        """The description is plain values, and the same for one that is made again."""
        encoder = self.make()
        assert json.loads(json.dumps(encoder.describe())) == json.loads(json.dumps(self.make().describe()))
        assert encoder.digest == self.make().digest
        assert encoder.name
        assert not set(encoder.name) & set('/\\:*?"<>| ')

    def test_tiles_of_another_side_are_refused(self) -> None:
        """They are never resized in silence."""
        encoder = self.make()
        side = encoder.tile_px + 16
        try:
            encoder.encode(np.zeros((1, side, side, 3), dtype=np.uint8))
        except EncoderError:
            return
        raise AssertionError("it took tiles of another side; call `check_tiles` first")

    def test_a_declared_symmetry_holds(self) -> None:
        """Turning or mirroring a tile permutes its row as the encoder says."""
        encoder = self.make()
        permutation = encoder.symmetry.permutation
        if permutation is None:
            return
        (tile,) = _tiles(encoder, 1)
        (row,) = encoder.encode(tile[None])
        for element in range(8):
            turned = np.ascontiguousarray(symmetries_of_square(tile, element))
            self._are_close(encoder.encode(turned[None])[0], row[permutation[element]])

    def _are_close(self, first: np.ndarray, second: np.ndarray) -> None:
        assert np.abs(first - second).max() <= self.tolerance * max(1.0, float(np.abs(first).max()))


def _tiles(encoder: TileEncoder, n: int) -> np.ndarray:
    side = encoder.tile_px
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)
