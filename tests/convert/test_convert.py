"""Flat pictures become pyramids: pixels, levels, resolution and profile as they should be, or one line."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from parfocal.cli import main
from parfocal.convert import ConvertSettings, convert_pictures, pyramid, source
from parfocal.convert.pyramid import halved, level_sizes, rounded, write_pyramid
from parfocal.errors import ConfigError, ParfocalWarning, UnreadableSlideError
from parfocal.files import sweep_leftovers
from parfocal.slides import find_slides, open_slide, picture

LOSSLESS = ConvertSettings(codec="lossless", threads=1)
WIDTH, HEIGHT = 1331, 203


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """RGB, 203 rows of 1331 columns, different everywhere, in smooth parts and in noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([x % 251, y % 241, (x // 3 + y // 2) % 239], axis=-1)
    return (smooth ^ np.random.default_rng(0).integers(0, 8, smooth.shape)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small picture has many tiles, levels and bands."""
    monkeypatch.setattr(pyramid, "TILE_PX", 64)
    monkeypatch.setattr(pyramid, "_COARSEST_PX", 200)
    monkeypatch.setattr(source, "_BAND_BYTES", 3 * WIDTH * 50)


def converted(path: Path, out: Path, settings: ConvertSettings = LOSSLESS, **more: Any) -> Path:
    summary = convert_pictures([path], out, settings, **more)
    assert [one.message for one in summary.failed] == []
    return summary.done[0].path


def failed(path: Path, out: Path, settings: ConvertSettings = LOSSLESS, **more: Any) -> str:
    """The one line about a picture that is not converted; nothing is left of it."""
    before = sorted(out.rglob("*")) if out.exists() else []
    (problem,) = convert_pictures([path], out, settings, **more).failed
    assert sorted(out.rglob("*")) == before
    assert "\n" not in problem.message
    return problem.message


def read_whole(path: Path, level: int = 0) -> np.ndarray:
    with open_slide(path) as slide:
        one = slide.levels[level]
        return slide.read_level(level, 0, 0, one.width_px, one.height_px)


def test_level_0_is_the_picture_and_both_readers_know_its_resolution(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "field.png", dpi=(72, 72))

    path = converted(tmp_path / "field.png", tmp_path / "out", slide_mpp=0.2525)

    assert path == tmp_path / "out" / "field.tif"
    np.testing.assert_array_equal(read_whole(path), pixels)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.2525, rel=1e-7)  # a tag holds a ratio of two whole numbers
        assert slide.format == "tiled TIFF"
    with openslide.OpenSlide(str(path)) as theirs:
        assert theirs.properties["openslide.vendor"] == "generic-tiff"
        assert float(theirs.properties["openslide.mpp-x"]) == pytest.approx(0.2525, rel=1e-7)
        assert theirs.level_dimensions == ((1331, 203), (665, 101), (332, 50), (166, 25))
        shown = np.asarray(theirs.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB"))
    np.testing.assert_array_equal(shown, pixels)
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["field.tif"]


def test_levels_are_area_means(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "field.tif", pixels, photometric="rgb", rowsperstrip=17)

    path = converted(tmp_path / "field.tif", tmp_path / "out", slide_mpp=0.5)

    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == pytest.approx([1, 2, 4, 8])
    for number in (1, 2, 3):
        side = 2**number
        height, width = HEIGHT // side, WIDTH // side
        means = pixels[: height * side, : width * side].reshape(height, side, width, side, 3).mean(axis=(1, 3))
        off = read_whole(path, number) - means
        assert np.abs(off).max() <= 0.51  # rounded once, behind means in 64ths
        assert abs(off.mean()) < 0.06  # and to either side alike: half always up would be .125 of the first level


def test_a_flat_part_stays_as_bright_as_it_is(tmp_path: Path) -> None:
    # Values about 123.5: rounded at every level they end as 124.
    noise = (120 + np.random.default_rng(0).integers(0, 8, (256, 1280, 3))).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")

    path = converted(tmp_path / "a.png", tmp_path / "out", slide_mpp=0.5)

    assert [abs(read_whole(path, level).mean() - noise.mean()) < 0.05 for level in (1, 2, 3)] == [True] * 3


def test_a_half_is_rounded_to_the_even_number() -> None:
    rows = np.array([[0, 0, 0, 1, 1, 1, 9], [0, 2, 3, 2, 2, 2, 9], [9] * 7], np.uint16)[..., None].repeat(3, axis=2)

    means = halved(rows * 64)

    np.testing.assert_array_equal(means[..., 0], [[32, 96, 96]])  # of .5, 1.5 and 1.5; an odd edge is left out
    np.testing.assert_array_equal(rounded(means)[..., 0], [[0, 2, 2]])
    assert level_sizes(99_999, 30_001)[:3] == [(99_999, 30_001), (49_999, 15_000), (24_999, 7_500)]


def test_a_jpeg_pyramid_has_the_colours_of_the_picture(tmp_path: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([200 + 50 * np.sin(x / 90), 90 + 80 * np.cos(y / 70), 120 + 90 * np.sin((x + y) / 80)], axis=-1)
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "field.png")

    path = converted(tmp_path / "field.png", tmp_path / "out", ConvertSettings(quality=95), slide_mpp=0.5)

    assert np.abs(read_whole(path).astype(int) - smooth.astype(np.uint8)).max() <= 6  # of what JPEG loses here
    low = converted(tmp_path / "field.png", tmp_path / "low", ConvertSettings(quality=20), slide_mpp=0.5)
    assert low.stat().st_size < path.stat().st_size


def write_png(path: Path, pixels: np.ndarray, colour: int, depth: int, **chunks: bytes) -> Path:
    """A PNG by its definition, each row by another filter; Pillow writes neither all kinds nor all filters."""
    height, width = pixels.shape[:2]
    packed = pixels.reshape(height, -1)
    if depth < 8:
        bits = np.unpackbits(packed[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
        packed = np.packbits(bits, axis=1)
    per_pixel = max(1, (pixels.shape[2] if pixels.ndim == 3 else 1) * depth // 8)
    rows, above = b"", np.zeros(packed.shape[1], np.int64)
    for number, row in enumerate(packed.astype(np.int64)):
        left, corner = (np.concatenate([np.zeros(per_pixel, np.int64), one[:-per_pixel]]) for one in (row, above))
        kind = number % 5
        estimate = left + above - corner
        paeth = np.choose(
            np.argmin([np.abs(estimate - one) for one in (left, above, corner)], axis=0), [left, above, corner]
        )
        predicted = [0, left, above, (left + above) // 2, paeth][kind]
        rows += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    data = zlib.compress(rows, 1)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    parts += [(name.encode(), content) for name, content in chunks.items()]
    parts += [(b"IDAT", data[at : at + 9_973]) for at in range(0, len(data), 9_973)]
    text = b"".join(
        len(part).to_bytes(4, "big") + name + part + zlib.crc32(name + part).to_bytes(4, "big")
        for name, part in [*parts, (b"IEND", b"")]
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + text)
    return path


PNGS = {
    "rgb": (2, 8, 3, {}),
    "rgb, one colour transparent": (2, 8, 3, {"tRNS": bytes([0, 3, 0, 5, 0, 7])}),
    "rgba": (6, 8, 4, {}),
    "grey": (0, 8, 1, {}),
    "grey of 2 bits, one transparent": (0, 2, 1, {"tRNS": bytes([0, 2])}),
    "grey of 4 bits": (0, 4, 1, {}),
    "grey with alpha": (4, 8, 2, {}),
    "palette": (3, 8, 1, {"PLTE": bytes(range(256)) * 3}),
    "palette of 1 bit": (3, 1, 1, {"PLTE": bytes(range(9, 15))}),
    "palette of 4 bits, with alpha": (3, 4, 1, {"PLTE": bytes(range(7, 55)), "tRNS": bytes([0, 80, 255])}),
}


@pytest.mark.parametrize("kind", PNGS)
def test_a_png_read_in_bands_is_the_png_read_whole(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    colour, depth, samples, chunks = PNGS[kind]
    content = np.dstack([pixels, pixels[::-1, :, :1]])[:71, :, :samples] >> (8 - depth)
    content[5, 7, :3] = (3, 5, 7)[:samples] if colour == 2 else content[5, 7, :3]
    write_png(tmp_path / "field.png", content, colour, depth, **chunks)
    # A second way: the decoder of PNG that pictures are read with as slides, which wants all of them at once.
    with open_slide(tmp_path / "field.png", slide_mpp=0.5) as slide:
        expected = slide.read_level(0, 0, 0, slide.width_px, slide.height_px)

    bands = list(source.open_picture(tmp_path / "field.png").bands())

    assert len(bands) > 1
    np.testing.assert_array_equal(np.concatenate(bands), expected)


def test_an_interlaced_png_is_read_whole(tmp_path: Path) -> None:
    colours = np.arange(15, dtype=np.uint8).reshape(5, 3) * 16
    passes = b"".join(b"\0" + colours[columns].tobytes() for columns in ([0], [4], [2], [1, 3]))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 1, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(passes)),
        (b"IEND", b""),
    ]
    chunks = (len(p).to_bytes(4, "big") + n + p + zlib.crc32(n + p).to_bytes(4, "big") for n, p in parts)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))

    path = converted(tmp_path / "a.png", tmp_path / "out", slide_mpp=1.0)

    np.testing.assert_array_equal(read_whole(path)[0], colours)


TIFFS: dict[str, dict[str, Any]] = {
    "raw in one strip": {},
    "deflate": {"compression": "adobe_deflate", "predictor": True, "rowsperstrip": 30},
    "lzw": {"compression": "lzw", "rowsperstrip": 30},
    "planes": {"planarconfig": "separate", "rowsperstrip": 30},
    "tiles without levels": {"tile": (48, 64), "compression": "adobe_deflate"},
    "big": {"bigtiff": True, "rowsperstrip": 30},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiffs_of_all_kinds_keep_their_pixels(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    more = dict(TIFFS[kind])
    content = pixels.transpose(2, 0, 1) if "planarconfig" in more else pixels
    tifffile.imwrite(
        tmp_path / "f.tif", content, photometric="rgb", metadata=None,
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **more,
    )  # fmt: skip

    path = converted(tmp_path / "f.tif", tmp_path / "out")

    np.testing.assert_array_equal(read_whole(path), pixels)
    with open_slide(path) as slide:
        assert slide.mpp == 0.5  # what the picture says itself


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_turned_picture_is_put_upright(tmp_path: Path, pixels: np.ndarray, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels[:, :160]).save(tmp_path / f"a.{suffix}", exif=exif)
    with open_slide(tmp_path / f"a.{suffix}", slide_mpp=1.0) as slide:
        expected = slide.read_level(0, 0, 0, slide.width_px, slide.height_px)

    path = converted(tmp_path / f"a.{suffix}", tmp_path / "out", slide_mpp=1.0)

    np.testing.assert_array_equal(read_whole(path), expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_colour_profile_goes_along(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", icc_profile=profile)

    with openslide.OpenSlide(str(converted(tmp_path / f"a.{suffix}", tmp_path / "out", slide_mpp=1.0))) as slide:
        assert slide.color_profile is not None
        assert slide.color_profile.tobytes() == profile


def test_a_profile_of_other_colours_is_left_out_and_said(tmp_path: Path, pixels: np.ndarray) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png", icc_profile=bytes(profile))

    with pytest.warns(ParfocalWarning, match=r"a\.png has a colour profile of GRAY"):
        path = converted(tmp_path / "a.png", tmp_path / "out", slide_mpp=1.0)

    with openslide.OpenSlide(str(path)) as slide:
        assert slide.color_profile is None


def test_a_resolution_is_never_guessed(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "none.png")
    Image.fromarray(pixels).save(tmp_path / "screen.jpg", dpi=(72, 72))
    Image.fromarray(pixels).save(tmp_path / "print.tif", dpi=(2400, 2400))

    assert "does not say how many microns" in failed(tmp_path / "none.png", tmp_path / "out")
    assert "72-dpi tag" in failed(tmp_path / "screen.jpg", tmp_path / "out")
    assert "2400 dots per inch" in failed(tmp_path / "print.tif", tmp_path / "out")
    # What would be taken for a print when it is read again is not written.
    assert "cannot be written with 10.5833" in failed(tmp_path / "none.png", tmp_path / "out", slide_mpp=25400 / 2400)
    with pytest.raises(ConfigError, match="slides have"):
        convert_pictures([tmp_path / "none.png"], tmp_path / "out", slide_mpp=352.8)


def test_what_is_no_flat_picture_is_one_line(tmp_path: Path, pixels: np.ndarray) -> None:
    out = tmp_path / "out"
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    write_png(tmp_path / "deep-rgb.png", np.dstack([pixels] * 2)[:9], 2, 16)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(pixels).convert("1").save(tmp_path / "line.png")
    tifffile.imwrite(tmp_path / "deep.tif", pixels.astype(np.uint16), photometric="rgb")
    (tmp_path / "note.txt").write_text("no picture")
    Image.fromarray(pixels).save(tmp_path / "field.png")
    done = converted(tmp_path / "field.png", tmp_path / "done", slide_mpp=0.5)

    for name, said in {
        "deep.png": "mode I;16, not 8-bit RGB",
        "deep-rgb.png": "have 16 bits, not 8",
        "print.jpg": "mode CMYK",
        "line.png": "mode 1, not 8-bit RGB",
        "deep.tif": "have 16 bits, not 8",
        "note.txt": "not a PNG, JPEG or TIFF",
        "gone.png": "there is no such file",
        "done": "it is a folder",
    }.items():
        assert said in failed(tmp_path / name, out, slide_mpp=0.5), name
    assert "has 4 levels already" in failed(done, out)


@pytest.mark.parametrize("how", ["cut", "changed", "rows"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_damaged_picture_leaves_no_file(tmp_path: Path, pixels: np.ndarray, suffix: str, how: str) -> None:
    path = tmp_path / f"field.{suffix}"
    more = {"compression": "tiff_adobe_deflate"} if suffix == "tif" else {}
    Image.fromarray(pixels).save(path, **more)
    data = bytearray(path.read_bytes())
    if how == "rows" and suffix == "png":
        data = bytearray(write_png(path, pixels, 2, 8).read_bytes())  # fewer rows than the header says
        data[20:24] = (HEIGHT + 1).to_bytes(4, "big")
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif how == "changed":
        data[len(data) // 2 : len(data) // 2 + 700] = bytes(700)
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)

    assert f"field.{suffix}" in failed(path, tmp_path / "out", slide_mpp=0.5)


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[::-1]).save(tmp_path / "b.tif")
    first = converted(tmp_path / "a.png", tmp_path, slide_mpp=0.5)
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "a.png")

    assert "--overwrite" in failed(tmp_path / "a.png", tmp_path, slide_mpp=0.5)
    np.testing.assert_array_equal(read_whole(first), pixels)
    over = LOSSLESS.model_copy(update={"overwrite": True})
    np.testing.assert_array_equal(
        read_whole(converted(tmp_path / "a.png", tmp_path, over, slide_mpp=0.5)), pixels[:, ::-1]
    )
    # A picture is never lost to its own pyramid, whatever is asked for.
    assert "it is the picture itself" in failed(tmp_path / "b.tif", tmp_path, over, slide_mpp=0.5)
    with pytest.raises(ConfigError, match="would both be written"):
        convert_pictures([tmp_path / "a.png", tmp_path / "A.jpg"], tmp_path / "out", slide_mpp=0.5)


def test_killed_halfway_nothing_looks_whole(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    child = os.fork()
    if child == 0:
        written = write_pyramid
        try:

            def killed(*given: Any, **named: Any) -> None:
                written(*given, **named)
                os._exit(0)  # as by SIGKILL: nothing is tidied up

            from parfocal.convert import run

            run.write_pyramid = killed
            convert_pictures([tmp_path / "a.png"], tmp_path / "out", LOSSLESS, slide_mpp=0.5)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    left = list((tmp_path / "out").iterdir())
    assert left
    assert all(one.name.startswith(".") for one in left)
    with pytest.raises(ConfigError):
        find_slides([tmp_path / "out"])  # hidden files are no slides
    np.testing.assert_array_equal(read_whole(converted(tmp_path / "a.png", tmp_path / "out", slide_mpp=0.5)), pixels)
    sweep_leftovers(tmp_path / "out")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["a.tif"]


def large(path: Path, width: int, height: int) -> Path:
    """A picture whose header claims a size; nothing behind it is read before that is looked at."""
    if path.suffix == ".png":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(len(p).to_bytes(4, "big") + n + p + zlib.crc32(n + p).to_bytes(4, "big") for n, p in parts)
        )
    else:
        Image.new("RGB", (64, 64)).save(
            path, **({} if path.suffix == ".jpg" else {"compression": "tiff_adobe_deflate"})
        )
        data = bytearray(path.read_bytes())
        if path.suffix == ".jpg":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", height, width)
        path.write_bytes(data)
    if path.suffix == ".tif":
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            for tag, value in ((256, width), (257, height), (278, height)):
                tiff.pages[0].tags[tag].overwrite(value, dtype="I")
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize(("width", "height"), [(20_000, 16_000), (40_000, 30_000)])  # 320 million, and beyond Pillow's
def test_a_picture_beyond_the_limit_is_one_line_that_names_convert(
    tmp_path: Path, suffix: str, width: int, height: int
) -> None:
    path = large(tmp_path / f"my scan.{suffix}", width, height)

    with pytest.raises(UnreadableSlideError, match=rf"{width} x {height} px; at most (300|257.143) million") as caught:
        open_slide(path, slide_mpp=0.5)

    assert f"parfocal convert '{path}' -o FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limit_of_a_slide_is_none_of_a_conversion(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_PICTURE_PX", 10_000)
    monkeypatch.setattr(source, "MOST_WHOLE_PX", 10_000)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")

    with pytest.raises(UnreadableSlideError, match="parfocal convert"):
        open_slide(tmp_path / "a.png", slide_mpp=0.5)
    np.testing.assert_array_equal(read_whole(converted(tmp_path / "a.png", tmp_path / "out", slide_mpp=0.5)), pixels)
    assert "a JPEG is decoded whole" in failed(tmp_path / "b.jpg", tmp_path / "out", slide_mpp=0.5)


def test_a_large_file_is_a_big_tiff(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with tifffile.TiffFile(converted(tmp_path / "a.png", tmp_path / "small", slide_mpp=0.5)) as tiff:
        assert not tiff.is_bigtiff
    monkeypatch.setattr(pyramid, "_CLASSIC_BYTES", 1_000_000)

    path = converted(tmp_path / "a.png", tmp_path / "large", slide_mpp=0.5)

    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(read_whole(path), pixels)


def test_the_command_converts_what_it_can(
    tmp_path: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    call = ["convert", str(tmp_path / "a.png"), str(tmp_path / "gone.png"), "-o", str(tmp_path / "out"), "--mpp", "0.5"]

    assert main([*call, "--codec", "lossless", "--json"]) == 3

    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["done"][0]["width_px"], found["done"][0]["mpp"]) == (WIDTH, 0.5)
    assert "gone failed: UnreadableSlideError" in said.err
    assert main(["convert", "-o", str(tmp_path)]) == 2


def test_shards_convert_each_picture_once(tmp_path: Path) -> None:
    for name in "abcdef":
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    pictures = sorted(tmp_path.glob("*.png"))

    parts = [
        convert_pictures(pictures, tmp_path / "out", LOSSLESS.model_copy(update={"shard": f"{n}/2"}), slide_mpp=0.5)
        for n in range(2)
    ]

    assert sorted(one.slide for part in parts for one in part.done) == [*"abcdef"]
    assert all(part.done for part in parts)
    assert not any(part.failed for part in parts)
