"""AtlasPatch's files, written here as its own code does it: one for each slide, with several encoders."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.errors import FormatVersionError, MismatchError, StoreError
from parfocal.store.formats.atlaspatch import parts, read_places, read_rows, write
from parfocal.store.formats.format import FeatureSource, FeaturesToWrite

XY = np.stack([np.arange(6) % 3, np.arange(6) // 3], axis=1) * 384 + np.array([311, 95])
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
SAID = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 64,
    "level0_width": 9000,
    "level0_height": 5000,
    "wsi_path": "C:\\scans\\case.svs",
    "passport_version": 2,
    "num_patches": 6,
    "filename": "case.svs",
    "mpp": 0.2527,
    "magnification": 40,
}


def atlas(path: Path, encoders: dict[str, np.ndarray] | None = None, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        coords = np.column_stack([XY, np.tile([256, 256, 1], (6, 1))]).astype(np.int32)
        file.create_dataset("coords", data=coords, chunks=(8192, 5), maxshape=(None, 5))
        for name, rows in ({"uni_v1": ROWS, "resnet50": ROWS[:, :3]} if encoders is None else encoders).items():
            file.require_group("features").create_dataset(name, data=rows, maxshape=(None, rows.shape[1]))
        file.attrs.update({key: value for key, value in {**SAID, **changes}.items() if value is not None})
    return path


def test_each_encoder_of_a_file_is_a_part(tmp_path: Path) -> None:
    path = atlas(tmp_path / "patches" / "case.h5")

    assert parts(path) == {"uni_v1": "uni_v1", "resnet50": "resnet50"}
    file = read_places(FeatureSource(path, "resnet50"))

    assert (file.tile_px, file.tile, file.stride, file.dim) == (256, 512.0, 384.0, 3)
    assert (file.slide_mpp, file.size_l0px, file.slide) == (0.2527, (9000, 5000), "case.svs")
    assert np.array_equal(file.xy, XY)
    assert np.array_equal(read_rows(FeatureSource(path, "uni_v1")), ROWS)


def test_a_resolution_that_may_be_nominal_is_not_used(tmp_path: Path) -> None:
    """AtlasPatch writes 10 / magnification where a slide says its objective alone."""
    file = read_places(FeatureSource(atlas(tmp_path / "case.h5", mpp=0.25), "uni_v1"))

    assert file.slide_mpp is None
    assert "0.25, may only stand for an objective of 40x" in file.remark
    without = read_places(FeatureSource(atlas(tmp_path / "case.h5", mpp=None, filename=None), "uni_v1"))
    assert (without.slide_mpp, without.remark, without.slide) == (None, "", "case.svs")


def test_what_is_not_done_is_no_part(tmp_path: Path) -> None:
    path = atlas(tmp_path / "case.h5", {"__tmp_uni_v1": ROWS[:2]})

    assert parts(path) == {}
    assert parts(atlas(tmp_path / "case.h5", {})) == {}


def test_files_of_others_are_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "case.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = ROWS, XY
        file.attrs["patch_size_level0"] = 512
    assert parts(path) is None
    assert parts(atlas(path, patch_size_level0=None)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"passport_version": 3}, "its passport_version is 3, and this parfocal knows up to 2"),
        ({"patch_size": None}, "patch_size is absent"),
        ({"patch_size_level0": 0}, "patch_size_level0 is 0"),
        ({"overlap": 256}, "overlap is 256 px of 256"),
        ({"level0_width": 500}, "4 of its 6 tiles lie outside"),
    ],
)
def test_files_that_say_what_is_not_known_are_one_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = atlas(tmp_path / "case.h5", **changes)

    with pytest.raises(FormatVersionError if "knows" in said else StoreError, match=said):
        read_places(FeatureSource(path, "uni_v1"))


def test_rows_of_another_number_or_encoder_are_one_line(tmp_path: Path) -> None:
    path = atlas(tmp_path / "case.h5", {"uni_v1": ROWS[:4]})

    for read in (read_places, read_rows):
        with pytest.raises(StoreError, match=r"\(4, 5\) and coords \(6, 5\); expected are \(N, D\) and \(N, 5\)"):
            read(FeatureSource(path, "uni_v1"))
        with pytest.raises(StoreError, match="no features of 'virchow_v2'"):
            read(FeatureSource(path, "virchow_v2"))


def to_write(**changes: object) -> FeaturesToWrite:
    values: dict[str, object] = {
        "slide": "a/case",
        "rows": ROWS,
        "xy_l0px": XY,
        "tile_px": 256,
        "tile_l0px": 512,
        "stride_l0px": 384,
        "mpp": 0.5,
        "slide_mpp": 0.25,
        "size_l0px": (9000, 5000),
        "encoder": "UNI v1",
        "objective_power": 40.0,
        "slide_path": "/scans/case.svs",
    }
    return FeaturesToWrite(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_what_atlaspatch_writes(tmp_path: Path) -> None:
    path = write(tmp_path, to_write())

    assert path == tmp_path / "patches" / "a" / "case.h5"
    with h5py.File(path) as file:
        assert (file["coords"].dtype, file["coords"].chunks, file["coords"].maxshape) == (
            np.int32,
            (8192, 5),
            (None, 5),
        )
        assert file["coords"][1].tolist() == [695, 95, 512, 512, 0]
        assert file["passports"].dtype == "S160"
        assert file["passports"][1] == b"case__x695_y95_rw512_rh512_lv0_mag40_tmag20_total6"
        assert (file["features/uni_v1"].dtype, file["features/uni_v1"].chunks) == (np.float32, (32, 5))
        assert set(SAID) <= set(file.attrs)
        assert {key: file.attrs[key] for key in SAID if key != "wsi_path"} == {
            **{key: value for key, value in SAID.items() if key != "wsi_path"},
            "overlap": 64,
            "mpp": 0.25,
        }
    # Files of ours hold a true resolution, whatever it is.
    assert read_places(FeatureSource(path, "uni_v1")).slide_mpp == 0.25


def test_another_encoder_is_added_and_other_tiles_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, to_write())
    write(tmp_path, to_write(encoder="resnet50", rows=ROWS[:, :2]))
    write(tmp_path, to_write(rows=ROWS + 1))

    assert set(parts(path) or ()) == {"uni_v1", "resnet50"}
    assert np.array_equal(read_rows(FeatureSource(path, "uni_v1")), ROWS + 1)
    assert np.array_equal(read_rows(FeatureSource(path, "resnet50")), ROWS[:, :2])
    with pytest.raises(MismatchError, match=r"holds other tiles\. Name another folder"):
        write(tmp_path, to_write(mpp=1.0, tile_l0px=1024))
