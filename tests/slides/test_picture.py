import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parfocal.errors import CalibrationError, UnreadableSlideError
from parfocal.slides import open_slide, picture

from ..run.memory import needs_peak, run_measured


def test_a_png_is_a_slide_of_one_level(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "field.png")

    with open_slide(tmp_path / "field.png", slide_mpp=1.0) as slide:
        assert (slide.width_px, slide.height_px, len(slide.levels), slide.format) == (331, 203, 1, "PNG picture")
        np.testing.assert_array_equal(slide.read_level(0, 20, 30, 100, 50), pixels[30:80, 20:120])


def test_a_turned_photograph_is_put_upright(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is at the right of the stored picture
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)

    with open_slide(tmp_path / "turned.png", slide_mpp=1.0) as slide:
        assert (slide.width_px, slide.height_px) == (203, 331)
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 203, 331), np.rot90(pixels, -1))


def test_what_is_transparent_becomes_white(tmp_path: Path, pixels: np.ndarray) -> None:
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    rgba[:100, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "cut.png")

    with open_slide(tmp_path / "cut.png", slide_mpp=1.0) as slide:
        got = slide.read_level(0, 0, 0, 331, 203)
    assert (got[:100] == 255).all()
    np.testing.assert_array_equal(got[100:], pixels[100:])


