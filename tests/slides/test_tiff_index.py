import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import SlideError, UnreadableSlideError
from parfocal.slides import open_slide
from parfocal.slides.tiff_tags import count_tiles


def sparse_tiff(path: Path, width: int, height: int, tile: int) -> Path:
    """A BigTIFF of white tiles: its index is a hole in the file, so that it takes no place on disk."""
    tiles = -(-width // tile) * -(-height // tile)
    tags = [
        *((254, 4, 1, 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 | 8 << 16 | 8 << 32), (259, 3, 1, 7)),
        *((262, 3, 1, 6), (277, 3, 1, 3), (282, 5, 1, 20000 | 1 << 32), (283, 5, 1, 20000 | 1 << 32), (284, 3, 1, 1)),
        *((296, 3, 1, 3), (322, 4, 1, tile), (323, 4, 1, tile), (324, 16, tiles, 4096), (325, 16, tiles, 4096)),
    ]
    with path.open("wb") as file:
        file.write(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHQQ", *tag))
        file.write(struct.pack("<Q", 0))
        file.truncate(4096 + 8 * tiles)
    return path


def test_a_sparse_slide_of_a_million_tiles_opens_and_is_white(tmp_path: Path) -> None:
    with open_slide(sparse_tiff(tmp_path / "wide.tif", 500_000, 500_000, 512)) as slide:
        window = slide.read_window(0, 400_000, 300_000, 700, 500)

    assert (window.pixels == 255).all()
    assert [(gap.width, gap.height, gap.is_broken) for gap in window.gaps] == [(700, 500, False)]


def test_an_index_beyond_all_measure_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlideError, match=r"wide\.tif: its index lists 61042969 tiles; at most 2000000"):
        open_slide(sparse_tiff(tmp_path / "wide.tif", 2_000_000, 2_000_000, 256))


@given(
    sizes=st.lists(st.tuples(st.integers(65, 300), st.integers(65, 300)), min_size=1, max_size=4),
    bigtiff=st.booleans(),
    byteorder=st.sampled_from(["<", ">"]),
    below=st.integers(0, 3),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiles_of_all_pages_and_pages_below_are_counted(
    tmp_path: Path, sizes: list[tuple[int, int]], bigtiff: bool, byteorder: str, below: int
) -> None:
    path, expected = tmp_path / "made.tif", 0
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tiff:
        for width, height in sizes:
            for n in range(below + 1):
                pixels = np.zeros((height, width), np.uint8)
                tiff.write(pixels, tile=(64, 64), metadata=None, **({"subifds": below} if n == 0 else {}))
                expected += -(-width // 64) * -(-height // 64)

    with path.open("rb") as file:
        assert count_tiles(file) == expected


@pytest.mark.parametrize("data", [b"", b"II*\0", b"\x89PNG" + bytes(40), bytes(99)])
def test_other_files_are_no_tiffs(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert count_tiles(file) is None


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_a_damaged_directory_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    y, x = np.mgrid[:150, :210]
    pixels = np.stack([x, y, x + y], axis=-1).astype(np.uint8)
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tags = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "subfiletype": int(step > 1)}
            tiff.write(pixels[::step, ::step], compression="jpeg", resolution=(20000 // step, 20000 // step), **tags)
    with tifffile.TiffFile(path) as tiff:
        starts = [0, *(page.offset for page in tiff.pages)]
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 250))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    path.write_bytes(bytes(damaged))

    try:
        with open_slide(path, slide_mpp=0.5) as slide:
            for number, level in enumerate(slide.levels):
                window = slide.read_window(number, -3, -2, min(level.width_px, 900), min(level.height_px, 900))
                assert window.pixels.dtype == np.uint8
    except SlideError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert "made.tif" in str(error)  # noqa: PT017
