"""What a feature format must do."""

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from parfocal.errors import ParfocalError
from parfocal.store.formats.format import FeatureFormat

_TILE_PX, _TILE_L0PX = 224, 448


class FeatureFormatContract(ABC):
    """The rows and places that were written are read, and a broken file is one line."""

    @abstractmethod
    def make(self) -> FeatureFormat:
        """The format."""

    @abstractmethod
    def write(self, path: Path, rows: np.ndarray, xy_l0px: np.ndarray, *, tile_px: int, tile_l0px: int) -> None:
        """Write a file as the tool does whose format it is.

        Args:
            path: the file, whose name ends as the format says.
            rows: (tile, dim), float32.
            xy_l0px: (tile, 2), top left of each tile, in level-0 pixels.
            tile_px: side of a tile in its own pixels.
            tile_l0px: side of a tile in level-0 pixels.
        """

    def test_places_and_rows_are_those_that_were_written(self) -> None:
        """In their order."""
        with tempfile.TemporaryDirectory() as folder:
            path, rows, xy_l0px = self._written(Path(folder))
            file = self.make().read_places(path)
            assert file.path == path
            assert (file.tile_px, file.tile_l0px, file.dim) == (_TILE_PX, _TILE_L0PX, rows.shape[1])
            assert np.array_equal(file.xy_l0px, xy_l0px)
            assert np.allclose(self.make().read_rows(path), rows, atol=1e-2)

    def test_a_broken_file_is_one_line(self) -> None:
        """An error of parfocal's, so that one slide is left out and the rest goes on."""
        with tempfile.TemporaryDirectory() as folder:
            path, _, _ = self._written(Path(folder))
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
            for read in (self.make().read_places, self.make().read_rows):
                try:
                    read(path)
                except ParfocalError:
                    continue
                raise AssertionError(f"{read} took a file that was cut")

    def _written(self, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((6, 5)).astype(np.float32)
        xy_l0px = np.stack([np.arange(6) % 3, np.arange(6) // 3], axis=1).astype(np.float64) * _TILE_L0PX
        path = folder / f"slide{self.make().suffix}"
        self.write(path, rows, xy_l0px, tile_px=_TILE_PX, tile_l0px=_TILE_L0PX)
        return path, rows, xy_l0px
