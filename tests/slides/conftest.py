"""Small slides with known pixels: never square, never a multiple of the tile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile


@pytest.fixture
def pixels() -> np.ndarray:
    """RGB, 203 rows of 331 columns, smooth and different everywhere."""
    y, x = np.mgrid[:203, :331]
    return np.stack([x % 251, y % 241, (x // 3 + y // 2) % 239], axis=-1).astype(np.uint8)


@pytest.fixture
def write_tiff(tmp_path: Path) -> Callable[..., Path]:
    """Write a pyramid of 64 x 48 px tiles; each coarser level keeps every other pixel."""

    def write(
        pixels: np.ndarray, name: str = "made.tif", *, levels: int = 1, mpp: float | None = 0.5, **more: Any
    ) -> Path:
        path = tmp_path / name
        more = {"photometric": "rgb", "tile": (48, 64), "metadata": None} | more
        with tifffile.TiffWriter(path) as tiff:
            for level in range(levels):
                if mpp is not None:
                    per_cm = 10000 / (mpp * 2**level)
                    more |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
                tiff.write(pixels[:: 2**level, :: 2**level], subfiletype=int(level > 0), **more)
        return path

    return write
