import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from parfocal.errors import ClosedSlideError, UnreadableSlideError
from parfocal.slides import open_slide, tiled_tiff
from parfocal.slides.openslide_reader import OpenSlideReader
from parfocal.slides.tiff_file import read_tiff
from parfocal.slides.tiff_level import TiffLevel
from parfocal.slides.tiled_tiff import TiledTiffReader

Write = Callable[..., Path]

# (left, top, width, height) about a level of the given size, as shares of it: inside, over each edge, and around it.
WINDOWS = [
    (0.31, 0.42, 0.2, 0.13),
    (-0.05, 0.4, 0.1, 0.1),
    (0.93, 0.95, 0.11, 0.09),
    (0.0, 0.0, 0.3, 1.0),
    (0.4, -0.1, 0.1, 0.2),
]


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("predictor", [False, True])
def test_lossless_tiles_give_the_pixels_back_on_every_level(
    write_tiff: Write, pixels: np.ndarray, compression: str | None, predictor: bool
) -> None:
    path = write_tiff(pixels, levels=3, compression=compression, predictor=predictor and compression is not None)

    with open_slide(path) as slide:
        assert slide.format == "tiled TIFF"
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        for number, level in enumerate(slide.levels):
            got = slide.read_level(number, 0, 0, level.width_px, level.height_px)
            np.testing.assert_array_equal(got, pixels[:: 2**number, :: 2**number])


def test_a_window_over_the_edge_is_white_outside(write_tiff: Write, pixels: np.ndarray) -> None:
    padded = np.full((203 + 200, 331 + 200, 3), 255, np.uint8)
    padded[100:-100, 100:-100] = pixels

    with open_slide(write_tiff(pixels)) as slide:
        for x, y, width, height in [(-37, -41, 90, 70), (300, 190, 77, 55), (-20, 30, 371, 11), (331, 0, 10, 10)]:
            expected = padded[100 + y : 100 + y + height, 100 + x : 100 + x + width]
            np.testing.assert_array_equal(slide.read_level(0, x, y, width, height), expected)


@pytest.mark.parametrize("small_bytes", [0, tiled_tiff._SMALL_BYTES])
def test_any_order_of_windows_gives_the_same_pixels(
    write_tiff: Write, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    """Tiles that are remembered between windows must never show up in another place."""
    monkeypatch.setattr(tiled_tiff, "_SMALL_BYTES", small_bytes)
    random = np.random.default_rng(3)
    with open_slide(write_tiff(pixels, levels=2, compression="deflate")) as slide:
        for _ in range(200):
            level = int(random.integers(2))
            whole = pixels[:: 2**level, :: 2**level]
            y, x = (int(random.integers(side - 1)) for side in whole.shape[:2])
            height, width = (
                int(random.integers(1, side - at)) for side, at in zip(whole.shape[:2], (y, x), strict=True)
            )
            got = slide.read_level(level, x, y, width, height)
            np.testing.assert_array_equal(got, whole[y : y + height, x : x + width])


@pytest.mark.parametrize("is_small", [False, True])
def test_a_small_picture_is_decoded_once_and_of_a_large_one_little_stays(
    write_tiff: Write, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    path = write_tiff(pixels, levels=2, compression="deflate")
    n_tiles, tile_bytes = 5 * 6 + 3 * 3, 48 * 64 * 3
    monkeypatch.setattr(tiled_tiff, "_SMALL_BYTES", n_tiles * tile_bytes - (not is_small))
    decoded = []
    decode = TiffLevel.decode
    monkeypatch.setattr(TiffLevel, "decode", lambda *given: decoded.append(given[1]) or decode(*given))

    with open_slide(path) as slide:
        for _ in range(3):
            for level in (1, 0):
                slide.read_level(level, 0, 0, slide.levels[level].width_px, slide.levels[level].height_px)

    # Of the large one those at the lower and right edge stay, which end outside the window.
    assert len(decoded) == n_tiles + (0 if is_small else 2 * (4 * 5 + 2 * 2))


def test_threads_share_a_slide(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels, compression="jpeg")) as slide:
        expected = slide.read_level(0, 0, 0, 331, 203)

        def same(seed: int) -> bool:
            random = np.random.default_rng(seed)
            x, y = int(random.integers(200)), int(random.integers(100))
            return np.array_equal(slide.read_level(0, x, y, 120, 90), expected[y : y + 90, x : x + 120])

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(same, range(200)))


def _read_in_child(slide: object, answer: "multiprocessing.Queue[int]") -> None:
    answer.put(int(slide.read_level(0, 5, 7, 200, 150).sum()))  # type: ignore[attr-defined]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_opens_the_file_for_itself(write_tiff: Write, pixels: np.ndarray) -> None:
    context = multiprocessing.get_context("fork")
    with open_slide(write_tiff(pixels)) as slide:
        expected = int(slide.read_level(0, 5, 7, 200, 150).sum())
        answer = context.Queue()
        child = context.Process(target=_read_in_child, args=(slide, answer))
        child.start()
        try:
            assert answer.get(timeout=300) == expected
        finally:
            child.join(timeout=300)
        assert int(slide.read_level(0, 5, 7, 200, 150).sum()) == expected


