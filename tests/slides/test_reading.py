from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parfocal.errors import ParfocalWarning, ResolutionError
from parfocal.geometry import Box
from parfocal.slides import open_slide, read_tile

Write = Callable[..., Path]


def test_a_tile_has_the_asked_size_and_the_mean_of_its_pixels(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels)) as slide:
        tile = read_tile(slide, Box(10.0, 20.0, 80.0, 60.0), mpp=2.0)

    expected = pixels[40:160, 20:180].reshape(30, 4, 40, 4, 3).mean(axis=(1, 3))
    assert tile.shape == (30, 40, 3)
    assert np.abs(tile - expected).max() <= 0.5  # rounding to whole grey levels


def test_the_coarsest_sharp_level_is_read(write_tiff: Write, pixels: np.ndarray) -> None:
    """The levels are told apart by what is in them: every other pixel, not averages."""
    with open_slide(write_tiff(pixels, levels=3)) as slide:
        tile = read_tile(slide, Box(10.0, 20.0, 80.0, 60.0), mpp=1.0)
        between = read_tile(slide, Box(10.0, 20.0, 84.0, 63.0), mpp=1.5)

    np.testing.assert_array_equal(tile, pixels[40:160:2, 20:180:2])
    assert between.shape == (42, 56, 3)


def test_outside_is_white_also_after_averaging(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels)) as slide:
        tile = read_tile(slide, Box(-40.0, -40.0, 80.0, 60.0), mpp=2.0)

    assert (tile[:20] == 255).all()
    assert (tile[:, :20] == 255).all()
    assert tile[20:, 20:].mean() < 200


def test_a_little_finer_than_the_slide_is_enlarged_and_said(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels, mpp=0.5015)) as slide:
        with pytest.warns(ParfocalWarning, match="0.3% finer"):
            assert read_tile(slide, Box(10.0, 20.0, 50.0, 60.0), mpp=0.5).shape == (120, 100, 3)
        with pytest.raises(ResolutionError, match=r"cannot read made.tif at 0.25 mpp.*Ask for 0.5015 mpp or coarser"):
            read_tile(slide, Box(10.0, 20.0, 50.0, 60.0), mpp=0.25)
