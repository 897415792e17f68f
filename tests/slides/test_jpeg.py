import io

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parfocal.slides.jpeg import StrictJpeg, read_jpeg_header

NOISE = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:12, :20]).resize((160, 96), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, **options: object) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", **options)
    return memory.getvalue()


def decoded(data: bytes, colour: str = "YCbCr", tables: bytes | None = None, samples: int = 3) -> np.ndarray:
    out = np.zeros((96, 160, samples), np.uint8)
    StrictJpeg(tables, colour).decode(data, out)
    return out


@given(
    quality=st.integers(20, 100),
    subsampling=st.integers(0, 2),
    optimize=st.booleans(),
    progressive=st.booleans(),
    flat=st.integers(0, 96),
)
@settings(max_examples=40)
def test_a_whole_stream_gives_what_libjpeg_gives(
    quality: int, subsampling: int, optimize: bool, progressive: bool, flat: int
) -> None:
    pixels = SMOOTH.copy()
    pixels[:flat] = 243
    data = encoded(pixels, quality=quality, subsampling=subsampling, optimize=optimize, progressive=progressive)

    np.testing.assert_array_equal(decoded(data), imagecodecs.jpeg8_decode(data))


@given(
    start=st.floats(0, 1),
    length=st.integers(24, 1200),
    fill=st.integers(0, 255) | st.sampled_from([0, 255]),
    smooth=st.booleans(),
    quality=st.integers(50, 90),
    optimize=st.booleans(),
    subsampling=st.integers(0, 2),
)
@settings(max_examples=150)
def test_sectors_filled_with_one_byte_are_noticed(
    start: float, length: int, fill: int, smooth: bool, quality: int, optimize: bool, subsampling: int
) -> None:
    pixels = SMOOTH if smooth else NOISE
    data = encoded(pixels, quality=quality, optimize=optimize, subsampling=subsampling)
    at = read_jpeg_header(data).length + int(start * (len(data) - length - 2 - read_jpeg_header(data).length))
    with pytest.raises(ValueError):
        decoded(data[:at] + bytes([fill]) * length + data[at + length :])


@given(
    height=st.integers(1, 200),
    grey=st.booleans(),
    colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=3),
    quality=st.integers(5, 100),
    subsampling=st.integers(0, 2),
    optimize=st.booleans(),
)
@settings(max_examples=150)
def test_flat_areas_are_no_damage(
    height: int, grey: bool, colours: list[tuple[int, int, int]], quality: int, subsampling: int, optimize: bool
) -> None:
    pixels = np.repeat(np.array(colours, np.uint8), height, axis=0)[:, None].repeat(500, axis=1)
    pixels = pixels[..., 0] if grey else pixels
    data = encoded(pixels, quality=quality, optimize=optimize, **({} if grey else {"subsampling": subsampling}))
    data += bytes(100)  # a tile's place in the file may be longer than the tile
    out = np.zeros((*pixels.shape[:2], 1 if grey else 3), np.uint8)
    StrictJpeg(None, "grey" if grey else "YCbCr").decode(data, out)

    np.testing.assert_array_equal(out.squeeze(), imagecodecs.jpeg8_decode(data).squeeze())


def test_a_mark_may_be_preceded_by_ones() -> None:
    data = encoded(NOISE, quality=90)
    np.testing.assert_array_equal(decoded(data[:-2] + b"\xff" * 40 + data[-2:]), decoded(data))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_stream_that_ends_early_is_noticed(share: float) -> None:
    data = encoded(SMOOTH)
    with pytest.raises(ValueError):
        decoded(data[: int(share * len(data))])


def test_the_colour_is_the_one_asked_for_whatever_mark_the_stream_has() -> None:
    as_rgb = simplejpeg.encode_jpeg(SMOOTH, quality=95, colorspace="RGB", colorsubsampling="444")
    raw = imagecodecs.jpeg8_decode(as_rgb, colorspace="RGB", outcolorspace="RGB")

    np.testing.assert_array_equal(decoded(as_rgb, "RGB"), raw)
    np.testing.assert_array_equal(
        decoded(as_rgb, "YCbCr"), imagecodecs.jpeg8_decode(as_rgb, colorspace="YCBCR", outcolorspace="RGB")
    )


def test_tables_that_stand_in_the_page_are_put_in() -> None:
    whole = encoded(SMOOTH)
    header = read_jpeg_header(whole)
    tables = b"".join(one for one in header.segments if one[1] in {0xDB, 0xC4})
    rest = b"".join(one for one in header.segments if one[1] not in {0xDB, 0xC4})
    short = b"\xff\xd8" + rest + whole[header.length :]

    np.testing.assert_array_equal(decoded(short, tables=b"\xff\xd8" + tables + b"\xff\xd9"), decoded(whole))


def test_grey_and_another_size_are_told_apart() -> None:
    grey = encoded(SMOOTH[..., 0])
    np.testing.assert_array_equal(decoded(grey, "grey", samples=1)[..., 0], imagecodecs.jpeg8_decode(grey))
    with pytest.raises(ValueError, match="160 x 96 px of 1 samples in place of 160 x 96 of 3"):
        decoded(grey)
    with pytest.raises(ValueError, match="80 x 96 px"):
        decoded(encoded(SMOOTH[:, :80]))


def test_what_a_stream_says_of_its_colour() -> None:
    jfif = encoded(SMOOTH, subsampling=2)
    bare = jfif[:2] + jfif[2 + 2 + int.from_bytes(jfif[4:6], "big") :]
    adobe = imagecodecs.jpeg8_encode(SMOOTH, colorspace="RGB", outcolorspace="RGB")

    assert [(read_jpeg_header(d).colour, read_jpeg_header(d).is_subsampled) for d in (jfif, bare, adobe)] == [
        ("YCbCr", True),
        (None, True),
        ("RGB", False),
    ]
