"""STAMP's files of version 2, 2.0 and 1, written here as its own code does it."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.errors import FormatVersionError, MismatchError, StoreError
from parfocal.store.formats.format import FeatureSource, FeaturesToWrite
from parfocal.store.formats.stamp import parts, read_places, read_rows, write

LATTICE = np.stack([np.arange(6) % 3 + 2, np.arange(6) // 3 + 1], axis=1)
PLACES = (LATTICE * 256).astype(np.float32)
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
VERSION_2 = {
    "stamp_version": "2.4.0",
    "extractor": "mahmood-uni",
    "unit": "um",
    "tile_size_um": 256.0,
    "tile_size_px": 224,
    "code_hash": "0123abcd",
    "feat_type": "tile",
}


def stamp(path: Path, coords: np.ndarray = PLACES, **attributes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"], file["feats"] = coords, ROWS[: len(coords)]
        file.attrs.update(attributes)
    return path


def test_places_of_version_2_are_micrometres(tmp_path: Path) -> None:
    path = stamp(tmp_path / "mahmood-uni-0123abcd" / "sub" / "case.h5", **VERSION_2)

    assert parts(path) == {"": "mahmood-uni"}
    file = read_places(FeatureSource(path))

    assert (file.unit, file.tile_px, file.tile, file.dim, file.float16) == ("um", 224, 256.0, 5, True)
    assert (file.slide_mpp, file.remark) == (None, "")
    assert np.array_equal(file.xy, LATTICE * 256)
    assert np.array_equal(read_rows(FeatureSource(path)), ROWS)


def test_tiles_of_2_0_do_not_say_their_pixels(tmp_path: Path) -> None:
    said = {"stamp_version": "2.0.0", "extractor": "mahmood-uni-0123abcd", "unit": "um", "tile_size": 256.0}
    path = stamp(tmp_path / "case.h5", **said)

    assert parts(path) == {"": "mahmood-uni"}
    file = read_places(FeatureSource(path))

    assert (file.tile, file.tile_px) == (256.0, 224)
    assert "taken to have 224 px" in file.remark


def test_places_of_version_1_count_pixels_of_256_um_over_224(tmp_path: Path) -> None:
    path = stamp(tmp_path / "case.h5", LATTICE * 224, extractor="STAMP-extract-1.1.1_mahmood-uni-56ef09b4")

    assert parts(path) == {"": "mahmood-uni"}
    file = read_places(FeatureSource(path))

    assert (file.unit, file.tile, file.tile_px) == ("um", 256.0, 224)
    assert np.allclose(file.xy, LATTICE * 256)
    assert "as STAMP does" in file.remark


def test_version_1_says_other_tiles_beside_its_files(tmp_path: Path) -> None:
    path = stamp(tmp_path / "case.h5", LATTICE * 224, extractor="STAMP-extract-1.1.1_ctranspath-7c998680")
    (tmp_path / "info.json").write_text(json.dumps({"microns": 512, "patch_size": 224}))

    file = read_places(FeatureSource(path))

    assert (file.tile, file.tile_px, file.remark) == (512.0, 224, "")
    assert np.allclose(file.xy, LATTICE * 512)


def test_one_tile_of_version_1_is_known_by_its_extractor(tmp_path: Path) -> None:
    path = stamp(tmp_path / "case.h5", LATTICE[:1] * 224, extractor="STAMP-extract-1.0.3_mahmood-uni-56ef09b4")

    assert read_places(FeatureSource(path)).tile == 256.0
    with pytest.raises(StoreError, match="nothing tells how far its tiles lie apart"):
        read_places(FeatureSource(stamp(tmp_path / "other.h5", LATTICE[:1] * 224)))


def test_tiles_without_a_size_are_one_line(tmp_path: Path) -> None:
    path = stamp(tmp_path / "case.h5", LATTICE * 300)

    with pytest.raises(StoreError, match=r"no tile_size_um, and its tiles lie 300 apart; expected of STAMP 1 is 224"):
        read_places(FeatureSource(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stamp_version": "3.0.0"}, "it is of STAMP 3.0.0, and this parfocal knows files up to STAMP 2"),
        ({"stamp_version": "later"}, "stamp_version is 'later'"),
        ({"tile_size_um": -1.0}, "tile_size_um is -1"),
        ({"tile_size_px": 1.5}, "tile_size_px is 1.5"),
    ],
)
def test_files_that_say_what_is_not_known_are_one_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = stamp(tmp_path / "case.h5", **{**VERSION_2, **changes})

    with pytest.raises(FormatVersionError if "knows" in said else StoreError, match=said):
        read_places(FeatureSource(path))
    newer = stamp(tmp_path / "newer.h5", **{**VERSION_2, "stamp_version": "2.99.0.dev1"})
    assert read_places(FeatureSource(newer)).tile == 256.0


def test_rows_and_places_of_different_number_are_one_line(tmp_path: Path) -> None:
    path = stamp(tmp_path / "case.h5", **VERSION_2)
    with h5py.File(path, "r+") as file:
        del file["coords"]
        file["coords"] = np.zeros((9, 2), np.float32)

    for read in (read_places, read_rows):
        with pytest.raises(StoreError, match=r"feats are \(6, 5\) and coords \(9, 2\)"):
            read(FeatureSource(path))


def test_vectors_of_slides_and_files_of_others_have_no_tiles(tmp_path: Path) -> None:
    slide = tmp_path / "slide.h5"
    for attributes in ({"feat_type": "slide"}, {"feat_type": "patient"}, {"encoder": "titan"}):
        with h5py.File(slide, "w") as file:
            file["feats"] = ROWS[:1]
            file.attrs.update(attributes)
        assert parts(slide) == {}
    with h5py.File(slide, "w") as file:
        file["feats"] = ROWS
    assert parts(slide) is None
    with h5py.File(slide, "w") as file:
        file["features"], file["coords"] = ROWS, LATTICE
    assert parts(slide) is None


def to_write(**changes: object) -> FeaturesToWrite:
    values: dict[str, object] = {
        "slide": "a/case",
        "rows": ROWS.astype(np.float32),
        "xy_l0px": LATTICE * 450,
        "tile_px": 224,
        "tile_l0px": 449,
        "stride_l0px": 450,
        "mpp": 0.5,
        "slide_mpp": 0.2495,
        "size_l0px": (9000, 5000),
        "encoder": "timm:uni/2",
    }
    return FeaturesToWrite(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_what_stamp_writes(tmp_path: Path) -> None:
    path = write(tmp_path, to_write())

    assert path.parent.parent.name.startswith("timm_uni_2-")
    assert path.relative_to(path.parent.parent).as_posix() == "a/case.h5"
    with h5py.File(path) as file:
        assert (file["coords"].dtype, file["coords"].chunks) == (np.float32, None)
        assert (file["feats"].dtype, file["feats"].chunks) == (np.float16, None)
        assert np.allclose(file["coords"], LATTICE * 450 * 0.2495, atol=1e-3)
        assert set(file.attrs) == set(VERSION_2)
        assert (file.attrs["tile_size_um"], file.attrs["tile_size_px"], file.attrs["unit"]) == (112.0, 224, "um")
        # STAMP refuses files of versions above its own; this is the first with all of these attributes.
        assert file.attrs["stamp_version"] == "2.3.0"


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not fit float16"):
        write(tmp_path, to_write(rows=np.full((6, 5), 1e6, np.float32)))
    write(tmp_path, to_write())
    with pytest.raises(MismatchError, match="Name another folder for each magnification"):
        write(tmp_path, to_write(mpp=1.0, tile_l0px=898))
