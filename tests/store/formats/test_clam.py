"""CLAM's files, written here as its own code does it: rows without attributes, places in a file of their own."""

import pickle
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.errors import MismatchError, ParfocalError, StoreError
from parfocal.store.formats.clam import parts, read_places, read_rows, write
from parfocal.store.formats.format import FeatureSource, FeaturesToWrite

SIDE = 512  # 256 px at a level of half of level 0, on a lattice that begins where the tissue does
XY = np.stack([np.arange(8) % 4, np.arange(8) // 4], axis=1) * SIDE + np.array([1234, 777])
ROWS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
LEVEL_1 = {"patch_size": 256, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (4000, 2000), "name": "case"}


def features(folder: Path, rows: np.ndarray = ROWS, xy: np.ndarray = XY) -> Path:
    path = folder / "h5_files" / "case.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=rows, chunks=(32, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]))
        file.create_dataset("coords", data=xy.astype(np.int32), chunks=(32, 2), maxshape=(None, 2))
    return path


def patches(folder: Path, xy: np.ndarray = XY, **attributes: object) -> Path:
    path = folder / "patches" / "case.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=xy.astype(np.int64), chunks=(32, 2), maxshape=(None, 2)).attrs.update(
            {**LEVEL_1, **attributes}
        )
    return path


def tensor(folder: Path, content: object = ROWS, **how: object) -> Path:
    path = folder / "pt_files" / "case.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(content) if isinstance(content, np.ndarray) else content, path, **how)
    return path


def test_the_side_of_a_tile_is_that_of_the_file_with_its_places(tmp_path: Path) -> None:
    path, places = features(tmp_path / "FEATURES"), patches(tmp_path / "RESULTS", downsample=(2.0, 2.001))
    other = patches(tmp_path / "10x", XY * 2, patch_level=2, downsample=(4.0, 4.0))

    assert parts(path) == {"": None}
    assert parts(places) == parts(other) == {}
    file = read_places(FeatureSource(path, beside=(other, places)))

    # The level is read at the mean of the two ratios, which differ by the rounding of its height.
    assert (file.tile_px, file.tile) == (256, pytest.approx(256 * 2.0005))
    assert (file.size_l0px, file.slide, file.remark) == ((8000, 4002), "case", "")
    assert np.array_equal(file.xy, XY)
    assert np.array_equal(read_rows(FeatureSource(path)), ROWS)


def test_without_places_the_side_is_the_distance_and_that_is_said(tmp_path: Path) -> None:
    # Another piece of tissue has a lattice of its own, 33 px aside.
    xy = np.concatenate([XY, XY + np.array([4 * SIDE + 33, 57])])

    file = read_places(FeatureSource(features(tmp_path, np.concatenate([ROWS, ROWS]), xy)))

    assert (file.tile_px, file.tile) == (256, SIDE)
    assert "512 px of level 0, the distance between them" in file.remark
    assert "256 px of their own" in file.remark


def test_tiles_without_a_distance_are_not_guessed(tmp_path: Path) -> None:
    path = features(tmp_path, ROWS[:2], np.array([[0, 0], [70, 90]]))

    with pytest.raises(StoreError, match=r"no distance that most share\. Name the folder of its patches too"):
        read_places(FeatureSource(path))


def test_places_at_an_unknown_level_say_the_pixels_and_the_distance_the_side(tmp_path: Path) -> None:
    places = patches(tmp_path)
    with h5py.File(places, "r+") as file:
        del file["coords"].attrs["downsample"]
        file["coords"].attrs["patch_size"] = 300

    found = read_places(FeatureSource(features(tmp_path), beside=(places,)))

    assert (found.tile_px, found.tile) == (300, SIDE)
    assert "512 px of level 0" in found.remark


def test_older_places_are_shrunk_once_more(tmp_path: Path) -> None:
    """Fishing-Rod's `custom_downsample`, as TRIDENT's reader of such files takes it."""
    places = patches(tmp_path, XY, patch_size=224, patch_level=0, downsample=(1.0, 1.0), custom_downsample=2)

    file = read_places(FeatureSource(features(tmp_path), beside=(places,)))

    assert (file.tile_px, file.tile) == (224, 448)


def test_places_beside_pictures_count_pixels_of_their_level(tmp_path: Path) -> None:
    """CLAM's create_patches.py of before, at level 1 of 4 and shrunk by 2 after reading."""
    path, places = features(tmp_path, xy=XY // 8), tmp_path / "patches" / "case.h5"
    places.parent.mkdir()
    with h5py.File(places, "w") as file:
        file["coords"] = (XY // 8).astype(np.int32)
        pictures = file.create_dataset("imgs", shape=(8, 64, 64, 3), dtype=np.uint8)
        pictures.attrs.update(
            {
                "patch_level": 1,
                "wsi_name": "case",
                "downsample": (4.0, 4.0),
                "level_dim": (2000, 1000),
                "downsampled_level_dim": (1000, 500),
            }
        )

    assert parts(places) == {}
    file = read_places(FeatureSource(path, beside=(places,)))

    assert (file.tile_px, file.tile) == (64, 512)
    assert (file.size_l0px, file.slide) == ((8000, 4000), "case")
    assert (np.abs(file.xy - XY) < 8).all()
    assert "whole numbers of 8 px" in file.remark


def test_trident_features_of_places_of_clam_say_all_themselves(tmp_path: Path) -> None:
    path = features(tmp_path)
    with h5py.File(path, "r+") as file:
        file["coords"].attrs.update(LEVEL_1)
        file["features"].attrs["encoder"] = "uni_v1"

    assert parts(path) == {"": "uni_v1"}
    assert read_places(FeatureSource(path)).tile == SIDE


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before-1.6"])
def test_a_tensor_lies_where_the_file_with_as_many_places_says(tmp_path: Path, old: bool) -> None:
    path = tensor(tmp_path, _use_new_zipfile_serialization=not old)
    beside = (patches(tmp_path / "a"), patches(tmp_path / "b", XY[:5]))

    assert parts(path) == {"": None}
    file = read_places(FeatureSource(path, beside=beside))

    assert np.array_equal(file.xy, XY)
    assert (file.tile, file.dim, file.float16) == (SIDE, 5, False)
    assert np.array_equal(read_rows(FeatureSource(path)), ROWS)


def test_a_tensor_whose_rows_are_there_as_h5_is_not_a_second_one(tmp_path: Path) -> None:
    features(tmp_path)

    assert parts(tensor(tmp_path)) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tensor(tmp_path, torch.from_numpy(ROWS).to(dtype)[None])

    rows = read_rows(FeatureSource(path))

    assert rows.shape == ROWS.shape
    assert np.allclose(rows, ROWS, atol=1e-2)


def test_two_files_of_places_that_fit_and_differ_are_one_line(tmp_path: Path) -> None:
    beside = (patches(tmp_path / "a"), patches(tmp_path / "b", patch_size=224))

    for path in (features(tmp_path), tensor(tmp_path)):
        with pytest.raises(MismatchError, match=r"a/patches/case.h5 and .*b/patches/case.h5 fit, and differ"):
            read_places(FeatureSource(path, beside=beside))
    same = (beside[0], patches(tmp_path / "c"))
    assert read_places(FeatureSource(tensor(tmp_path), beside=same)).tile == SIDE


def test_a_tensor_without_places_is_one_line(tmp_path: Path) -> None:
    path, other = tensor(tmp_path), patches(tmp_path, XY[:5])

    with pytest.raises(StoreError, match="where its 8 tiles lie, and no file of its patches is named"):
        read_places(FeatureSource(path))
    with pytest.raises(StoreError, match=r"none has 8 places \(5 in .*case.h5\). Name the folder"):
        read_places(FeatureSource(path, beside=(other,)))


class Harm:
    """What a pickle does that may call anything."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return warnings.warn, ("a pickle ran a program",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"features": torch.zeros(8, 5)}, "no file of one tensor"),
        (Harm(), "no file of one tensor"),
        ([torch.zeros(8, 5)], "no file of one tensor"),
        (torch.zeros(5), r"its tensor is \(5,\); expected are rows"),
        (torch.zeros(8, 5, dtype=torch.int64), "its tensor is torch.int64; expected are floats"),
        (torch.zeros(8, 5).to_sparse(), "no file of one tensor"),
    ],
    ids=["table", "program", "list", "vector", "integers", "sparse"],
)
def test_what_is_no_tensor_of_rows_is_one_line_and_runs_nothing(tmp_path: Path, content: object, said: str) -> None:
    path = tensor(tmp_path, content)

    for read in (read_places, read_rows):
        with pytest.raises(StoreError, match=said):
            read(FeatureSource(path))


def test_a_tensor_that_calls_something_on_the_way_runs_nothing(tmp_path: Path) -> None:
    """It begins as a tensor, and so is left to torch's own check of what may be called."""
    path = tensor(tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    call = pickle.dumps(Harm(), protocol=2)[2:-1]
    files[name] = files[name][:-1] + b"0" + call + b"."
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in files.items():
            archive.writestr(each, content)

    with pytest.raises(StoreError, match="damaged or no file of one tensor"):
        read_rows(FeatureSource(path))


def test_a_damaged_tensor_is_one_line(tmp_path: Path) -> None:
    path = tensor(tmp_path)
    content = path.read_bytes()

    for cut in (0, 10, len(content) // 3, len(content) - 30):
        path.write_bytes(content[:cut])
        with pytest.raises(StoreError, match=r"case\.pt"):
            read_rows(FeatureSource(path))


def test_files_of_others_are_left_to_them(tmp_path: Path) -> None:
    plain = features(tmp_path)
    others = {
        "trident": {"patch_size_level0": 512, "patch_level": 1},
        "ours": {},
    }
    for name, attributes in others.items():
        path = tmp_path / name / "case.h5"
        path.parent.mkdir()
        path.write_bytes(plain.read_bytes())
        with h5py.File(path, "r+") as file:
            file["coords"].attrs.update(attributes)
            file.attrs["parfocal_format"] = 1
        assert parts(path) is None
    without = tmp_path / "features_uni" / "case.h5"
    without.parent.mkdir()
    without.write_bytes(plain.read_bytes())
    assert parts(without) is None
    embeddings = tmp_path / "tile_embeddings" / "case.pt"
    embeddings.parent.mkdir()
    embeddings.write_bytes(tensor(tmp_path / "x").read_bytes())
    assert parts(embeddings) == {"": None}
    embeddings.with_suffix(".meta.json").write_text("{}")
    assert parts(embeddings) is None
    weights = tmp_path / "model.pt"
    torch.save({"state": torch.zeros(3)}, weights)
    assert parts(weights) is None


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"downsample": (0.0, 0.0)}, "downsample is 0, 0; expected are numbers above 0"),
        ({"downsample": (1.0, 2.0, 3.0)}, "downsample is no pair of numbers"),
        ({"level_dim": (700, 300)}, "lie outside of the slide"),
    ],
)
def test_places_that_no_slide_has_are_one_line(tmp_path: Path, attributes: dict[str, object], said: str) -> None:
    with pytest.raises(ParfocalError, match=said):
        read_places(FeatureSource(features(tmp_path), beside=(patches(tmp_path, **attributes),)))


def to_write(**changes: object) -> FeaturesToWrite:
    values: dict[str, object] = {
        "slide": "a/case",
        "rows": ROWS,
        "xy_l0px": XY,
        "tile_px": 224,
        "tile_l0px": 448,
        "stride_l0px": SIDE,
        "mpp": 0.5,
        "slide_mpp": 0.25,
        "size_l0px": (9000, 5000),
        "encoder": "toy",
    }
    return FeaturesToWrite(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_what_clam_writes(tmp_path: Path) -> None:
    """Types, chunks and attributes of save_hdf5, and the tensor of torch.save."""
    path = write(tmp_path, to_write())

    assert path == tmp_path / "h5_files" / "a" / "case.h5"
    with h5py.File(path) as file:
        assert (file["features"].dtype, file["features"].chunks, file["features"].maxshape) == (
            np.float32,
            (32, 5),
            (None, 5),
        )
        assert (file["coords"].dtype, file["coords"].chunks) == (np.int32, (32, 2))
        assert [len(each.attrs) for each in (file, file["features"], file["coords"])] == [0, 0, 0]
    with h5py.File(tmp_path / "patches" / "a" / "case.h5") as file:
        said = file["coords"].attrs
        assert file["coords"].dtype == np.int64
        # What CLAM reads of the slide: so many pixels of level 0.
        assert (said["patch_size"], said["patch_level"], tuple(said["downsample"])) == (448, 0, (1.0, 1.0))
        assert tuple(said["level_dim"]) == tuple(said["downsampled_level_dim"]) == (9000, 5000)
    rows = torch.load(tmp_path / "pt_files" / "a" / "case.pt", weights_only=True)
    assert torch.equal(rows, torch.from_numpy(ROWS))


def test_another_magnification_is_not_written_over_the_first(tmp_path: Path) -> None:
    write(tmp_path, to_write())

    with pytest.raises(MismatchError, match="Name another folder for each magnification"):
        write(tmp_path, to_write(tile_l0px=896, mpp=1.0))
    write(tmp_path, to_write(rows=ROWS + 1))
    assert np.array_equal(read_rows(FeatureSource(tmp_path / "h5_files" / "a" / "case.h5")), ROWS + 1)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not finite"):
        write(tmp_path, to_write(rows=ROWS * np.nan))
    assert not list(tmp_path.rglob("*.h5"))
