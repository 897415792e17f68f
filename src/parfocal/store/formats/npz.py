"""Arrays in NumPy's files: what they hold is seen in their heads, and nothing in them is unpickled."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from parfocal.errors import StoreError
from parfocal.files import check_permission

# What numpy and zipfile raise on files that are cut, damaged or something else.
_FOREIGN = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def names_in(path: Path) -> frozenset[str]:
    """The names of a file's arrays; none where it is no archive of arrays.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return frozenset()


def look_at(path: Path, name: str, remedy: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of an array of an archive; its values stay on disk.

    Raises:
        StoreError: the file is absent or damaged, has no such array, or is too short for it.
    """
    with _opened(path, name, remedy) as (file, n_bytes):
        shape, dtype = _head(file)
        # An archive says how long each of its files is, which is all that can follow.
        if n_bytes - file.tell() != dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise ValueError(f"{name} is cut")
        return shape, dtype


def read(path: Path, name: str, remedy: str) -> Shaped[np.ndarray, "..."]:
    """An array of an archive.

    Raises:
        StoreError: the file is absent or damaged, or has no such array.
    """
    look_at(path, name, remedy)
    with _opened(path, name, remedy) as (file, _):
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def read_single(path: Path, remedy: str) -> Shaped[np.ndarray, "..."]:
    """The array of a `.npy` file.

    Raises:
        StoreError: the file is absent or damaged.
    """
    with _reported(path, remedy):
        return np.asarray(np.load(path, allow_pickle=False))


@contextmanager
def _opened(path: Path, name: str, remedy: str) -> Iterator[tuple[zipfile.ZipExtFile, int]]:
    """An array's own file within an archive, and its length."""
    with _reported(path, remedy), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            there = ", ".join(sorted(names_in(path))) or "nothing"
            raise StoreError(f"cannot use {path}: it has no array {name!r}, only {there}. {remedy}")
        with archive.open(f"{name}.npy") as file:
            assert isinstance(file, zipfile.ZipExtFile)
            yield file, archive.getinfo(f"{name}.npy").file_size


@contextmanager
def _reported(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"cannot read {path}: it is absent. {remedy}") from error
    except _FOREIGN as error:
        check_permission(error, path)
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"cannot read {path}: it is damaged or no file of arrays ({text}). {remedy}") from error


def _head(file: zipfile.ZipExtFile) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_head is None:
        raise ValueError(f"NumPy's format {version[0]}.{version[1]} is not known")
    shape, _, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which are not unpickled")
    return shape, dtype
