from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.errors import CalibrationError, UnreadableSlideError
from parfocal.slides import open_slide, picture


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

    with pytest.raises(UnreadableSlideError, match=r"331 x 203 px.*--tile --pyramid"):
        open_slide(tmp_path / "large.png", slide_mpp=1.0)


def test_a_picture_cut_short_is_one_error(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "short.jpg"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:3000])

    with pytest.raises(UnreadableSlideError, match=r"cannot read short\.jpg: the JPEG picture is broken"):
        open_slide(path, slide_mpp=1.0)


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
