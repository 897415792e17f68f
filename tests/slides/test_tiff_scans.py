"""Which page is the slide: made files in every order, with every kind of picture beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import CalibrationError, ParfocalWarning, UnreadableSlideError
from parfocal.slides import open_slide

Write = Callable[..., Path]
made = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def scene(width: int, height: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 3 + seed * 50) % 251, (y * 2 + seed * 30) % 241, (x + y + seed) % 239], -1).astype(np.uint8)


def write_pages(path: Path, pages: list[np.ndarray], **options: object) -> Path:
    tags = [{**{"tile": (64, 64), "photometric": "rgb", "metadata": None}, **options} for _ in pages]
    with tifffile.TiffWriter(path) as tiff:
        for page, more in zip(pages, tags, strict=True):
            tiff.write(page, resolution=(20000, 20000), resolutionunit="CENTIMETER", **more)
    return path


def same(path: Path, expected: np.ndarray, **options: object) -> bool:
    with open_slide(path, **options) as slide:  # type: ignore[arg-type]
        return (slide.height_px, slide.width_px) == expected.shape[:2] and np.array_equal(
            slide.read_level(0, 0, 0, slide.width_px, slide.height_px), expected
        )


@given(
    size=st.tuples(st.integers(300, 700), st.integers(300, 700)),
    before=st.integers(0, 2),
    levels=st.integers(0, 2),
    after=st.integers(0, 2),
    shrink=st.integers(4, 9),
)
@made
def test_the_largest_page_is_the_slide_whatever_stands_before_it(
    tmp_path: Path, size: tuple[int, int], before: int, levels: int, after: int, shrink: int
) -> None:
    full = scene(*size)
    thumbnails = [scene(size[0] // shrink, size[1] // shrink, 5), scene(90, 40, 7)]
    pages = [*thumbnails[:before], full, *(full[:: 2**n, :: 2**n] for n in range(1, levels + 1)), *thumbnails[:after]]
    path = write_pages(tmp_path / "made.tif", pages)

    assert same(path, full)
    with open_slide(path) as slide:
        assert slide.n_scans == 1
        for number, level in enumerate(slide.levels):
            if number <= levels:
                assert level.downsample == 2**number
                expected = full[:: 2**number, :: 2**number]
                np.testing.assert_array_equal(slide.read_level(number, 0, 0, *expected.shape[1::-1]), expected)


@given(
    sizes=st.lists(st.tuples(st.integers(300, 420), st.integers(430, 600)), min_size=2, max_size=3),
    turned=st.booleans(),
    marks=st.booleans(),
)
@made
@pytest.mark.filterwarnings("ignore:.*is left out:parfocal.errors.ParfocalWarning")
def test_several_scans_are_told_and_each_can_be_chosen(
    tmp_path: Path, sizes: list[tuple[int, int]], turned: bool, marks: bool
) -> None:
    scenes = [scene(*(size[::-1] if turned and n % 2 else size), n) for n, size in enumerate(sizes)]
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        for full in scenes:
            for step in (1, 2):
                tags = {
                    "tile": (64, 64),
                    "photometric": "rgb",
                    "metadata": None,
                    "subfiletype": int(marks and step > 1),
                }
                tiff.write(full[::step, ::step], resolution=(20000, 20000), resolutionunit="CENTIMETER", **tags)

    with pytest.warns(ParfocalWarning, match=rf"holds {len(scenes)} scans \(0: .*scan 0 is read.*--scan N"):
        assert same(path, scenes[0])
    for number, full in enumerate(scenes):
        assert same(path, full, scan=number)
        with open_slide(path, scan=number) as slide:
            assert (slide.n_scans, slide.scan) == (len(scenes), number)
            assert [level.downsample for level in slide.levels] == [1, 2]
            np.testing.assert_array_equal(
                slide.read_level(1, 0, 0, slide.levels[1].width_px, slide.levels[1].height_px), full[::2, ::2]
            )
    with pytest.raises(UnreadableSlideError, match=f"cannot read scan 7 of made.tif: it holds {len(scenes)}"):
        open_slide(path, scan=7)


def test_one_scan_has_number_0_and_no_other(write_tiff: Write, pixels: np.ndarray, tmp_path: Path) -> None:
    path = write_tiff(pixels, levels=2)
    assert same(path, pixels, scan=0)
    with pytest.raises(UnreadableSlideError, match=r"cannot read scan 1 of made\.tif: it holds 1"):
        open_slide(path, scan=1)


@pytest.mark.parametrize("name", ["macro", "Slide label", "Thumbnail 300x200", "overview image"])
def test_a_large_picture_with_a_name_of_its_own_is_no_slide(tmp_path: Path, name: str) -> None:
    full, beside = scene(400, 300), scene(640, 500, 3)
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(beside, tile=(64, 64), photometric="rgb", metadata=None, description=name)
        tiff.write(full, tile=(64, 64), photometric="rgb", metadata=None, description="H&E of case 7, no label")

    assert same(path, full, slide_mpp=0.5)


def write_ome(path: Path, images: list[tuple[str, np.ndarray, float | None]], levels: int = 1) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, pixels, mpp in images:
            size = {} if mpp is None else {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            metadata = {"axes": "YXS", "Name": name, **size}
            tiff.write(pixels, tile=(64, 64), photometric="rgb", metadata=metadata, subifds=levels - 1)
            for level in range(1, levels):
                small = pixels[:: 2**level, :: 2**level]
                tiff.write(small, tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


@given(
    order=st.permutations([0, 1, 2]),
    names=st.sampled_from([("", "", ""), ("slide", "label image", "macro"), ("", "thumbnail", "overview")]),
    levels=st.integers(1, 2),
)
@made
def test_ome_images_beside_the_slide_are_no_slide_and_its_own_mpp_is_taken(
    tmp_path: Path, order: list[int], names: tuple[str, str, str], levels: int
) -> None:
    full = scene(640, 480)
    images = [(names[0], full, 0.4), (names[1], scene(160, 120, 3), 4.0), (names[2], scene(300, 90, 4), 8.0)]
    path = write_ome(tmp_path / "made.ome.tif", [images[n] for n in order], levels)

    assert same(path, full)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.n_scans, len(slide.levels)) == (0.4, 1, levels)


@given(st.lists(st.tuples(st.integers(300, 420), st.integers(430, 600)), min_size=2, max_size=3))
@made
def test_ome_scans_of_one_resolution_are_told(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    scenes = [scene(*size, n) for n, size in enumerate(sizes)]
    images = [(f"section {n}", full, 0.4 + n / 20) for n, full in enumerate(scenes)]
    path = write_ome(tmp_path / "made.ome.tif", images, 2)

    with pytest.warns(ParfocalWarning, match=f"holds {len(scenes)} scans"):
        assert same(path, scenes[0])
    for number, full in enumerate(scenes):
        assert same(path, full, scan=number)
        with open_slide(path, scan=number) as slide:
            assert slide.mpp == pytest.approx(0.4 + number / 20)


def test_channels_planes_and_times_are_refused(tmp_path: Path) -> None:
    grey = np.stack([scene(331, 203, n)[..., 0] for n in range(5)])
    for axes, expected in (("CYX", "5 channels"), ("ZYX", "5 focal planes or times"), ("TYX", "5 focal planes")):
        path = tmp_path / f"{axes}.ome.tif"
        tifffile.imwrite(path, grey, tile=(64, 64), photometric="minisblack", metadata={"axes": axes}, ome=True)
        with pytest.raises(UnreadableSlideError, match=expected) as caught:
            open_slide(path, slide_mpp=0.5)
        assert "\n" not in str(caught.value)
    path = write_pages(tmp_path / "pages.tif", list(grey), photometric="minisblack")
    with pytest.raises(UnreadableSlideError, match="5 grey pages of one size"):
        open_slide(path)
    path = tmp_path / "imagej.tif"
    tifffile.imwrite(path, grey, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(UnreadableSlideError, match="5 ImageJ planes"):
        open_slide(path, slide_mpp=0.5)


@pytest.mark.parametrize("names", [None, ["Red", "Green", "Blue"], ["R", "G", "B"]])
def test_three_channels_that_are_red_green_and_blue_are_one_picture(tmp_path: Path, names: list[str] | None) -> None:
    stained = np.clip(255 - scene(331, 203) // 3, 0, 255).astype(np.uint8)
    metadata = {"axes": "CYX"} | ({} if names is None else {"Channel": {"Name": names}})
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(path, np.moveaxis(stained, 2, 0), tile=(64, 64), photometric="minisblack", metadata=metadata)

    assert same(path, stained, slide_mpp=0.5)


@pytest.mark.parametrize("names", [None, ["DAPI", "FITC", "TRITC"]])
def test_three_channels_that_are_not_are_refused(tmp_path: Path, names: list[str] | None) -> None:
    dark = (scene(331, 203) // 6).astype(np.uint8)
    metadata = {"axes": "CYX"} | ({} if names is None else {"Channel": {"Name": names}})
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(path, np.moveaxis(dark, 2, 0), tile=(64, 64), photometric="minisblack", metadata=metadata)

    with pytest.raises(UnreadableSlideError, match="3 channels"):
        open_slide(path, slide_mpp=0.5)


def test_levels_in_strips_are_read_like_others(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "made.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels, tile=(64, 64), photometric="rgb", metadata=None, compression="jpeg", compressionargs={"level": 95}
        )
        for step, compression in ((2, None), (4, "deflate")):
            tags = {"subfiletype": 1, "rowsperstrip": 7, "compression": compression, "photometric": "rgb"}
            tiff.write(pixels[::step, ::step], metadata=None, **tags)

    with open_slide(path, slide_mpp=0.5) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        for number, step in ((1, 2), (2, 4)):
            small = pixels[::step, ::step]
            got = slide.read_level(number, 3, 5, small.shape[1] - 3, small.shape[0] - 5)
            np.testing.assert_array_equal(got, small[5:, 3:])


@pytest.mark.parametrize("compression", [None, "lzw", "jpeg"])
def test_a_slide_in_strips_behind_a_thumbnail_is_read(tmp_path: Path, compression: str | None) -> None:
    full = scene(500, 333)
    path = write_pages(
        tmp_path / "made.tif", [scene(50, 33, 4), full], tile=None, rowsperstrip=16, compression=compression
    )
    with open_slide(path) as slide:
        got = slide.read_level(0, 0, 0, slide.width_px, slide.height_px)
    assert got.shape == full.shape
    assert np.abs(got.astype(int) - full).mean() < (4 if compression == "jpeg" else 0.01)


@pytest.mark.parametrize(
    ("unit", "value"),
    [("Å", 5000), ("pm", 500000), ("nm", 500), ("um", 0.5), ("mm", 0.0005), ("cm", 5e-5), ("m", 5e-7)],
)
def test_every_unit_of_length_is_converted(tmp_path: Path, pixels: np.ndarray, unit: str, value: float) -> None:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
        '<Pixels SizeX="331" SizeY="203" SizeC="3" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{value}" PhysicalSizeY="{value}" '
        f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"><Channel SamplesPerPixel="3"/><TiffData/></Pixels>'
        "</Image></OME>"
    )
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", description=text.encode(), metadata=None)

    with open_slide(path) as slide:
        assert (slide.format, slide.mpp) == ("OME-TIFF", pytest.approx(0.5))


def test_an_ome_image_that_does_not_say_how_many_samples_a_pixel_has(tmp_path: Path, pixels: np.ndarray) -> None:
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels '
        'SizeX="331" SizeY="203" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        "<TiffData/></Pixels></Image></OME>"
    )
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", description=text, metadata=None)

    assert same(path, pixels)


@pytest.mark.parametrize("wrong", ["H&E", "a < b", "\x01", "<unclosed>", ""])
def test_ome_text_that_is_not_well_formed_is_no_crash(tmp_path: Path, pixels: np.ndarray, wrong: str) -> None:
    text = (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image Name="{wrong}">'
        '<Pixels SizeX="331" SizeY="203" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        '<Channel SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
    )
    path = tmp_path / "made.ome.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", description=text, metadata=None)

    assert same(path, pixels, require_mpp=False)
    if wrong in {"H&E", ""}:
        with open_slide(path) as slide:
            assert slide.mpp == 0.5
    else:
        with pytest.raises(CalibrationError, match="--slide-mpp"):
            open_slide(path)
