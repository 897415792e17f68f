"""HDF5 files that refer elsewhere, are no files, declare what they cannot hold or have changed are one line."""

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import StoreError
from parfocal.store.disk import new_file
from parfocal.store.h5 import (
    SEAL_BYTES,
    attributes_of,
    check_seal,
    count_not_finite,
    file_digest,
    opened_h5,
    read_rows,
    values_of,
)

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


KINDS = {
    "number": 1.5,
    "whole": np.uint8(3),
    "yes": True,
    "text": "\u00fc",
    "ascii": np.array("q", h5py.string_dtype("ascii")),
    "bytes": np.bytes_(b"abc"),
    "broken": np.array(b"\xff", h5py.string_dtype()),
    "texts": ["a", "b"],
    "rows": np.ones((2, 3), np.float16),
    "none": np.zeros((0, 2)),
    "others": np.arange(3, dtype=">f4"),
    "complex": np.array([1 + 2j]),
    "empty": h5py.Empty("f"),
}


def test_attributes_and_values_of_all_kinds_are_those_that_h5py_gives(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for name, value in KINDS.items():
            file[name] = file.attrs[name] = value
        file.create_dataset("unwritten", (3,), "f4", chunks=(2,))

        attributes = attributes_of(file)
        assert list(attributes) == list(file.attrs)
        assert list(attributes_of(file, ("absent", "text", "none"))) == ["text", "none"]
        for name, value in attributes.items():
            expected = file.attrs[name]
            expected = expected.item() if isinstance(expected, np.generic) else expected
            assert type(value) is type(expected)
            assert np.array_equal(value, expected) or name == "empty"
        for name in file:
            expected = file[name][...]
            assert type(values_of(file, name)) is type(expected)
            assert name == "empty" or values_of(file, name).dtype == expected.dtype
            assert name == "empty" or np.array_equal(values_of(file, name), expected)


def sealed(folder: Path, *, seed: int = 0, name: str = "s.h5") -> tuple[Path, str]:
    """A file as a store writes it, and its digest."""
    path = folder / name
    with ExitStack() as stack:
        file = new_file(stack, path)
        file["features"] = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float16)
        file["coords"] = np.zeros((5, 2), np.int64)
    return path, file.digest


def foreign(folder: Path, *, seed: int = 0, name: str = "s.h5") -> tuple[Path, str]:
    """A file as another tool writes it, and the digest that an index has of it."""
    path = folder / name
    plain(path)
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] = seed
    return path, file_digest(path)


@settings(max_examples=60)
@given(make=st.sampled_from([sealed, foreign]), data=st.data())
def test_a_changed_byte_is_refused_before_hdf5_sees_it(
    tmp_path_factory: pytest.TempPathFactory, make: Callable[..., tuple[Path, str]], data: st.DataObject
) -> None:
    path, digest = make(tmp_path_factory.mktemp("seal"))
    whole = path.read_bytes()
    first = 80 if make is sealed else 0  # of the userblock, the text counts
    at = data.draw(st.integers(0, first) | st.integers(SEAL_BYTES if make is sealed else 0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole) - 1))

    for spoilt in (bytes(changed), whole[:cut]):
        path.write_bytes(spoilt)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(h5py, "File", not_opened)
            with pytest.raises(StoreError) as caught, opened_h5(path, REMEDY, digest=digest):
                pass
        assert str(path) in str(caught.value)
        assert str(caught.value).endswith(REMEDY)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    with opened_h5(path, REMEDY, digest=digest) as file:
        assert len(read_rows(file)[0])


def not_opened(*_: object, **__: object) -> None:
    raise AssertionError("HDF5 opens a file that is damaged")


@pytest.mark.parametrize("make", [sealed, foreign])
def test_a_file_in_the_place_of_another_is_refused(tmp_path: Path, make: Callable[..., tuple[Path, str]]) -> None:
    _, digest = make(tmp_path)
    other, _ = make(tmp_path, seed=1, name="t.h5")

    with pytest.raises(StoreError, match=r"not the file that its index|changed since it was indexed"):
        check_seal(other, REMEDY, digest)
    check_seal(other, REMEDY)


def test_the_seal_says_which_file_it_is_without_its_rows_being_read(tmp_path: Path) -> None:
    path, digest = sealed(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    check_seal(path, REMEDY, digest, whole=False)
    with pytest.raises(StoreError, match="changed since it was written"):
        check_seal(path, REMEDY, digest)
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="changed since it was written"):
        check_seal(path, REMEDY, digest, whole=False)


def test_a_seal_is_text_that_readers_of_hdf5_skip(tmp_path: Path) -> None:
    path, digest = sealed(tmp_path)

    assert path.read_bytes().startswith(f"parfocal seal 1: {digest}\n\0".encode())
    assert digest == f"{hashlib.sha256(path.read_bytes()[512:]).hexdigest()}-{path.stat().st_size - 512}"
    with h5py.File(path) as file:
        assert file.userblock_size == SEAL_BYTES
        assert file["features"].shape == (5, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_that_are_not_finite_are_counted(dtype: type) -> None:
    # What is computed from rows is computed in float32, where a larger number is infinite.
    rows = np.full((5, 4), min(np.finfo(dtype).max, np.finfo(np.float32).max), dtype)
    assert count_not_finite(rows) == count_not_finite(rows[:0]) == 0
    rows[1, 2], rows[3, 0], rows[3, 1] = np.nan, np.inf, -np.inf

    assert count_not_finite(rows) == 2


def test_a_number_that_float32_does_not_hold_is_not_finite() -> None:
    assert count_not_finite(np.array([[0.0, 3.5e38], [1.0, 3.4e38]])) == 1
