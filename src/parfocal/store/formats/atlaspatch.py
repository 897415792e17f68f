"""`atlaspatch`: features in AtlasPatch's layout, one HDF5 file for each slide with those of several encoders.

The places are `coords`, (N, 5): x and y in level-0 pixels, then how the tile was read; the rows are
`features/<encoder>`. The side of a tile and what else is known of it are attributes of the file. Source: AtlasPatch
1.0.0.post5 (31146af), `atlas_patch/services/storage.py`, `services/extraction.py`, `core/wsi/iwsi.py` (the slide's
attributes) and `utils/features.py` (which arrays of a file count).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.errors import FormatVersionError, MismatchError, StoreError
from parfocal.store.formats.checks import (
    REMEDY,
    array_of,
    checked_places,
    checked_rows,
    checked_side,
    checked_tile_px,
    number_of,
    text_of,
)
from parfocal.store.formats.format import FeatureFile, FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.store.formats.written import file_name, float32_rows, growing, new_h5, nominal_magnification
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import set_attributes
from parfocal.version import __version__

NEWEST = 2
"""The newest `passport_version` that is known."""

_FOLDER, _GROUP, _UNFINISHED = "patches", "features", "__tmp_"
_WIDTH = 5
_OURS = "parfocal_version"
_PASSPORT = "{stem}__x{X}_y{Y}_rw{RW}_rh{RH}_lv{LV}_mag{MAG}_tmag{TMAG}_total{TOTAL}"
# Its `write_batch` and `feature_batch_size`, which become the chunks.
_CHUNK_ROWS, _FEATURE_CHUNK_ROWS = 8192, 32


def parts(path: Path) -> Mapping[str, str | None] | None:
    """One for each encoder that is done, where the file has (N, 5) `coords` and says how large tiles are."""
    with opened_h5(path, checked=True) as file:
        coords, group = file.get("coords"), file.get(_GROUP)
        is_one = isinstance(coords, h5py.Dataset) and coords.shape is not None and coords.shape[-1:] == (_WIDTH,)
        if not is_one or "patch_size_level0" not in file.attrs:
            return None
        if not isinstance(group, h5py.Group):
            return {}
        return {name: name for name in group if not name.startswith(_UNFINISHED)}


def read_places(source: FeatureSource) -> FeatureFile:
    """Read the places of an encoder's tiles; the rows themselves stay on disk.

    Raises:
        StoreError: it is no file in AtlasPatch's layout, or its tiles lie where no slide is.
        FormatVersionError: it was written by a newer version than is known.
    """
    path = source.path
    with opened_h5(path, REMEDY) as file:
        _check_version(file.attrs, path)
        features, coords = _arrays(file, source)
        n_tiles, dim = checked_rows(features, coords, path, _WIDTH)
        said = {name: number_of(file.attrs, name, path) for name in _ATTRIBUTES}
        slide_file = text_of(file.attrs.get("filename")) or text_of(file.attrs.get("wsi_path"))
        is_ours = _OURS in file.attrs
        xy = coords[...].reshape(n_tiles, _WIDTH)[:, :2].astype(np.float64)
        float16 = features.dtype.itemsize == 2
    tile_px = checked_tile_px(said["patch_size"], "patch_size", path)
    tile = checked_side(said["patch_size_level0"], "patch_size_level0", path)
    overlap = said["overlap"] or 0.0
    if not 0 <= overlap < tile_px:
        raise StoreError(f"cannot use {path}: overlap is {overlap:g} px of {tile_px}. {REMEDY}")
    size_l0px = (int(said["level0_width"] or 0), int(said["level0_height"] or 0))
    mpp, power, remark = said["mpp"], said["magnification"] or said["level0_magnification"], ""
    # AtlasPatch also writes this number where a slide says nothing but its objective, and that is no resolution.
    if mpp is not None and power and not is_ours and mpp == round(10 / power, 4):
        mpp, remark = None, f"its mpp, {mpp:g}, may only stand for an objective of {power:g}x, and is not used"
    return FeatureFile(
        source,
        checked_places(xy, path, size_l0px),
        tile_px,
        tile,
        dim,
        # Of tiles that stand apart it says that they do not overlap.
        stride=tile * (1 - overlap / tile_px) if overlap else None,
        target_magnification=said["target_magnification"],
        slide_mpp=mpp,
        size_l0px=size_l0px,
        float16=float16,
        slide=PureWindowsPath(slide_file).name if slide_file else None,
        remark=remark,
    )


def read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    """The rows of an encoder.

    Raises:
        StoreError: they cannot be read.
    """
    with opened_h5(source.path, REMEDY) as file:
        features, coords = _arrays(file, source)
        rows: np.ndarray = features[...].reshape(checked_rows(features, coords, source.path, _WIDTH))
        return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def write(folder: Path, features: FeaturesToWrite) -> Path:
    """Write what AtlasPatch writes into its output folder, at one magnification; another encoder is added to a file.

    Tiles are said to be read from level 0, as nothing is known of the slide's other levels; AtlasPatch's tools shrink
    what they read there to `patch_size`.

    Raises:
        MismatchError: the file is there, with other tiles.
    """
    rows, source = float32_rows(features), target(folder, features)
    path = source.path
    side, level = features.tile_l0px, 0
    coords = np.zeros((len(rows), _WIDTH), dtype=np.int32)
    coords[:, :2], coords[:, 2:] = features.xy_l0px, (side, side, level)
    before = path if path.exists() else None
    if before is not None:
        _refuse_other(path, coords, features)
    with new_h5(path, before) as file:
        if before is None:
            attributes = _file_attributes(features)
            growing(file, "coords", coords, _CHUNK_ROWS)
            growing(file, "passports", _passports(coords, features, attributes), _CHUNK_ROWS)
            set_attributes(file, attributes)
        group, name = file.require_group(_GROUP), source.part
        if name in group:
            del group[name]
        growing(group, name, rows, _FEATURE_CHUNK_ROWS)
    return path


def target(folder: Path, features: FeaturesToWrite) -> FeatureSource:
    """The features of an encoder that `write` writes into a file of a folder of output."""
    return FeatureSource(folder / _FOLDER / f"{features.slide}.h5", file_name(features.encoder).lower())


def _arrays(file: h5py.File, source: FeatureSource) -> tuple[h5py.Dataset, h5py.Dataset]:
    group = file.get(_GROUP)
    if not isinstance(group, h5py.Group) or source.part not in group:
        raise StoreError(f"cannot use {source.path}: it has no features of {source.part!r}. {REMEDY}")
    return array_of(group, source.part, source.path), array_of(file, "coords", source.path)


def _check_version(attributes: Mapping[str, Any], path: Path) -> None:
    version = number_of(attributes, "passport_version", path)
    if version is not None and version > NEWEST:
        raise FormatVersionError(
            f"cannot use {path}: its passport_version is {version:g}, and this parfocal knows up to {NEWEST}. "
            "Install a newer parfocal."
        )


def _file_attributes(features: FeaturesToWrite) -> dict[str, Any]:
    power = round(features.objective_power or nominal_magnification(features.slide_mpp))
    slide_file = Path(features.slide_path).name if features.slide_path else features.slide
    return {
        "patch_size": features.tile_px,
        "patch_size_level0": features.tile_l0px,
        "level0_magnification": power,
        "target_magnification": nominal_magnification(features.mpp),
        "overlap": round((1 - features.stride_l0px / features.tile_l0px) * features.tile_px),
        "level0_width": features.size_l0px[0],
        "level0_height": features.size_l0px[1],
        "wsi_path": features.slide_path or "",
        "passport_format": _PASSPORT,
        "passport_version": NEWEST,
        "creation_date": datetime.now(UTC).isoformat(),
        "filename": slide_file,
        "mpp": features.slide_mpp,
        "magnification": power,
        "num_patches": len(features.rows),
        _OURS: __version__,
    }


def _passports(coords: np.ndarray, features: FeaturesToWrite, attributes: Mapping[str, Any]) -> np.ndarray:
    """The name of each tile, in at most 160 bytes."""
    stem = features.slide.rpartition("/")[2]
    ends = f"mag{attributes['level0_magnification']}_tmag{attributes['target_magnification']}_total{len(coords)}"
    names = [f"{stem}__x{x}_y{y}_rw{w}_rh{h}_lv{level}_{ends}" for x, y, w, h, level in coords.tolist()]
    return np.array([name.encode() for name in names], dtype="S160")


def _refuse_other(path: Path, coords: np.ndarray, features: FeaturesToWrite) -> None:
    with opened_h5(path, REMEDY) as file:
        found = array_of(file, "coords", path)[...]
    if not np.array_equal(found, coords):
        raise MismatchError(
            f"cannot write {features.slide} at {features.mpp:g} mpp to {path}: it holds other tiles. "
            "Name another folder for each magnification."
        )


_ATTRIBUTES = (
    "patch_size",
    "patch_size_level0",
    "overlap",
    "target_magnification",
    "level0_magnification",
    "level0_width",
    "level0_height",
    "magnification",
    "mpp",
)


ATLASPATCH = FeatureFormat(
    "atlaspatch", (".h5",), read_places, read_rows, parts, (_FOLDER,), write=write, target=target
)
