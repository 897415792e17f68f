"""Every kind of pixel is shown in its right colours or refused in one line, whatever other readers would make of it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import UnreadableSlideError
from parfocal.slides import open_slide
from parfocal.slides.jpeg import has_subsampled_components, read_jpeg_header
from parfocal.slides.tiff_pixels import colour_of_pixels

Write = Callable[..., Path]
made = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shown(path: Path) -> np.ndarray:
    with open_slide(path, slide_mpp=0.5) as slide:
        return slide.read_level(0, 0, 0, slide.width_px, slide.height_px)


def stained(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Pink and violet shapes on bright glass."""
    random = np.random.default_rng(seed)
    small = np.full((height // 8 + 2, width // 8 + 2, 3), 240.0)
    pink, violet = np.array([225.0, 160, 195]), np.array([110.0, 70, 150])
    kind = random.random(small.shape[:2])
    small[kind < 0.55] = pink
    small[kind < 0.2] = violet
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def with_header(path: Path, tag: int, value: object) -> Path:
    """Change what the header says and nothing else."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[tag].overwrite(value)
    return path


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd"])
@pytest.mark.parametrize("planar", [False, True])
def test_lossless_rgb_in_pixels_or_planes(tmp_path: Path, pixels: np.ndarray, compression: str, planar: bool) -> None:
    path = tmp_path / "made.tif"
    data = np.moveaxis(pixels, 2, 0) if planar else pixels
    options = {"compression": compression, "planarconfig": "separate" if planar else None}
    tifffile.imwrite(path, data, tile=(48, 64), photometric="rgb", metadata=None, **options)

    np.testing.assert_array_equal(shown(path), pixels)


def test_grey_its_inverse_and_palettes(tmp_path: Path, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    palette = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    expected = {
        "minisblack": np.repeat(grey[..., None], 3, axis=2),
        "miniswhite": np.repeat(255 - grey[..., None], 3, axis=2),
        "palette": (palette >> 8).T.astype(np.uint8)[grey],
    }
    for photometric, wanted in expected.items():
        path = tmp_path / f"{photometric}.tif"
        colours = {"colormap": palette} if photometric == "palette" else {}
        tifffile.imwrite(path, grey, tile=(48, 64), photometric=photometric, metadata=None, **colours)
        np.testing.assert_array_equal(shown(path), wanted)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    alpha = np.linspace(0, 255, 331).round().astype(np.uint8)[None, :, None].repeat(203, axis=0)
    share = alpha / 255.0
    colours = pixels if kind == "unassalpha" else (pixels * share).round().astype(np.uint8)
    path = tmp_path / "made.tif"
    options = {"tile": (48, 64), "photometric": "rgb", "extrasamples": [kind], "metadata": None}
    tifffile.imwrite(path, np.concatenate([colours, alpha], axis=2), **options)

    wanted = pixels * share + 255 * (1 - share)
    assert np.abs(shown(path) - wanted).max() <= 1


REFUSED = {
    "sixteen bits": ({"dtype": np.uint16}, "its pixels are uint16"),
    "signed": ({"dtype": np.int8}, "its pixels are int8"),
    "floats": ({"dtype": np.float32}, "its pixels are float32"),
    "CMYK": ({"samples": 4, "photometric": "separated"}, "CMYK"),
    "CIELAB": ({"photometric": "cielab"}, "CIELAB"),
    "YCbCr without JPEG": ({"photometric": "ycbcr", "subsampling": (1, 1)}, "YCbCr"),
    "an extra sample of no meaning": ({"samples": 4, "extrasamples": ["unspecified"]}, "fourth sample"),
    "five samples": ({"samples": 5, "extrasamples": ["unspecified", "unspecified"]}, "5 samples"),
    "three greys": ({"photometric": "minisblack", "planarconfig": "contig"}, "3 samples (black is zero"),
    "LZMA": ({"compression": "lzma"}, "compression 34925"),
    "WebP": ({"compression": "webp"}, "compression 50001"),
    "turned": ({"extratags": [(274, "H", 1, 6, True)]}, "orientation tag says 6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_shows_right_is_refused_in_one_line(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    options, expected = REFUSED[name]
    options = {"tile": (48, 64), "photometric": "rgb", "metadata": None} | dict(options)
    samples, dtype = options.pop("samples", 3), options.pop("dtype", np.uint8)
    data = np.concatenate([pixels, pixels], axis=2)[..., :samples].astype(dtype)
    path = tmp_path / "made.tif"
    tifffile.imwrite(path, data, **options)

    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path, slide_mpp=0.5)
    assert expected in str(caught.value)
    assert "made.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def jpeg_tiff(path: Path, streams: list[bytes], size: tuple[int, int], photometric: str, tile: int) -> Path:
    options = {"tile": (tile, tile), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, iter(streams), shape=(size[1], size[0], 3), dtype=np.uint8, **options)
    return with_header(path, 262, {"rgb": 2, "ycbcr": 6}[photometric])


def stream(pixels: np.ndarray, components: str, mark: str, subsampled: bool) -> bytes:
    """A JPEG stream of RGB or YCbCr, with a truthful mark, none, or one that lies."""
    if components == "RGB":
        # YCbCr is written as it is, and RGB as if it were that.
        data = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB")
    else:
        sampling = "420" if subsampled else "444"
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, colorsubsampling=sampling)
    header = read_jpeg_header(data)
    kept = [one for one in header.segments if one[1] not in {0xE0, 0xEE}]
    marks = {
        "none": b"",
        "JFIF": b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0",
        "Adobe RGB": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0",
        "Adobe YCbCr": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1",
    }
    numbered = [renamed(one) for one in kept]
    return b"\xff\xd8" + marks[mark] + b"".join(numbered) + data[header.length :]


def renamed(segment: bytes) -> bytes:
    """Components are called 1, 2, 3: libjpeg would call those of RGB by their letters."""
    if segment[1] not in {0xC0, 0xC1, 0xC2, 0xDA}:
        return segment
    names = {ord("R"): 1, ord("G"): 2, ord("B"): 3}
    at, step = (10, 3) if segment[1] != 0xDA else (5, 2)
    changed = bytearray(segment)
    for n in range(3):
        changed[at + n * step] = names.get(changed[at + n * step], changed[at + n * step])
    return bytes(changed)


@given(
    components=st.sampled_from(["RGB", "YCbCr"]),
    mark=st.sampled_from(["none", "JFIF", "Adobe RGB", "Adobe YCbCr"]),
    header=st.sampled_from(["rgb", "ycbcr"]),
    subsampled=st.booleans(),
    tile=st.sampled_from([64, 128]),
    seed=st.integers(0, 99),
)
@made
def test_jpeg_is_shown_in_the_colours_that_it_has_or_refused(
    tmp_path: Path, components: str, mark: str, header: str, subsampled: bool, tile: int, seed: int
) -> None:
    width, height = 2 * tile + 37, tile + 21
    wanted = stained(3 * tile, 2 * tile, seed)
    cut = [wanted[y : y + tile, x : x + tile] for y in (0, tile) for x in (0, tile, 2 * tile)]
    streams = [stream(piece, components, mark, subsampled) for piece in cut]
    path = jpeg_tiff(tmp_path / "made.tif", streams, (width, height), header, tile)

    said = {header, mark.removeprefix("Adobe ").replace("JFIF", "YCbCr").replace("none", components).lower()}
    subsampled = subsampled and components == "YCbCr"
    if components.lower() not in said and not subsampled:
        # Both, header and mark, say what it is not. (Of subsampled components there is no doubt.)
        with pytest.raises(UnreadableSlideError, match="and its pixels look like"):
            open_slide(path, slide_mpp=0.5)
        return
    got = shown(path)
    off = np.abs(got.astype(int) - wanted[:height, :width])
    assert off.mean() < (8 if subsampled else 3)
    assert np.percentile(off, 99) < (60 if subsampled else 20)


@given(seed=st.integers(0, 10_000), glass=st.integers(0, 255))
@made
def test_no_picture_is_taken_for_the_other_kind(seed: int, glass: int) -> None:
    picture = stained(96, 64, seed)
    picture[:, : seed % 60] = glass
    turned = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]

    assert colour_of_pixels(picture.reshape(-1, 3)) in {"RGB", None}
    assert colour_of_pixels(turned.reshape(-1, 3)) in {"YCbCr", None}


@pytest.mark.parametrize("compression", [33003, 33005, 34712])
@pytest.mark.parametrize("components", ["RGB", "YCbCr"])
def test_jpeg_2000_is_shown_in_its_colours_whatever_its_number_says(
    tmp_path: Path, compression: int, components: str
) -> None:
    wanted = stained(256, 128)
    data = wanted if components == "RGB" else cv2.cvtColor(wanted, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    tiles = [np.ascontiguousarray(data[:, x : x + 128]) for x in (0, 128)]
    streams = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", reversible=True, mct=False) for tile in tiles]
    path = tmp_path / "made.tif"
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg2000", "metadata": None}
    tifffile.imwrite(path, iter(streams), shape=data.shape, dtype=np.uint8, **options)
    with_header(path, 259, compression)

    assert np.abs(shown(path).astype(int) - wanted).max() <= 2


def test_subsampled_jpeg_2000_is_known_by_its_header() -> None:
    whole = imagecodecs.jpeg2k_encode(stained(64, 48), codecformat="j2k", reversible=True)
    at = whole.index(b"\xff\x51") + 38  # number of components, then three bytes of each
    assert whole[at : at + 2] == b"\0\3"
    halved = whole[: at + 2] + b"\7\1\1" + b"\7\2\1" * 2 + whole[at + 11 :]

    assert not has_subsampled_components(whole)
    assert has_subsampled_components(halved)


def test_a_file_that_lists_another_number_of_tiles_is_refused(write_tiff: Write, pixels: np.ndarray) -> None:
    path = write_tiff(pixels)
    with_header(path, 256, 331 + 64)

    with pytest.raises(UnreadableSlideError, match="it lists 30 tiles where its size of 395 x 203 px needs 35"):
        open_slide(path)


def test_a_coarse_level_with_holes_that_level_0_fills_is_left_out(write_tiff: Write, pixels: np.ndarray) -> None:
    path = write_tiff(pixels, levels=3)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in (tiff.pages[1].tags[324], tiff.pages[1].tags[325]):
            tag.overwrite([0, *tag.value[1:]])

    with pytest.warns(UserWarning, match="166 x 102 px is left out: it has no bytes for 1 tiles that level 0 has"):
        slide = open_slide(path)
    with slide:
        assert [level.downsample for level in slide.levels] == [1, 4]


def test_a_file_for_another_reader_keeps_its_own_resolution(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    )

    with open_slide(path) as slide:
        assert slide.mpp == 0.5
    np.testing.assert_array_equal(shown(path), pixels)


def test_one_damaged_header_does_not_decide_the_colours(tmp_path: Path) -> None:
    wanted = stained(256, 128)
    streams = [stream(wanted[:, x : x + 128], "YCbCr", "none", False) for x in (0, 128)]
    streams[0] = b"\xff\xd8\xff\xff" + bytes(100)
    path = jpeg_tiff(tmp_path / "made.tif", streams, (256, 128), "rgb", 128)

    with open_slide(path, slide_mpp=0.5) as slide:
        window = slide.read_window(0, 0, 0, 256, 128)
    assert [(gap.x, gap.width, gap.is_broken) for gap in window.gaps] == [(0, 128, True)]
    assert np.abs(window.pixels[:, 128:].astype(int) - wanted[:, 128:]).mean() < 3


def test_the_colour_cases_agree_with_their_controls(real_data: Path) -> None:
    folder = real_data / "cases" / "20-jpeg-colour-lies"
    right = shown(folder / "ycbcr-called-ycbcr.tif").astype(int)
    for name in ("ycbcr-bare-called-rgb.tif", "ycbcr-jfif-called-rgb.tif", "rgb-called-rgb.tif"):
        assert np.abs(shown(folder / name) - right).mean() < 6


def test_pictures_in_planes_are_read_in_colour(real_data: Path) -> None:
    folder = real_data / "cases" / "02-ome-planes-cyx"
    for name in ("cyx-with-tag.ome.tif", "planar-separate.ome.tif"):
        with tifffile.TiffFile(folder / name) as tiff:
            np.testing.assert_array_equal(shown(folder / name), np.moveaxis(tiff.asarray(), 0, 2))
