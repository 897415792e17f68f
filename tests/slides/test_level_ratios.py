import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from parfocal.errors import ParfocalWarning, UnreadableSlideError
from parfocal.slides import open_slide
from parfocal.slides.level_ratios import LevelShape, level_ratios, size_without_padding

Write = Callable[..., Path]


def up_to(size: int, tile: int) -> int:
    return math.ceil(size / tile) * tile


ROUNDING: dict[str, Callable[[int, float, int], int]] = {
    "down": lambda size, ratio, tile: math.floor(size / ratio),
    "up": lambda size, ratio, tile: math.ceil(size / ratio),
    "to tiles": lambda size, ratio, tile: up_to(math.ceil(size / ratio), tile),
    "from whole tiles of level 0": lambda size, ratio, tile: math.ceil(up_to(size, tile) / ratio),
    "to blocks of JPEG": lambda size, ratio, tile: up_to(math.ceil(size / ratio), 16),
}


@st.composite
def pyramids(
    draw: st.DrawFn, factors: tuple[float, ...], rounding: list[str]
) -> tuple[LevelShape, list[LevelShape], list[float]]:
    tile = draw(st.sampled_from([64, 128, 240, 256, 512]))
    # Of a square, padding cannot be told from another ratio by the sizes alone.
    width, height = draw(st.integers(4 * tile, 90_000)), draw(st.integers(4 * tile, 90_000))
    assume(abs(width - height) > 2 * tile)
    factor = draw(st.sampled_from(factors))
    rounded = ROUNDING[draw(st.sampled_from(rounding))]
    ratios = [factor**n for n in range(1, draw(st.integers(1, 7))) if min(width, height) / factor**n >= 24]
    levels = [LevelShape(rounded(width, r, tile), rounded(height, r, tile), tile, tile) for r in ratios]
    return LevelShape(width, height, tile, tile), levels, ratios


def misplaced(full: LevelShape, ratio: float, found: float) -> float:
    """How many pixels of the level the far corner lies off."""
    return max(abs(side / ratio - side / found) for side in (full.width, full.height))


@given(pyramids((2.0, 3.0, 4.0), ["down", "up", "to tiles", "from whole tiles of level 0"]))
@settings(max_examples=400)
def test_a_ratio_is_the_true_one_or_not_given(made: tuple[LevelShape, list[LevelShape], list[float]]) -> None:
    full, levels, ratios = made

    for ratio, found in zip(ratios, level_ratios(full, levels), strict=True):
        assert found is None or misplaced(full, ratio, found) <= 1.6


@given(pyramids((2.0, 3.0, 4.0, 2**0.5, 2.5), sorted(ROUNDING)))
@settings(max_examples=300)
def test_what_the_file_states_settles_it(made: tuple[LevelShape, list[LevelShape], list[float]]) -> None:
    full, levels, ratios = made
    stated = [
        LevelShape(level.width, level.height, level.tile_width, level.tile_height, float(f"{ratio:.6g}"))
        for level, ratio in zip(levels, ratios, strict=True)
    ]

    found = level_ratios(full, stated)

    assert None not in found
    for level, ratio, one in zip(levels, ratios, found, strict=True):
        # Tags hold three digits, so that two in a thousand count as the whole ratio beside them.
        assert misplaced(full, ratio, one or 0) <= 1.6 + 0.002 * max(level.width, level.height)
        if ratio == round(ratio):
            assert one == ratio


@given(st.integers(2000, 90_000), st.integers(2000, 90_000), st.sampled_from([2, 3, 4]), st.booleans())
@settings(max_examples=200)
def test_sizes_that_were_only_rounded_give_whole_ratios(width: int, height: int, factor: int, up: bool) -> None:
    rounded = math.ceil if up else math.floor
    ratios = [factor**n for n in (1, 2, 3)]
    levels = [LevelShape(rounded(width / ratio), rounded(height / ratio)) for ratio in ratios]

    assert level_ratios(LevelShape(width, height), levels) == ratios


@given(st.integers(2000, 60_000), st.integers(2000, 60_000), st.floats(1.3, 4), st.floats(2, 9))
@settings(max_examples=100)
def test_a_level_of_another_shape_has_no_ratio(width: int, height: int, stretch: float, ratio: float) -> None:
    level = LevelShape(int(width / ratio), max(int(height / ratio / stretch), 1))

    assert level_ratios(LevelShape(width, height, 256, 256), [level]) == [None]


def test_a_shape_that_contradicts_its_tag_is_judged_by_its_size() -> None:
    full = LevelShape(6528, 3456, 128, 128)
    assert level_ratios(full, [LevelShape(1632, 864, 128, 128, stated=2.0)]) == [4.0]


