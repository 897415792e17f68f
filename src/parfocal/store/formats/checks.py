"""What every format asks of the arrays and numbers in a file before it believes them; one line says what is wrong."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float64

from parfocal.errors import StoreError

REMEDY = "Extract it again, or leave it out."
# 2.5 m of tissue at the resolution of a 40x scan: beyond any slide.
_LARGEST_SIDE = 1e7
_LARGEST_TILE_PX = 1 << 16
_NOTHING = {"", "none", "null", "nan"}
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:x|px)?")


def array_of(file: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """An array of a file, by name.

    Raises:
        StoreError: there is none.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        there = ", ".join(sorted(file)) or "nothing"
        raise StoreError(f"cannot use {path}: it has no array {name!r}, only {there}. {REMEDY}")
    return found


def checked_rows(features: h5py.Dataset, coords: h5py.Dataset, path: Path, width: int = 2) -> tuple[int, int]:
    """How many rows there are and how wide they are, of arrays that belong together; the rows stay on disk.

    Args:
        features: the rows; a leading axis of one, which some tools keep, does not count.
        coords: a place for each.
        path: of the file.
        width: how many numbers a place has.

    Raises:
        StoreError: they do not belong together, are of another type, or were announced and never written.
    """
    (n_tiles, *more), shape, dtype = _shape(coords), _shape(features), features.dtype
    names = features.name.rpartition("/")[2], coords.name.rpartition("/")[2]
    if len(shape) != 2 or more != [width] or n_tiles != shape[0] or shape[1] == 0:
        raise StoreError(
            f"cannot use {path}: {names[0]} are {features.shape} and {names[1]} {coords.shape}; "
            f"expected are (N, D) and (N, {width}). {REMEDY}"
        )
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise StoreError(
            f"cannot use {path}: {names[0]} are {dtype}; expected are float16, float32 or float64. {REMEDY}"
        )
    if coords.dtype.kind not in "iuf":
        raise StoreError(f"cannot use {path}: {names[1]} are {coords.dtype}; expected are numbers. {REMEDY}")
    for name, dataset in zip(names, (features, coords), strict=True):
        _refuse_unwritten(dataset, name, path)
    return shape[0], shape[1]


def checked_places(
    xy: Float64[np.ndarray, "tile 2"], path: Path, size: tuple[int, int] = (0, 0)
) -> Float64[np.ndarray, "tile 2"]:
    """The places, all of which are on a slide of this size; 0 where it is not known.

    Raises:
        StoreError: one is not.
    """
    largest = np.array([side or _LARGEST_SIDE for side in size])
    outside = np.flatnonzero(~((xy >= 0) & (xy < largest)).all(axis=1))  # what is no number is outside too
    if len(outside):
        x, y = xy[outside[0]]
        raise StoreError(
            f"cannot use {path}: {len(outside)} of its {len(xy)} tiles lie outside of the slide, such as row "
            f"{outside[0]} at {x:g}, {y:g}. {REMEDY}"
        )
    return xy


def checked_tile_px(value: float | None, name: str, path: Path) -> int:
    """The side of a tile in its own pixels.

    Raises:
        StoreError: no tile has it.
    """
    if value is None or value != round(value) or not 0 < value <= _LARGEST_TILE_PX:
        raise StoreError(f"cannot use {path}: {name} is {_said(value)}; expected is a number of pixels. {REMEDY}")
    return int(value)


def checked_side(value: float | None, name: str, path: Path) -> float:
    """The side of a tile, or the distance of two, in the file's unit.

    Raises:
        StoreError: no tile has it.
    """
    if value is None or not 0 < value <= _LARGEST_SIDE:
        raise StoreError(f"cannot use {path}: {name} is {_said(value)}; expected is the side of a tile. {REMEDY}")
    return float(value)


def number_of(attributes: Mapping[str, Any], name: str, path: Path) -> float | None:
    """An attribute as a number, whatever its type; None where there is none, or it says so (TRIDENT writes `None`).

    Raises:
        StoreError: it is something else.
    """
    if name not in attributes:
        return None
    value = attributes[name]
    found = [] if isinstance(value, h5py.Empty) else {_parsed(one) for one in np.ravel(np.asarray(value)).tolist()}
    if len(found) > 1 or not all(one is None or math.isfinite(one) for one in found):
        raise StoreError(f"cannot use {path}: {name} is {_short(value)}; expected is one number. {REMEDY}")
    return next(iter(found), None)


def parts_written(dataset: h5py.Dataset) -> tuple[int, int]:
    """How many parts of an array are in its file, and how many it has: HDF5 reads the rest as zeros without a word."""
    if dataset.size == 0:
        return 0, 0
    if dataset.chunks is None:
        return int(dataset.id.get_storage_size() > 0), 1
    n_parts = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return min(dataset.id.get_num_chunks(), n_parts), n_parts


def text_of(value: Any) -> str | None:
    """An attribute as text; None where it says nothing."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text.strip() if isinstance(text, str) and text.strip().lower() not in _NOTHING else None


def _shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Without the leading axis of one that some tools keep."""
    shape: tuple[int, ...] = dataset.shape
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape or (0,)


def _refuse_unwritten(dataset: h5py.Dataset, name: str, path: Path) -> None:
    written, expected = parts_written(dataset)
    if written < expected:
        raise StoreError(
            f"cannot use {path}: its {name} are not all there ({written} of {expected} parts are written), as after an "
            f"extraction that was stopped. {REMEDY}"
        )


def _parsed(value: Any) -> float | None:
    """A single value as a number; infinite where it is none."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if isinstance(text, str):
        text = text.strip().strip("\0").lower()
        if text in _NOTHING:
            return None
        match = _NUMBER.fullmatch(text)
        return float(match.group(1)) if match else math.inf
    if isinstance(text, int | float | np.floating):
        return None if math.isnan(text) else float(text)
    return None if text is None else math.inf


def _said(value: float | None) -> str:
    return "absent" if value is None else f"{value:g}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