def test_levels_in_subifds_and_ome_sizes_are_found(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "made.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
        tiff.write(pixels, tile=(48, 64), photometric="rgb", subifds=1, metadata=metadata)
        tiff.write(pixels[::2, ::2], tile=(48, 64), photometric="rgb", subfiletype=1)

    with open_slide(path) as slide:
        assert (slide.format, slide.mpp, len(slide.levels)) == ("OME-TIFF", 0.25, 2)
        np.testing.assert_array_equal(slide.read_level(1, 0, 0, 166, 102), pixels[::2, ::2])


def test_grey_tiles_become_rgb(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels[..., 0], photometric="minisblack")) as slide:
        expected = np.repeat(pixels[..., :1], 3, axis=2)
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 331, 203), expected)


def test_deep_tiles_are_refused_not_clipped(write_tiff: Write, pixels: np.ndarray) -> None:
    with pytest.raises(UnreadableSlideError, match=r"its pixels are uint16, not 8 bit"):
        open_slide(write_tiff(pixels.astype(np.uint16)))


@pytest.mark.parametrize("turned", [3, 6])
def test_a_turned_pyramid_is_refused(write_tiff: Write, pixels: np.ndarray, turned: int) -> None:
    path = write_tiff(pixels, extratags=[(274, "H", 1, turned, True)])

    with pytest.raises(UnreadableSlideError, match=f"orientation tag says {turned}"):
        open_slide(path)


def test_a_file_cut_short_names_the_tile(write_tiff: Write, pixels: np.ndarray) -> None:
    path = write_tiff(pixels)
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages.first.dataoffsets[-1]
    path.write_bytes(path.read_bytes()[: last + 10])

    with open_slide(path) as slide:
        slide.read_level(0, 0, 0, 64, 48)
        with pytest.raises(UnreadableSlideError, match=r"cannot read made\.tif: tile 29 of level 0 is broken"):
            slide.read_level(0, 300, 190, 31, 13)


def test_a_closed_slide_says_so(write_tiff: Write, pixels: np.ndarray) -> None:
    slide = open_slide(write_tiff(pixels))
    slide.close()
    slide.close()

    with pytest.raises(ClosedSlideError, match="open_slide"):
        slide.read_level(0, 0, 0, 1, 1)


def test_an_empty_window_is_a_callers_mistake(write_tiff: Write, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(pixels)) as slide, pytest.raises(ValueError, match="has no pixels"):
        slide.read_level(0, 0, 0, 0, 5)


@pytest.mark.parametrize("name", ["colon-he-section.tif", "cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def test_the_fast_way_shows_what_openslide_shows(real_data: Path, name: str) -> None:
    """Both decode with the same two libraries; versions that round the colour transform otherwise differ by 1."""
    path = real_data / "slides" / name
    with open_slide(path, slide_mpp=0.5) as slide, openslide.OpenSlide(str(path)) as reference:
        assert tuple((level.width_px, level.height_px) for level in slide.levels) == reference.level_dimensions
        for level, (width, height) in enumerate(reference.level_dimensions):
            downsample = reference.level_downsamples[level]
            for left, top, across, down in WINDOWS:
                # A place that is whole in level-0 pixels too: OpenSlide shifts by fractions of a pixel elsewhere.
                x, y = max(round(left * width), -90), max(round(top * height), -60)
                if downsample % 1:
                    x, y = 0, 0
                window = (min(max(round(across * width), 1), 700), min(max(round(down * height), 1), 700))
                rgba = reference.read_region((round(x * downsample), round(y * downsample)), level, window)
                expected = np.asarray(rgba)[..., :3].astype(int)
                inside = np.asarray(rgba)[..., 3] == 255
                got = slide.read_level(level, x, y, *window)
                assert np.abs(got.astype(int) - expected)[inside].max(initial=0) <= 1
                assert (got[~inside] == 255).all()
                assert inside.any()


def test_both_readers_give_the_same_windows_inside(colon: Path) -> None:
    facts = read_tiff(colon, None)
    assert facts is not None
    with closing(TiledTiffReader(colon, facts)) as fast, closing(OpenSlideReader(colon)) as slow:
        for level, x, y in [(0, 7001, 9003), (2, 1500, 2501), (5, 100, 333)]:
            np.testing.assert_array_equal(
                fast.read(level, x, y, 301, 207).pixels, slow.read(level, x, y, 301, 207).pixels
            )
    assert fast.mpp_claim is not None
    assert slow.mpp_claim is not None
    assert fast.mpp_claim.mean == pytest.approx(slow.mpp_claim.mean)
