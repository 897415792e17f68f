import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import UnreadableSlideError
from parfocal.slides import Window, open_slide
from parfocal.slides.openslide_reader import OpenSlideReader
from parfocal.slides.reader import Missing, join_gaps, missing_where_transparent

Write = Callable[..., Path]
TILES = 5 * 6  # of the small slide: 331 x 203 px in tiles of 64 x 48


def damage(path: Path, tiles: dict[int, bytes | None], level: int = 0) -> None:
    """Overwrite the middle of tiles, or list them as having no bytes (None)."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[level]
        sizes, places = list(page.databytecounts), list(page.dataoffsets)
        for tile, what in tiles.items():
            if what is None:
                sizes[tile] = places[tile] = 0
            else:
                tiff.filehandle.seek(page.dataoffsets[tile] + sizes[tile] // 3)
                tiff.filehandle.write(what[: sizes[tile] // 2])
        page.tags[324].overwrite(places)
        page.tags[325].overwrite(sizes)


def painted(window: Window, x: int, y: int) -> np.ndarray:
    """0 where the pixels are given, 1 where nothing was scanned, 2 where the file is broken."""
    kind = np.zeros(window.pixels.shape[:2], np.uint8)
    for gap in window.gaps:
        place = kind[gap.y - y : gap.y - y + gap.height, gap.x - x : gap.x - x + gap.width]
        assert place.shape == (gap.height, gap.width), "a gap reaches out of the window"
        assert not place.any(), "gaps overlap"
        place[...] = 1 + gap.is_broken
    return kind


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60)
def test_gaps_cover_what_is_missing_once_and_join_equal_neighbours(kinds: list[int], wide: int, high: int) -> None:
    grid = np.array(kinds, np.uint8).reshape(3, 4)
    missing = [
        Missing(c * wide, r * high, (c + 1) * wide, (r + 1) * high, f"tile {r * 4 + c}", "why" if kind == 2 else None)
        for (r, c), kind in np.ndenumerate(grid)
        if kind
    ]
    gaps = join_gaps(missing, 0)

    window = Window(np.zeros((3 * high, 4 * wide, 3), np.uint8), gaps)
    np.testing.assert_array_equal(painted(window, 0, 0), np.kron(grid, np.ones((high, wide), np.uint8)))
    if (grid == grid[0, 0]).all():
        assert len(gaps) == bool(grid[0, 0])


@given(st.lists(st.booleans(), min_size=30, max_size=30))
@settings(max_examples=60)
def test_transparent_places_are_gaps(empty: list[bool]) -> None:
    is_empty = np.array(empty).reshape(5, 6)
    gaps = join_gaps(missing_where_transparent(np.where(is_empty, 0, 255).astype(np.uint8), 7, 9), 2)

    found = painted(Window(np.zeros((5, 6, 3), np.uint8), gaps), 7, 9)
    np.testing.assert_array_equal(found, is_empty)


@given(
    broken=st.dictionaries(st.integers(0, TILES - 1), st.sampled_from([None, 0, 255]), max_size=6),
    window=st.tuples(st.integers(0, 300), st.integers(0, 180), st.integers(1, 331), st.integers(1, 203)),
    compression=st.sampled_from(["jpeg", "lzw", "deflate", "packbits", "zstd", "jpeg2000"]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bad_tile_costs_its_own_place_only(
    write_tiff: Write, pixels: np.ndarray, broken: dict[int, int | None], window: tuple[int, ...], compression: str
) -> None:
    noise = np.random.default_rng(1).integers(0, 60, pixels.shape, np.uint8)
    path = write_tiff(pixels // 2 + noise, compression=compression)
    with open_slide(path) as slide:
        whole = slide.read_level(0, 0, 0, 331, 203)
    damage(path, {tile: None if value is None else bytes([value]) * 4000 for tile, value in broken.items()})
    x, y, width, height = window[0], window[1], min(window[2], 331 - window[0]), min(window[3], 203 - window[1])

    with open_slide(path) as slide:
        got = slide.read_window(0, x, y, width, height)

    kind = painted(got, x, y)
    expected = np.zeros((240, 384), np.uint8)
    for tile, how in broken.items():
        row, column = divmod(tile, 6)
        expected[row * 48 : row * 48 + 48, column * 64 : column * 64 + 64] = 1 if how is None else 2
    np.testing.assert_array_equal(kind, expected[y : y + height, x : x + width])
    np.testing.assert_array_equal(got.pixels[kind == 0], whole[y : y + height, x : x + width][kind == 0])
    assert (got.pixels[kind > 0] == 255).all()


def test_an_index_beyond_the_end_of_the_file_or_of_memory_is_a_gap(write_tiff: Write, pixels: np.ndarray) -> None:
    path = write_tiff(pixels, compression="jpeg")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages.first
        page.tags[324].overwrite([4_000_000_000, *page.dataoffsets[1:]])
        page.tags[325].overwrite([page.databytecounts[0], 4_000_000_000, *page.databytecounts[2:]])

    with open_slide(path) as slide:
        gaps = slide.read_window(0, 0, 0, 331, 203).gaps

    assert [(gap.x, gap.y, gap.width, gap.height, gap.is_broken) for gap in gaps] == [(0, 0, 128, 48, True)]
    assert "tile 0 of level 0 and 1 beside it are broken (the file ends after 0 of" in gaps[0].reason


def test_pixels_that_must_be_whole_are_refused_where_they_are_not(write_tiff: Write, pixels: np.ndarray) -> None:
    path = write_tiff(pixels, compression="deflate")
    damage(path, {3: bytes(500), 4: None})

    with open_slide(path) as slide:
        assert slide.read_level(0, 260, 0, 20, 20).min() == 255
        with pytest.raises(UnreadableSlideError, match=r"made\.tif: tile 3 of level 0 is broken"):
            slide.read_level(0, 190, 0, 20, 20)


def test_openslide_goes_on_behind_a_broken_tile(real_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.svs"
    shutil.copyfile(real_data / "slides" / "cmu-1-small-region.svs", path)
    with openslide.OpenSlide(str(path)) as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    damage(path, {45: bytes(4000)})  # the tile at 1200, 960, of 240 px

    with closing(OpenSlideReader(path)) as reader:
        window = reader.read(0, 100, 50, 2000, 2500)
        again = reader.read(0, 0, 0, 240, 240)

    kind = painted(window, 100, 50)
    assert (kind[960 - 50 : 1200 - 50, 1200 - 100 : 1440 - 100] == 2).all()
    assert (kind > 0).sum() <= 512 * 512
    np.testing.assert_array_equal(window.pixels[kind == 0], whole[50:2550, 100:2100][kind == 0])
    np.testing.assert_array_equal(again.pixels, whole[:240, :240])
    assert not again.gaps


@given(data=st.data(), compression=st.sampled_from([None, "jpeg", "deflate"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_index_is_no_glass(
    write_tiff: Write, pixels: np.ndarray, data: st.DataObject, compression: str | None
) -> None:
    """Bytes that no tile names any more, or that two name, are the sign; sparse files leave none."""
    path = write_tiff(pixels, compression=compression)
    tile = data.draw(st.integers(0, TILES - 2))
    ways = ["no size", "no sizes from here on", "no place", "inside another"]
    # Compressed tiles have other sizes, so that one of them lies inside the other.
    ways += ["at the place of another"] if compression is None and tile else []
    how = data.draw(st.sampled_from(ways))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages.first
        offsets, sizes = list(page.dataoffsets), list(page.databytecounts)
        if how == "no size":
            sizes[tile] = 0
        elif how == "no sizes from here on":
            sizes[tile:] = [0] * (TILES - tile)
        elif how == "no place":
            offsets[tile] = 0
        elif how == "at the place of another":
            offsets[tile] = offsets[data.draw(st.integers(0, TILES - 1).filter(lambda other: other != tile))]
        else:
            offsets[tile] = offsets[tile + 1] + sizes[tile + 1] // 2
        page.tags[324].overwrite(offsets)
        page.tags[325].overwrite(sizes)

    with open_slide(path) as slide:
        kind = painted(slide.read_window(0, 0, 0, 331, 203), 0, 0)

    row, column = divmod(tile, 6)
    assert (kind[row * 48 : row * 48 + 48, column * 64 : column * 64 + 64] == 2).all()
    if how != "no sizes from here on":  # the last one may have none: nothing follows it
        assert 1 not in kind


@given(tiles=st.sets(st.integers(1, TILES - 2), min_size=3, max_size=9))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiles_that_share_their_bytes_are_good(write_tiff: Write, tiles: set[int]) -> None:
    """As a writer does that finds equal tiles, whatever it puts between the others."""
    glass = np.full((203, 331, 3), 240, np.uint8)
    path = write_tiff(glass)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages.first
        page.tags[324].overwrite([page.dataoffsets[0 if n in tiles else n] for n in range(TILES)])

    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 331, 203), glass)
