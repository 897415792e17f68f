"""Slide vectors of other tools: what is read of which layout, and what is refused in one line."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.errors import ConfigError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.store import find_vector_folders, read_slide_vector

VECTOR = np.arange(1, 8, dtype=np.float32) / 4


def write(path: Path, name: str = "features", values: object = VECTOR, **attributes: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = values
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize("values", [VECTOR, VECTOR[None], VECTOR.astype(np.float16), VECTOR.astype(">f8")])
def test_a_vector_is_read_as_trident_writes_it(tmp_path: Path, values: np.ndarray) -> None:
    path = write(tmp_path / "a.h5", values=values)
    with h5py.File(path, "a") as file:
        file["coords"] = np.zeros((50, 2), np.int64)  # of the tiles that it was made of

    found = read_slide_vector(path)

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTOR)  # quarters are exact in every type


def test_a_vector_is_read_as_trident_chunks_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=VECTOR, chunks=(1,), maxshape=(None,))

    np.testing.assert_array_equal(read_slide_vector(tmp_path / "a.h5"), VECTOR)


def test_a_slide_of_stamp_is_read_and_a_patient_or_tiles_are_not(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.h5", "feats", VECTOR[None], feat_type="slide", encoder="cobra", stamp_version="2.4.0")
    patient = write(tmp_path / "p.h5", "feats", VECTOR[None], feat_type="patient")
    tile = write(tmp_path / "t.h5", "feats", VECTOR[None], feat_type="tile")

    np.testing.assert_array_equal(read_slide_vector(slide), VECTOR)
    with pytest.raises(StoreError, match=r"p\.h5: it says that it is of a patient"):
        read_slide_vector(patient)
    with pytest.raises(StoreError, match="of a tile"):
        read_slide_vector(tile)


def unwritten(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (7,), "f4", chunks=(1,))[:3] = VECTOR[:3]
    return path


def link_to_nothing(path: Path) -> Path:
    path.symlink_to(path.with_name("gone.h5"))
    return path


def empty_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: write(path, values=np.ones((9, 7), np.float32)), r"shape \(9, 7\).*for `parfocal index`"),
        (lambda path: write(path, values=np.float32(2)), r"shape \(\)"),
        (lambda path: write(path, values=np.arange(7)), "are int64"),
        (lambda path: write(path, values=np.ones(0, np.float32)), "are empty"),
        (lambda path: write(path, "embedding"), "no array 'features' or 'feats', only embedding"),
        (unwritten, "not all there"),
        (link_to_nothing, "it is absent"),
        (empty_file, "damaged or no HDF5"),
        (lambda path: path.mkdir() or path, "no regular file"),
    ],
)
def test_what_is_no_vector_of_a_slide_is_one_line_that_names_the_file(tmp_path: Path, make: object, said: str) -> None:
    path = make(tmp_path / "bad.h5")  # type: ignore[operator]

    with pytest.raises(StoreError, match=said) as caught:
        read_slide_vector(path)

    assert "bad.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_error_of_their_own(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "a.h5", values=np.append(VECTOR, np.float32(value)))

    with pytest.raises(NotFiniteError, match="1 of its 8 values"):
        read_slide_vector(path)


def test_values_beyond_float32_are_not_made_infinite(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"a\.h5: 1 of"):
        read_slide_vector(write(tmp_path / "a.h5", values=np.array([1e300, 1.0])))


def test_folders_are_found_in_a_job_and_called_by_their_encoder(tmp_path: Path) -> None:
    job = tmp_path / "job"
    write(job / "20x_512px_0px_overlap" / "slide_features_titan" / "a.h5")
    write(job / "20x_256px_0px_overlap" / "slide_features_prism" / "b.h5")
    write(job / "20x_256px_0px_overlap" / "features_uni_v1" / "a.h5", values=np.ones((3, 2), np.float32))
    write(tmp_path / "stamp" / "ward" / "c.h5", "feats", feat_type="slide")

    found = {one.name: list(one.files) for one in find_vector_folders([job, tmp_path / "stamp"])}

    assert found == {"titan": ["a"], "prism": ["b"], "stamp": ["ward/c"]}
    # By its own name and by that of its job it is one folder.
    again = find_vector_folders([job, job / "20x_512px_0px_overlap" / "slide_features_titan"])
    assert sorted(one.name for one in again) == ["prism", "titan"]


def test_two_folders_of_one_encoder_are_told_apart_by_the_one_above(tmp_path: Path) -> None:
    for mag in (10, 20):
        write(tmp_path / f"{mag}x" / "slide_features_titan" / "a.h5")
        write(tmp_path / "other" / f"{mag}x" / "slide_features_titan" / "a.h5")

    found = find_vector_folders([tmp_path / "10x", tmp_path / "20x"])

    assert [one.name for one in found] == ["10x/titan", "20x/titan"]
    with pytest.raises(ConfigError, match=r"'10x/titan'.*Rename one"):
        find_vector_folders([tmp_path / "10x", tmp_path / "other" / "10x"])


def test_other_files_are_passed_over_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    for name in ("a.pt", "b.pt", "log.txt", ".hidden.pt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "above").symlink_to(tmp_path)

    with pytest.warns(ParfocalWarning, match=r"3 files of other kinds .* \(\.pt 2, \.txt 1\)"):
        (found,) = find_vector_folders([tmp_path])

    assert list(found.files) == ["a"]


@pytest.mark.parametrize(
    ("name", "said"), [("absent", "is no folder"), ("empty", "no slide vectors"), ("loose", "link")]
)
def test_a_folder_without_vectors_is_one_line(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    os.symlink(tmp_path / "gone", tmp_path / "loose")

    with pytest.raises(StoreError, match=said):
        find_vector_folders([tmp_path / name])
