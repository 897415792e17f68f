"""`trident`: features in TRIDENT's layout, one HDF5 file for each slide with the datasets `features` and `coords`.

The side of a tile and what else is known of it are attributes of `coords`. Source: `trident/IO.py` and
`trident/wsi_objects/WSI.py` of TRIDENT 0.3.1 (a91fa84). parfocal's own files are in this layout, and say the slide's
resolution.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.errors import StoreError
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
from parfocal.store.formats.written import file_name, float32_rows, growing, new_h5
from parfocal.store.h5 import opened_h5, read_rows
from parfocal.store.layout import VERSION_ATTRIBUTE, check_version, coords_attributes

_FOLDER = "features_*"
_VECTORS = "slide_features_*"


def parts(path: Path) -> Mapping[str, str | None] | None:
    """One where the file has `features`, in a folder of TRIDENT's or beside coords that say how large tiles are."""
    if fnmatchcase(path.parent.name, _VECTORS):
        return {}
    with opened_h5(path, checked=True) as file:
        coords, has_rows = file.get("coords"), isinstance(file.get("features"), h5py.Dataset)
        says = isinstance(coords, h5py.Dataset) and "patch_size_level0" in coords.attrs
        if not has_rows:
            return {} if says else None
        return {"": None} if says or fnmatchcase(path.parent.name, _FOLDER) else None


def read_places(source: FeatureSource) -> FeatureFile:
    """Read the places of a file's tiles; the rows themselves stay on disk.

    Attributes may be of any type that says a number: an integer, text, bytes, or an array whose values are alike.

    Raises:
        StoreError: it is no file in TRIDENT's layout, or its tiles lie where no slide is.
        FormatVersionError: a newer parfocal wrote it.
    """
    path = source.path
    with opened_h5(path, REMEDY) as file:
        features, coords = array_of(file, "features", path), array_of(file, "coords", path)
        n_tiles, dim = checked_rows(features, coords, path)
        said = {name: number_of(coords.attrs, name, path) for name in _ATTRIBUTES}
        if VERSION_ATTRIBUTE in file.attrs:
            check_version(file.attrs[VERSION_ATTRIBUTE], path)
        slide_mpp = number_of(file.attrs, "slide_mpp", path)
        slide = text_of(coords.attrs.get("name"))
        xy = coords[...].reshape(n_tiles, 2).astype(np.float64)
        float16 = features.dtype.itemsize == 2
    missing = [name for name in ("patch_size", "patch_size_level0") if said[name] is None]
    if missing:
        raise StoreError(
            f"cannot use {path}: coords have no attribute {' and '.join(missing)}, so tiles have no size. {REMEDY}"
        )
    tile_px = checked_tile_px(said["patch_size"], "patch_size", path)
    tile = checked_side(said["patch_size_level0"], "patch_size_level0", path)
    overlap = said["overlap"] or 0.0
    if not 0 <= overlap < tile_px:
        raise StoreError(f"cannot use {path}: overlap is {overlap:g} px of {tile_px}. {REMEDY}")
    size_l0px = (int(said["level0_width"] or 0), int(said["level0_height"] or 0))
    return FeatureFile(
        source,
        checked_places(xy, path, size_l0px),
        tile_px,
        tile,
        dim,
        stride=tile * (1 - overlap / tile_px),
        target_magnification=said["target_magnification"],
        slide_mpp=slide_mpp,
        size_l0px=size_l0px,
        float16=float16,
        slide=slide,
    )


def _read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    with opened_h5(source.path, REMEDY) as file:
        return read_rows(file)[0]


def write(folder: Path, features: FeaturesToWrite) -> Path:
    """Write what TRIDENT writes into a job's folder: the features, and the places alone in `patches`.

    Its tools compute how much of a slide a tile covers as `patch_size * level0_magnification / target_magnification`.
    The objective's magnification stands there only where that comes out right, and else 10 / mpp.
    """
    overlap_px, path = _overlap_px(features), target(folder, features).path
    into = path.parents[features.slide.count("/")]
    job = into.parent
    rows, xy = float32_rows(features), features.xy_l0px.astype(np.int64)
    power = features.objective_power
    if power is not None and round(features.tile_px * power * features.mpp / 10) != features.tile_l0px:
        power = None
    on_coords = coords_attributes(
        slide=features.slide,
        folder=job,
        tile_px=features.tile_px,
        mpp=features.mpp,
        slide_mpp=features.slide_mpp,
        size_l0px=features.size_l0px,
        objective_power=power,
        overlap_px=overlap_px,
    )
    on_coords["patch_size_level0"] = features.tile_l0px
    with new_h5(job / "patches" / f"{features.slide}_patches.h5") as file:
        growing(file, "coords", xy, 1, on_coords)
    on_features = {"name": features.slide, "savetodir": str(into), "encoder": features.encoder}
    with new_h5(path) as file:
        growing(file, "features", rows, 1, on_features)
        growing(file, "coords", xy, 1, on_coords)
    return path


def target(folder: Path, features: FeaturesToWrite) -> FeatureSource:
    """The file of features that `write` writes into a job's folder."""
    job = folder / f"{10 / features.mpp:g}x_{features.tile_px}px_{_overlap_px(features)}px_overlap"
    return FeatureSource(job / f"features_{file_name(features.encoder)}" / f"{features.slide}.h5")


def _overlap_px(features: FeaturesToWrite) -> int:
    return round((1 - features.stride_l0px / features.tile_l0px) * features.tile_px)


_ATTRIBUTES = ("patch_size", "patch_size_level0", "overlap", "target_magnification", "level0_width", "level0_height")


TRIDENT = FeatureFormat(
    "trident", (".h5",), read_places, _read_rows, parts, (_FOLDER,), write=write, target=target, by_mpp=True
)