def test_scanners_ratios() -> None:
    aperio = [LevelShape(11500, 8228, 240, 240), LevelShape(2875, 2057, 240, 240), LevelShape(1437, 1028, 240, 240)]
    assert level_ratios(LevelShape(46000, 32914, 240, 240), aperio) == [4.0, 16.0, 32.0]


@given(
    size=st.tuples(st.integers(300, 700), st.integers(300, 700)),
    factor=st.sampled_from([2, 4]),
    tile=st.sampled_from([64, 128]),
    with_tags=st.booleans(),
    with_marks=st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:.*is left out:parfocal.errors.ParfocalWarning")
def test_padded_levels_show_the_same_places_as_cropped_ones(
    tmp_path: Path, size: tuple[int, int], factor: int, tile: int, with_tags: bool, with_marks: bool
) -> None:
    """Every level is a mean of level 0, so a place tells where it is by its colour."""
    width, height = size[0] // factor * factor, size[1] // factor * factor
    y, x = np.mgrid[:height, :width]
    full = np.stack([x * 250 // width, y * 250 // height, (x + y) % 7 + 100], axis=-1).astype(np.uint8)
    small = full.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3)).astype(np.uint8)
    # Such a level looks exactly like a coarser one that fills its tiles.
    assume(
        not any((up_to(len(small), tile) * n, up_to(small.shape[1], tile) * n) == (height, width) for n in (1, 2, 3))
    )
    padded = np.zeros((up_to(len(small), tile), up_to(small.shape[1], tile), 3), np.uint8)
    padded[: len(small), : small.shape[1]] = small
    path = tmp_path / "padded.tif"
    with tifffile.TiffWriter(path) as tiff:
        for pixels, per_cm in ((full, 20000), (padded, 20000 // factor)):
            tags = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"} if with_tags else {}
            mark = int(with_marks and pixels is padded)
            tiff.write(pixels, tile=(tile, tile), photometric="rgb", metadata=None, subfiletype=mark, **tags)

    with open_slide(path, slide_mpp=0.5) as slide:
        if with_tags and with_marks:
            assert len(slide.levels) == 2
        for number, level in enumerate(slide.levels[1:], start=1):
            assert level.downsample == factor
            assert (level.width_px, level.height_px) == (width // factor, height // factor)
            got = slide.read_level(number, 0, 0, level.width_px + 9, level.height_px + 9)
            np.testing.assert_array_equal(got[: level.height_px, : level.width_px], small)
            assert (got[level.height_px :] == 255).all()


def test_a_level_of_another_shape_is_left_out_and_named(write_tiff: Write, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, part in enumerate([pixels, pixels[::2, ::2], pixels[::4, ::3]]):
            tiff.write(part, tile=(48, 64), photometric="rgb", metadata=None, subfiletype=int(number > 0))

    with pytest.warns(ParfocalWarning, match="the level of 111 x 51 px is left out: no one ratio explains"):
        slide = open_slide(path, slide_mpp=0.5)
    with slide:
        assert [level.downsample for level in slide.levels] == [1, 2]


@pytest.mark.parametrize("levels", [[1], [1, 2]])
def test_a_level_whose_sides_are_exchanged_is_refused(pixels: np.ndarray, tmp_path: Path, levels: list[int]) -> None:
    """As where the width and the height of level 0 were: its tiles are as many, and every one is elsewhere."""
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        for n, part in enumerate([pixels, *(pixels[:: 2**n, :: 2**n].swapaxes(0, 1) for n in levels)]):
            tiff.write(part, tile=(48, 64), photometric="rgb", metadata=None, subfiletype=int(n > 0))

    with pytest.raises(UnreadableSlideError, match=r"102 x 166 px contradicts the 331 x 203 px of level 0"):
        open_slide(path, slide_mpp=0.5)


def test_padding_is_not_shown() -> None:
    full, level = LevelShape(6528, 3456, 128, 128), LevelShape(512, 256, 128, 128)
    assert size_without_padding(full, level, 16.0) == (408, 216)
    assert size_without_padding(LevelShape(4443, 3567), LevelShape(2221, 1783), 2.0) == (2221, 1783)


def test_the_padded_case_has_the_levels_of_the_cropped_one(real_data: Path) -> None:
    folder = real_data / "cases" / "07-tiff-padded-levels"
    with open_slide(folder / "padded.tif") as padded, open_slide(folder / "cropped.tif") as cropped:
        assert padded.levels == cropped.levels
        for number, level in enumerate(cropped.levels):
            window = (number, level.width_px // 3, level.height_px // 3, 90, 70)
            np.testing.assert_allclose(padded.read_level(*window), cropped.read_level(*window), atol=12)
