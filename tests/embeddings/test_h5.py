"""HDF5 files that refer elsewhere, are no files, or declare what they cannot hold are one line; rows have a digest."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parfocal.embeddings.h5 import RowsDigest, count_not_finite, opened_h5, read_rows, rows_digest
from parfocal.errors import StoreError

REMEDY = "Put it back."


def plain(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        file["coords"] = np.zeros((4, 2), np.int64)


def read(path: Path) -> None:
    with opened_h5(path, REMEDY) as file:
        read_rows(file)


def elsewhere(make: Callable[[h5py.File, str], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        other = path.with_name("secret.h5")
        plain(other)
        with h5py.File(path, "w") as file:
            file["coords"] = np.zeros((4, 2), np.int64)
            make(file, str(other))

    return write


def virtual(file: h5py.File, other: str) -> None:
    layout = h5py.VirtualLayout((4, 3), np.float32)
    layout[:] = h5py.VirtualSource(other, "features", shape=(4, 3))
    file.create_virtual_dataset("features", layout)


def external(file: h5py.File, other: str) -> None:
    file.create_dataset("features", (4, 3), np.float32, external=[(other, 0, 48)])


def link(file: h5py.File, other: str) -> None:
    file["features"] = h5py.ExternalLink(other, "features")


def link_in_a_group(file: h5py.File, other: str) -> None:
    file["deep/er"] = h5py.ExternalLink(other, "/")
    file["features"] = h5py.SoftLink("/deep/er/features")


def bomb(file: h5py.File, other: str) -> None:
    file.create_dataset("features", (1 << 22, 1 << 14), np.float32, chunks=(64, 1 << 10), compression="gzip")


def text(file: h5py.File, other: str) -> None:
    file["features"] = ["a", "b"]


def group(file: h5py.File, other: str) -> None:
    file.create_group("features")


def three_columns(file: h5py.File, other: str) -> None:
    file["features"] = np.zeros((4, 3), np.float32)
    del file["coords"]
    file["coords"] = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (elsewhere(virtual), "other files"),
        (elsewhere(external), "other files"),
        (elsewhere(link), "a link to another file"),
        (elsewhere(link_in_a_group), "a link to another file"),
        (elsewhere(bomb), "declares 274.9 GB"),
        (elsewhere(text), "expected are floats"),
        (elsewhere(group), "damaged or not what it should be"),
        (elsewhere(three_columns), r"expected are numbers \(N, 2\)"),
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.symlink_to(path), "damaged or not"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: None, "absent"),
    ],
)
def test_a_file_that_is_no_whole_file_of_features_is_one_line(
    tmp_path: Path, write: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "s.h5"
    write(path)

    with pytest.raises(StoreError, match=says) as caught:
        read(path)

    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(REMEDY)
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path / "s.h5")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(StoreError, match="no permission") as caught:
        read(tmp_path / "s.h5")

    assert "damaged" not in str(caught.value)


def test_links_inside_the_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["deep/features"] = np.ones((2, 3), np.float16)
        file["features"] = h5py.SoftLink("/deep/features")
        file["coords"] = np.zeros((1, 2, 2), np.int32)

    with opened_h5(path) as file:
        features, coords = read_rows(file)

    assert (features.shape, coords.shape) == ((2, 3), (2, 2))


@settings(max_examples=30, deadline=None)
@given(
    rows=arrays(np.float16, st.tuples(st.integers(0, 12), st.integers(1, 5)), elements=st.floats(-9, 9, width=16)),
    cut=st.integers(0, 12),
    data=st.data(),
)
def test_the_digest_of_rows_depends_on_every_value_and_not_on_how_they_came(
    rows: np.ndarray, cut: int, data: st.DataObject
) -> None:
    coords = np.arange(2 * len(rows)).reshape(-1, 2)
    streamed = RowsDigest()
    streamed.add(rows[:cut])
    streamed.add(rows[cut:])
    whole = rows_digest(rows, coords)

    assert streamed.finish(coords) == whole
    if len(rows):
        at = data.draw(st.tuples(*(st.integers(0, side - 1) for side in rows.shape)))
        changed, moved = rows.copy(), coords.copy()
        changed[at] += 1
        moved[at[0], 0] += 1
        assert rows_digest(changed, coords) != whole
        assert rows_digest(rows, moved) != whole


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_that_are_not_finite_are_counted(dtype: type) -> None:
    # What is computed from rows is computed in float32, where a larger number is infinite.
    rows = np.full((5, 4), min(np.finfo(dtype).max, np.finfo(np.float32).max), dtype)
    assert count_not_finite(rows) == count_not_finite(rows[:0]) == 0
    rows[1, 2], rows[3, 0], rows[3, 1] = np.nan, np.inf, -np.inf

    assert count_not_finite(rows) == 2


def test_a_number_that_float32_does_not_hold_is_not_finite() -> None:
    assert count_not_finite(np.array([[0.0, 3.5e38], [1.0, 3.4e38]])) == 1
