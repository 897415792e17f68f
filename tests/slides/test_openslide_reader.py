import math
from contextlib import closing
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.slides.openslide_reader import OpenSlideReader


@given(
    size=st.tuples(st.integers(500, 560), st.integers(820, 900)),
    turned=st.booleans(),
    tile=st.sampled_from([64, 128]),
    shares=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_pixel_that_is_meant_comes_from_padded_levels(
    tmp_path: Path, size: tuple[int, int], turned: bool, tile: int, shares: tuple[float, float]
) -> None:
    """OpenSlide's own ratio is the mean of two wrong ones; a place at its far side would be off by many pixels."""
    width, height = (side // 4 * 4 for side in (size[::-1] if turned else size))
    y, x = np.mgrid[:height, :width]
    full = np.stack([x * 250 // width, y * 250 // height, (x // 8 + y // 8) % 2 * 200], axis=-1).astype(np.uint8)
    path = tmp_path / "padded.tif"
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2, 4):
            small = full[::step, ::step]
            padding = (
                [(0, math.ceil(side / tile) * tile - side) for side in small.shape[:2]] if step > 1 else [(0, 0)] * 2
            )
            tags = {"tile": (tile, tile), "photometric": "rgb", "metadata": None, "subfiletype": int(step > 1)}
            tiff.write(np.pad(small, [*padding, (0, 0)]), **tags)

    with closing(OpenSlideReader(path)) as reader:
        for level, ratio in enumerate(reader.level_downsamples):
            small = full[:: int(ratio), :: int(ratio)]
            assert reader.level_sizes[level] == (small.shape[1], small.shape[0])
            left, top = round(shares[0] * small.shape[1]), round(shares[1] * small.shape[0])
            got = reader.read(level, left, top, 20, 15).pixels.astype(int)
            # OpenSlide moves by parts of a pixel where its ratio is no whole number: that blurs the edges of squares.
            assert np.abs(got - small[top : top + 15, left : left + 20])[..., :2].max() <= 3
            assert np.abs(got - small[top : top + 15, left : left + 20]).mean() < 25


def test_a_level_whose_place_is_not_known_is_left_out(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, part in enumerate([pixels, pixels[::2, ::2], pixels[::4, ::3]]):
            tiff.write(part, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=int(number > 0))

    with closing(OpenSlideReader(path)) as reader:
        assert reader.level_downsamples == (1.0, 2.0)
        assert "the level of 111 x 51 px is left out" in reader.notes[0]
