"""What is written in TRIDENT's layout: its folders, its types and its attributes, and no others."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.store.formats.format import FeatureSource, FeaturesToWrite
from parfocal.store.formats.trident import parts, read_places, write

XY = np.stack([np.arange(6) % 3, np.arange(6) // 3], axis=1) * 400
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)


def to_write(**changes: object) -> FeaturesToWrite:
    values: dict[str, object] = {
        "slide": "a/case",
        "rows": ROWS,
        "xy_l0px": XY,
        "tile_px": 224,
        "tile_l0px": 448,
        "stride_l0px": 400,
        "mpp": 0.5,
        "slide_mpp": 0.25,
        "size_l0px": (9000, 5000),
        "encoder": "toy",
        "objective_power": 40.0,
    }
    return FeaturesToWrite(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_what_trident_writes(tmp_path: Path) -> None:
    path = write(tmp_path, to_write())

    job = tmp_path / "20x_224px_24px_overlap"
    assert path == job / "features_toy" / "a" / "case.h5"
    expected = {
        "patch_size": 224,
        "patch_size_level0": 448,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 24,
        "name": "a/case",
        "savetodir": str(job),
        "level0_width": 9000,
        "level0_height": 5000,
    }
    with h5py.File(path) as file, h5py.File(job / "patches" / "a" / "case_patches.h5") as places:
        rows = file["features"]
        assert (rows.dtype, rows.chunks, rows.maxshape) == (np.float32, (1, 5), (None, 5))
        assert dict(rows.attrs) == {"name": "a/case", "savetodir": str(job / "features_toy"), "encoder": "toy"}
        for each in (file, places):
            assert each["coords"].dtype == np.int64
            assert dict(each["coords"].attrs) == expected
            assert not len(each.attrs)
    assert parts(path) == {"": None}
    assert parts(job / "patches" / "a" / "case_patches.h5") == {}
    assert read_places(FeatureSource(path)).stride == pytest.approx(400)


@pytest.mark.parametrize(("slide_mpp", "power", "side"), [(0.2521, 40.0, 444), (0.499, 20.0, 224), (0.5, 40.0, 224)])
def test_magnifications_give_the_side_that_tiles_have(
    tmp_path: Path, slide_mpp: float, power: float, side: int
) -> None:
    """TRIDENT's patcher computes it from them; a 40x objective before a camera of 20x would double it."""
    path = write(tmp_path, to_write(slide_mpp=slide_mpp, objective_power=power, tile_l0px=side, stride_l0px=side))

    with h5py.File(path) as file:
        said = dict(file["coords"].attrs)
    assert round(said["patch_size"] * said["level0_magnification"] / said["target_magnification"]) == side
    assert said["patch_size_level0"] == side
