"""OME-Zarr slides: both versions, channels first or last, calibrated by their own metadata or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.errors import CalibrationError, ParfocalWarning, UnreadableSlideError
from parfocal.slides import find_slides, open_slide, slide_files

zarr = pytest.importorskip("zarr", reason="OME-Zarr needs zarr (the extra `zarr`)")

Writer = Callable[..., Path]


@pytest.fixture
def write_zarr(tmp_path: Path) -> Writer:
    """Write a pyramid in chunks of 96 x 64 px; each coarser level is every other pixel of the one before."""

    def write(
        pixels: np.ndarray,
        name: str = "made.ome.zarr",
        *,
        version: str = "0.5",
        axes: str = "cyx",
        levels: int = 2,
        unit: str | None = "micrometer",
        scales: bool = True,
        mpp: float = 0.5,
        shift: float = 0.0,
        **more: Any,
    ) -> Path:
        root = zarr.open_group(tmp_path / name, mode="w", zarr_format=3 if version == "0.5" else 2)
        datasets = []
        for level in range(levels):
            shrunk = pixels[:: 2**level, :: 2**level]
            order = ["yxc".index(axis) for axis in axes if axis in "yxc"]
            data = shrunk.transpose(order).reshape(
                [dict(zip("yxc", shrunk.shape, strict=True)).get(axis, 1) for axis in axes]
            )
            chunks = tuple({"y": 64, "x": 96, "c": more.get("c_chunk", 3)}.get(axis, 1) for axis in axes)
            array = root.create_array(str(level), shape=data.shape, chunks=chunks, dtype=more.get("dtype", "uint8"))
            array[:] = data
            step: list[dict[str, Any]] = []
            if scales:
                step.append({"type": "scale", "scale": [mpp * 2**level if axis in "yx" else 1.0 for axis in axes]})
            if level and shift:
                step.append({"type": "translation", "translation": [shift if axis in "yx" else 0.0 for axis in axes]})
            datasets.append({"path": str(level), "coordinateTransformations": step})
        kinds = {"y": "space", "x": "space", "z": "space", "c": "channel", "t": "time"}
        listed = [{"name": axis, "type": kinds[axis]} for axis in axes]
        for axis in listed:
            if unit and axis["type"] == "space":
                axis["unit"] = unit
        image = {"axes": listed, "datasets": datasets}
        if version == "0.5":
            root.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
        else:
            root.attrs["multiscales"] = [{"version": version, **image}]
        return tmp_path / name

    return write


@pytest.mark.parametrize(("version", "axes", "c_chunk"), [("0.5", "cyx", 1), ("0.4", "tczyx", 3), ("0.4", "yxc", 3)])
def test_levels_and_pixels_are_those_that_were_written(
    write_zarr: Writer, pixels: np.ndarray, version: str, axes: str, c_chunk: int
) -> None:
    with open_slide(write_zarr(pixels, version=version, axes=axes, c_chunk=c_chunk)) as slide:
        assert (slide.width_px, slide.height_px, slide.format) == (331, 203, "OME-Zarr")
        assert slide.mpp == 0.5
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        assert np.array_equal(slide.read_level(0, 90, 50, 120, 100), pixels[50:150, 90:210])
        assert np.array_equal(slide.read_level(0, 0, 0, 331, 203), pixels)
        assert np.array_equal(slide.read_level(1, 11, 7, 100, 90), pixels[::2, ::2][7:97, 11:111])
        assert (slide.read_level(0, 330, 202, 2, 2)[1, 1] == 255).all()


@pytest.mark.parametrize(("unit", "mpp", "expected"), [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5)])
def test_units_of_length_become_micrometres(
    write_zarr: Writer, pixels: np.ndarray, unit: str, mpp: float, expected: float
) -> None:
    with open_slide(write_zarr(pixels, unit=unit, mpp=mpp)) as slide:
        assert slide.mpp == pytest.approx(expected)


@pytest.mark.parametrize("absent", [{"unit": None}, {"scales": False}, {"unit": "pixel"}])
def test_without_a_unit_or_a_scale_the_resolution_is_asked_for(
    write_zarr: Writer, pixels: np.ndarray, absent: dict[str, Any]
) -> None:
    path = write_zarr(pixels, levels=1, **absent)

    with pytest.raises(CalibrationError, match=r"made.ome.zarr does not say how many microns .*--slide-mpp"):
        open_slide(path)
    with open_slide(path, slide_mpp=0.5) as slide:
        assert slide.mpp == 0.5


def test_a_level_that_lies_elsewhere_is_left_out(write_zarr: Writer, pixels: np.ndarray) -> None:
    with open_slide(write_zarr(pixels, shift=0.25)) as slide:  # the centre of two averaged pixels
        assert len(slide.levels) == 2
    with (
        pytest.warns(ParfocalWarning, match="166 x 102 px is left out: it begins 20 of its pixels beside level 0"),
        open_slide(write_zarr(pixels, shift=20.0)) as slide,
    ):
        assert len(slide.levels) == 1


def test_absent_chunks_are_white_and_broken_ones_are_told(write_zarr: Writer, pixels: np.ndarray) -> None:
    path = write_zarr(pixels + 1, levels=1)
    (path / "0" / "c" / "0" / "1" / "0").unlink()
    (path / "0" / "c" / "0" / "2" / "3").write_bytes(b"damaged")

    with open_slide(path) as slide:
        window = slide.read_window(0, 0, 0, 331, 203)
        with pytest.raises(UnreadableSlideError, match="chunk 2, 3 of level 0 is broken"):
            slide.read_level(0, 300, 140, 20, 20)

    gaps = {(gap.x, gap.y, gap.width, gap.height): gap.is_broken for gap in window.gaps}
    assert gaps == {(0, 64, 96, 64): False, (288, 128, 43, 64): True}
    assert (window.pixels[64:128, :96] == 255).all()
    assert np.array_equal(window.pixels[:64], pixels[:64] + 1)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"dtype": "uint16"}, "it holds uint16 of"),
        ({"version": "0.3"}, "it has version 0.3 of OME-NGFF; 0.4 and 0.5 are read"),
        ({"mpp": -1.0}, "its scale .* does not fit"),
    ],
)
def test_what_is_no_rgb_picture_of_a_known_version_is_refused(
    write_zarr: Writer, pixels: np.ndarray, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(UnreadableSlideError, match=rf"^cannot read .*made.ome.zarr as OME-Zarr: {why}"):
        open_slide(write_zarr(pixels, **more))


def test_folders_list_them_as_slides_and_a_file_of_them_counts(
    write_zarr: Writer, pixels: np.ndarray, tmp_path: Path
) -> None:
    path = write_zarr(pixels, "one.zarr")
    zarr.open_group(tmp_path / "features.zarr", mode="w")

    with pytest.warns(ParfocalWarning, match="1 file of other kinds passed over"):
        assert [one.slide for one in find_slides([tmp_path])] == ["one"]
    assert [(one.slide, one.path) for one in find_slides([path])] == [("one", path)]
    assert path / "0" / "c" / "0" / "2" / "3" in slide_files(path)
    shutil.move(path, tmp_path / "collection")
    root = zarr.open_group(tmp_path / "whole.zarr", mode="w")
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    with pytest.raises(UnreadableSlideError, match="it is a collection of images; name one of them"):
        open_slide(tmp_path / "whole.zarr")