def test_grey_and_palette_pictures_become_rgb(tmp_path: Path, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey // 16).convert("P").save(tmp_path / "palette.png")

    for name, expected in [("grey.png", grey), ("palette.png", grey // 16)]:
        with open_slide(tmp_path / name, slide_mpp=1.0) as slide:
            np.testing.assert_array_equal(slide.read_level(0, 0, 0, 331, 203)[..., 1], expected)


def test_deep_pictures_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")

    with pytest.raises(UnreadableSlideError, match="mode I;16, not 8-bit RGB"):
        open_slide(tmp_path / "deep.png", slide_mpp=1.0)


def test_a_picture_too_large_for_memory_is_refused_before_it_is_loaded(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_PICTURE_PX", 60_000)
    Image.fromarray(pixels).save(tmp_path / "large.png")

    with pytest.raises(UnreadableSlideError, match=r"331 x 203 px.*parfocal convert"):
        open_slide(tmp_path / "large.png", slide_mpp=1.0)


def test_the_limit_is_ours_and_not_that_of_the_library_which_keeps_its_own(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    Image.fromarray(pixels).save(tmp_path / "large.png")

    with open_slide(tmp_path / "large.png", slide_mpp=1.0) as slide:
        np.testing.assert_array_equal(slide.read_window(0, 0, 0, slide.width_px, slide.height_px).pixels, pixels)

    assert Image.MAX_IMAGE_PIXELS == 1_000


KINDS = {
    "png": ("png", {}),
    "jpeg": ("jpg", {"quality": 90}),
    "progressive jpeg": ("jpg", {"quality": 85, "progressive": True}),
    "full jpeg": ("jpg", {"quality": 95, "subsampling": 0}),
    "raw tiff": ("tif", {}),
    "lzw tiff": ("tif", {"compression": "tiff_lzw"}),
    "deflate tiff": ("tif", {"compression": "tiff_adobe_deflate"}),
    "packbits tiff": ("tif", {"compression": "packbits"}),
}


# What puts a picture upright, by its orientation tag.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["RGB", "RGBA", "L", "LA", "P"]),
    st.integers(1, 8),
    st.integers(2, 256),
)
def test_a_picture_has_the_pixels_that_viewers_show(
    tmp_path_factory: pytest.TempPathFactory, kind: str, mode: str, orientation: int, colours: int
) -> None:
    # The second way is Pillow's and what was written; where it can be decoded strictly, Pillow is not asked.
    suffix, how = KINDS[kind]
    y, x = np.mgrid[:203, :331]
    rgba = np.stack([x % 251, y % 241, (x // 3 + y // 2) % 239, (x * 2) % 256], axis=-1).astype(np.uint8)
    made = Image.fromarray(rgba)
    if suffix == "jpg":
        mode = {"RGBA": "RGB", "LA": "L", "P": "RGB"}.get(mode, mode)
    made = made.convert("RGB").quantize(colours) if mode == "P" else made.convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path_factory.mktemp("kind") / f"field.{suffix}"
    made.save(path, exif=exif, **how)

    with Image.open(path) as opened:
        stored = opened.convert("RGBA") if suffix == "jpg" else made.convert("RGBA")
    shown = np.asarray(stored.transpose(TURNS[orientation]) if orientation > 1 else stored).astype(int)
    alpha = shown[..., 3:]
    expected = (shown[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    with open_slide(path, slide_mpp=1.0) as slide:
        assert (slide.height_px, slide.width_px) == expected.shape[:2]
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, slide.width_px, slide.height_px), expected)


@pytest.mark.parametrize("cut", [0.5, 0.99])
@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png", "deflate tiff"])
def test_a_picture_cut_short_is_one_error(tmp_path: Path, pixels: np.ndarray, kind: str, cut: float) -> None:
    suffix, how = KINDS[kind]
    path = tmp_path / f"short.{suffix}"
    Image.fromarray(pixels).save(path, **how)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])

    with pytest.raises(UnreadableSlideError, match=rf"cannot (read|open) short\.{suffix}") as caught:
        open_slide(path, slide_mpp=1.0)
    assert "\n" not in str(caught.value)


@settings(max_examples=80)
@given(st.sampled_from(["png", "jpeg", "full jpeg", "deflate tiff"]), st.floats(0, 1), st.integers(64, 4096))
def test_zeros_over_a_picture_are_refused_and_never_pixels(
    tmp_path_factory: pytest.TempPathFactory, kind: str, where: float, length: int
) -> None:
    suffix, how = KINDS[kind]
    noise = np.random.default_rng(0).integers(0, 256, (203, 331, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("damage") / f"field.{suffix}"
    Image.fromarray(noise).save(path, **how)
    with open_slide(path, slide_mpp=1.0) as slide:
        whole = slide.read_level(0, 0, 0, 331, 203)
    data = bytearray(path.read_bytes())
    begin = int(where * (len(data) - length))
    data[begin : begin + length] = bytes(length)
    path.write_bytes(data)

    try:
        with open_slide(path, slide_mpp=1.0) as slide:
            found = slide.read_level(0, 0, 0, 331, 203)
    except UnreadableSlideError:
        return
    np.testing.assert_array_equal(found, whole)


def test_a_png_whose_checksum_is_wrong_is_refused_even_where_it_decodes(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "field.png"
    Image.fromarray(pixels).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") + 4 + int.from_bytes(data[data.index(b"IDAT") - 4 : data.index(b"IDAT")], "big")
    data[at] ^= 1  # in the checksum itself: every pixel is good, and nobody can know it
    path.write_bytes(data)

    with pytest.raises(UnreadableSlideError, match=r"'IDAT' at byte .* does not have its checksum"):
        open_slide(path, slide_mpp=1.0)


def test_what_holds_several_pictures_is_refused_or_read_as_its_largest(tmp_path: Path, pixels: np.ndarray) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    with tifffile.TiffWriter(tmp_path / "thumb.tif") as tiff:
        tiff.write(pixels[::4, ::4], photometric="rgb")
        tiff.write(pixels, photometric="rgb")
        tiff.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)

    with pytest.raises(UnreadableSlideError, match="an animation of 2 pictures"):
        open_slide(tmp_path / "moving.png", slide_mpp=1.0)
    with open_slide(tmp_path / "thumb.tif", slide_mpp=1.0) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 331, 203), pixels)


def test_inks_and_deep_colours_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "print.jpg")
    deep = io.BytesIO()
    tifffile.imwrite(deep, pixels.astype(np.uint16) * 16, photometric="rgb")
    (tmp_path / "deep.tif").write_bytes(deep.getvalue())
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 16))

    with pytest.raises(UnreadableSlideError, match="mode CMYK, not 8-bit RGB"):
        open_slide(tmp_path / "print.jpg", slide_mpp=1.0)
    with pytest.raises(UnreadableSlideError, match=r"deep\.tif"):
        open_slide(tmp_path / "deep.tif", slide_mpp=1.0)
    with pytest.raises(UnreadableSlideError, match=r"deep\.png: .*samples have 16 bits, not 8"):
        open_slide(tmp_path / "deep.png", slide_mpp=1.0)


MEASURE = """
import sys
from parfocal.slides import open_slide, picture
before = peak_kib()
with open_slide(sys.argv[1], slide_mpp=1.0) as slide:
    pass
print((peak_kib() - before) * 1024 / (slide.width_px * slide.height_px))
"""


@needs_peak
@pytest.mark.parametrize(
    ("mode", "suffix", "how"),
    [
        ("RGBA", "png", {"compress_level": 1}),
        ("RGB", "jpg", {}),
        ("RGBA", "tif", {"compression": "tiff_lzw"}),
        ("RGB", "tif", {}),
    ],
)
def test_a_picture_takes_little_more_memory_than_its_pixels(
    tmp_path: Path, mode: str, suffix: str, how: dict[str, Any]
) -> None:
    path = tmp_path / f"large.{suffix}"
    Image.effect_noise((64, 64), 50).resize((3001, 2503)).convert(mode).save(path, **how)

    done = run_measured(MEASURE, path)
    # Three bytes a pixel are RGB. Twice that, one for what the process takes besides, and Pillow's four.
    assert float(done.stdout) < 8


def test_the_dots_per_inch_of_a_print_are_no_resolution(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "print.jpg", dpi=(300, 300))

    with pytest.raises(CalibrationError, match=r"84.67 .* 300-dpi"):
        open_slide(tmp_path / "print.jpg")


@pytest.mark.parametrize(("suffix", "dpi"), [("png", 2400), ("jpg", 1440), ("tif", 4800), ("png", 2540), ("jpg", 5080)])
def test_a_print_s_resolution_is_refused_where_slides_have_such_values(
    tmp_path: Path, pixels: np.ndarray, suffix: str, dpi: int
) -> None:
    Image.fromarray(pixels).save(tmp_path / f"print.{suffix}", dpi=(dpi, dpi))

    with pytest.raises(CalibrationError, match=rf"(inch|inch\)).*{dpi} dots per inch.*--slide-mpp"):
        open_slide(tmp_path / f"print.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_microscope_s_resolution_in_a_picture_is_believed(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"field.{suffix}", dpi=(50800, 50800))

    with open_slide(tmp_path / f"field.{suffix}") as slide:
        assert slide.mpp == pytest.approx(0.5, rel=1e-4)


def test_a_real_field_opens(real_data: Path) -> None:
    path = sorted((real_data / "labelled" / "osteosarcoma" / "images").glob("*.jpg"))[0]

    with open_slide(path, slide_mpp=1.0) as slide:
        assert (slide.width_px, slide.height_px) == (1024, 1024)
        assert slide.read_level(0, 0, 0, 1024, 1024).std() > 5
