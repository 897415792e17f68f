"""How files of other tools' layouts are written: whole or not at all, and under names that a path can have."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Float32

from parfocal.errors import MismatchError
from parfocal.files import writing
from parfocal.store.files import as_stored
from parfocal.store.formats.format import FeaturesToWrite
from parfocal.store.layout import set_attributes

_NO_NAME = re.compile(r'[\s/\\:*?"<>|]+')


@contextmanager
def new_h5(path: Path, before: Path | None = None) -> Iterator[h5py.File]:
    """An HDF5 file that becomes `path` when the block ends well.

    It is made in memory, where its rows are already: HDF5 cannot close a file whose disk is full. It has no seal of
    ours, as other tools add to their files.

    Args:
        path: the file.
        before: a file that it begins as; empty where None.
    """
    made = h5py.File(path.name, "w", driver="core", backing_store=False) if before is None else _copy(before)
    with made as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    with writing(path) as temporary:
        temporary.write_bytes(content)


def _copy(path: Path) -> h5py.File:
    return h5py.File.in_memory(path.read_bytes())


def growing(
    file: h5py.Group, name: str, values: np.ndarray, chunk_rows: int, attributes: Mapping[str, Any] | None = None
) -> None:
    """Add an array that can grow by rows, in chunks of so many of them, with attributes of its own."""
    shape = (chunk_rows, *values.shape[1:])
    dataset = file.create_dataset(name, data=values, chunks=shape, maxshape=(None, *values.shape[1:]))
    set_attributes(dataset, attributes or {})


def float32_rows(features: FeaturesToWrite) -> Float32[np.ndarray, "tile dim"]:
    """The rows as float32, which all values fit.

    Raises:
        StoreError: a value is not finite.
    """
    return _rows(features, "float32").astype(np.float32, copy=False)


def float16_rows(features: FeaturesToWrite) -> Float[np.ndarray, "tile dim"]:
    """The rows as float16.

    Raises:
        StoreError: a value is not finite, or does not fit.
    """
    return _rows(features, "float16")


def _rows(features: FeaturesToWrite, dtype: str) -> Float[np.ndarray, "tile dim"]:
    return as_stored(features.rows, np.dtype(dtype), f"the rows of {features.slide}")


def file_name(text: str) -> str:
    """A name, such as an encoder's, as a part of a path."""
    return _NO_NAME.sub("_", text).strip(".") or "_"


def nominal_magnification(mpp: float) -> int:
    """The whole magnification that 10 / mpp is nearest to; at least 1."""
    return max(1, round(10 / mpp))


def refuse_other_tiles(path: Path, found: float, features: FeaturesToWrite, expected: float) -> None:
    """Refuse to write over the features of another magnification, which most tools keep in a folder of its own.

    Args:
        path: the file that is there.
        found: the side of its tiles.
        features: what would be written.
        expected: the side of its tiles, in the same unit.

    Raises:
        MismatchError: the sides differ.
    """
    if abs(found - expected) > 0.01 * expected:
        raise MismatchError(
            f"cannot write {features.slide} at {features.mpp:g} mpp to {path}: it holds tiles of side {found:g}, not "
            f"of {expected:g}. Name another folder for each magnification."
        )
