"""`trident`: features in TRIDENT's layout, one HDF5 file for each slide with the datasets `features` and `coords`."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.errors import StoreError
from parfocal.store.formats.format import FeatureFile, FeatureFormat
from parfocal.store.h5 import opened_h5, read_rows

_REMEDY = "Extract it again, or leave it out."
# 2.5 m of tissue at the resolution of a 40x scan: beyond any slide.
_LARGEST_L0PX = 1e7
_LARGEST_TILE_PX = 1 << 16
_NOTHING = {"", "none", "null", "nan"}
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:x|px)?")


def read_feature_file(path: Path) -> FeatureFile:
    """Read the places of a file's tiles; the rows themselves stay on disk.

    Attributes may be of any type that says a number: an integer, text, bytes, or an array whose values are alike.

    Raises:
        StoreError: it is no file in TRIDENT's layout, its tiles overlap, or lie where no slide is.
    """
    with opened_h5(path, _REMEDY) as file:
        features, coords = _dataset(file, "features", path), _dataset(file, "coords", path)
        shape, dtype = _shape(features), features.dtype
        n_tiles, *more = _shape(coords)
        if len(shape) != 2 or more != [2] or n_tiles != shape[0] or shape[1] == 0:
            raise StoreError(
                f"cannot use {path}: features are {features.shape} and coords {coords.shape}; "
                "expected are (N, D) and (N, 2)."
            )
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise StoreError(f"cannot use {path}: features are {dtype}; expected are float16, float32 or float64.")
        if coords.dtype.kind not in "iuf":
            raise StoreError(f"cannot use {path}: coords are {coords.dtype}; expected are numbers.")
        for name, dataset in (("features", features), ("coords", coords)):
            _refuse_unwritten(dataset, name, path)
        attributes = {name: _number(coords.attrs, name, path) for name in _ATTRIBUTES}
        slide_mpp = _number(file.attrs, "slide_mpp", path)
        slide = _name(coords.attrs.get("name"))
        xy_l0px = coords[...].reshape(-1, 2).astype(np.float64)
    missing = [name for name in ("patch_size", "patch_size_level0") if attributes[name] is None]
    if missing:
        raise StoreError(f"cannot use {path}: coords have no attribute {' and '.join(missing)}, so tiles have no size.")
    tile_px, tile_l0px = attributes["patch_size"] or 0.0, attributes["patch_size_level0"] or 0.0
    if tile_px != round(tile_px) or not 0 < tile_px <= _LARGEST_TILE_PX:
        raise StoreError(f"cannot use {path}: patch_size is {tile_px:g}; expected is a number of pixels.")
    if not 0 < tile_l0px <= _LARGEST_L0PX:
        raise StoreError(f"cannot use {path}: patch_size_level0 is {tile_l0px:g}; expected is a number of pixels.")
    if attributes["overlap"]:
        raise StoreError(
            f"cannot use {path}: its tiles overlap by {attributes['overlap']:g} px. Extract with overlap 0."
        )
    size_l0px = tuple(int(attributes[name] or 0) for name in ("level0_width", "level0_height"))
    _refuse_places(xy_l0px, size_l0px, path)
    return FeatureFile(
        path,
        xy_l0px,
        int(tile_px),
        tile_l0px,
        int(shape[1]),
        attributes["target_magnification"],
        slide_mpp,
        (size_l0px[0], size_l0px[1]),
        dtype.itemsize == 2,
        slide,
    )


def _read_rows(path: Path) -> Float[np.ndarray, "tile dim"]:
    with opened_h5(path, _REMEDY) as file:
        return read_rows(file)[0]


_ATTRIBUTES = ("patch_size", "patch_size_level0", "overlap", "target_magnification", "level0_width", "level0_height")


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        there = ", ".join(sorted(file)) or "nothing"
        raise StoreError(f"cannot use {path}: it has no array {name!r}, only {there}. {_REMEDY}")
    return found


def _shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Without the leading axis of one that some tools keep."""
    shape: tuple[int, ...] = dataset.shape
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape or (0,)


def _refuse_unwritten(dataset: h5py.Dataset, name: str, path: Path) -> None:
    """Refuse rows that were announced and never written: HDF5 reads them as zeros without a word."""
    if dataset.size == 0:
        return
    if dataset.chunks is None:
        written, expected = int(dataset.id.get_storage_size() > 0), 1
    else:
        written = dataset.id.get_num_chunks()
        expected = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if written < expected:
        raise StoreError(
            f"cannot use {path}: its {name} are not all there ({written} of {expected} parts are written), as after an "
            f"extraction that was stopped. {_REMEDY}"
        )


def _refuse_places(xy_l0px: Float[np.ndarray, "tile 2"], size_l0px: tuple[int, ...], path: Path) -> None:
    largest = np.array([size or _LARGEST_L0PX for size in size_l0px])
    outside = np.flatnonzero(~((xy_l0px >= 0) & (xy_l0px < largest)).all(axis=1))  # what is no number is outside too
    if len(outside):
        x, y = xy_l0px[outside[0]]
        raise StoreError(
            f"cannot use {path}: {len(outside)} of its {len(xy_l0px)} tiles lie outside of the slide, such as row "
            f"{outside[0]} at {x:g}, {y:g}. {_REMEDY}"
        )


def _number(attributes: Mapping[str, Any], name: str, path: Path) -> float | None:
    """An attribute as a number, whatever its type; None where there is none, or it says so (TRIDENT writes `None`)."""
    if name not in attributes:
        return None
    value = attributes[name]
    found = [] if isinstance(value, h5py.Empty) else {_parsed(one) for one in np.ravel(np.asarray(value)).tolist()}
    if len(found) > 1 or not all(one is None or math.isfinite(one) for one in found):
        raise StoreError(f"cannot use {path}: {name} is {_short(value)}; expected is one number. {_REMEDY}")
    return next(iter(found), None)


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


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(value: Any) -> str | None:
    """The slide that a file says it is of; None where it does not say it."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text.strip() if isinstance(text, str) and text.strip().lower() not in _NOTHING else None


TRIDENT = FeatureFormat("trident", ".h5", read_feature_file, _read_rows)
