from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from parfocal.lab.synthetic.rendered import halve, write_pyramid


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_halving_averages_whole_cells_and_rounds_half_up() -> None:
    rgb = _noise(62, 94)

    cells = rgb.reshape(31, 2, 47, 2, 3).astype(int).sum(axis=(1, 3))
    assert np.array_equal(halve(rgb), (cells + 2) // 4)


def test_an_odd_side_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="93 x 62 px: both sides must be even"):
        halve(_noise(62, 93))


def test_openslide_and_tifffile_read_the_pixels_levels_and_mpp(tmp_path: Path) -> None:
    rgb = _noise(520, 776)
    write_pyramid(tmp_path / "noise.tif", rgb, mpp=0.5, n_levels=3, description={"seed": 0})

    with openslide.OpenSlide(tmp_path / "noise.tif") as slide:
        assert slide.level_dimensions == ((776, 520), (388, 260), (194, 130))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert float(slide.properties["openslide.mpp-y"]) == 0.5
        for level, expected in enumerate([rgb, halve(rgb), halve(halve(rgb))]):
            pixels = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]
            assert np.array_equal(pixels, expected)
    with tifffile.TiffFile(tmp_path / "noise.tif") as tiff:
        for number, page in enumerate(tiff.pages):
            per_cm, one = page.tags["XResolution"].value
            assert page.tags["ResolutionUnit"].value == 3  # centimetre
            assert 1e4 * one / per_cm == 0.5 * 2**number
            assert page.is_tiled


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        write_pyramid(tmp_path / "odd.tif", _noise(62, 94), mpp=0.5, n_levels=3)

    assert list(tmp_path.iterdir()) == []
