"""`stamp`: features in STAMP's layout, one HDF5 file for each slide with the datasets `feats` and `coords`.

Places are in micrometres, so a slide's resolution is asked for only to name its pixels. Sources: STAMP 2.5.0 (c54ce06),
`src/stamp/preprocessing/__init__.py` for what is written, `get_coords` of `src/stamp/modeling/data.py` for how it is
read, older versions included; STAMP 2.0.0 for files without `tile_size_px`; STAMP 1.1.1,
`stamp/preprocessing/helpers/feature_extractors.py`, for files of version 1 and their `info.json`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Float64

from parfocal.errors import FormatVersionError, StoreError
from parfocal.files import digest8
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
from parfocal.store.formats.written import file_name, float16_rows, new_h5, refuse_other_tiles
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import set_attributes

NEWEST = 2
"""The newest major version of STAMP whose files are known."""

# The first version whose files have all that is written here: STAMP refuses files of versions above its own.
_WRITTEN_AS = "2.3.0"
# STAMP calls a folder by the encoder and the digest of the code that has made it.
_FOLDER = "*-" + 8 * "[0-9a-f]"
_CODE = digest8("parfocal")
_HASH = re.compile(r"-[0-9a-fA-F]{6,}$")
_VERSION_1 = re.compile(r"^STAMP-extract-[^_]*_")
# What STAMP takes for granted of a file of version 1, and of the tiles of 2.0.
_SIDE_UM, _SIDE_PX = 256.0, 224


def parts(path: Path) -> Mapping[str, str | None] | None:
    """One where the file has `feats` and `coords`; none where it holds the vector of a slide or a patient."""
    with opened_h5(path, checked=True) as file:
        if not isinstance(file.get("feats"), h5py.Dataset):
            return None
        if text_of(file.attrs.get("feat_type", "tile")) != "tile" or "encoder" in file.attrs:
            return {}
        extractor = text_of(file.attrs.get("extractor"))
        return {"": extractor and _encoder(extractor)} if "coords" in file else None


def read_places(source: FeatureSource) -> FeatureFile:
    """Read the places of a file's tiles, in micrometres; the rows themselves stay on disk.

    Raises:
        StoreError: it is no file of tiles in STAMP's layout, or does not say how large they are.
        FormatVersionError: it was written by a newer version than is known.
    """
    path = source.path
    with opened_h5(path, REMEDY) as file:
        feats, coords = array_of(file, "feats", path), array_of(file, "coords", path)
        _check_version(file.attrs, path)
        n_tiles, dim = checked_rows(feats, coords, path)
        said = {name: number_of(file.attrs, name, path) for name in ("tile_size", "tile_size_um", "tile_size_px")}
        in_um, extractor = text_of(file.attrs.get("unit")) == "um", text_of(file.attrs.get("extractor"))
        xy = coords[...].reshape(n_tiles, 2).astype(np.float64)
        float16 = feats.dtype.itemsize == 2
    tile_px, remark = said["tile_size_px"], ""
    tile_um = (said["tile_size"] if in_um else None) or said["tile_size_um"]
    if tile_um is None:
        tile_um, tile_px, remark = _of_version_1(path, xy, said["tile_size"], extractor)
        xy = xy / tile_px * tile_um
    elif tile_px is None:
        tile_px, remark = _SIDE_PX, f"tiles of STAMP 2.0 are taken to have {_SIDE_PX} px, which it does not say"
    return FeatureFile(
        source,
        checked_places(xy, path),
        checked_tile_px(float(tile_px), "tile_size_px", path),
        checked_side(tile_um, "tile_size_um", path),
        dim,
        unit="um",
        float16=float16,
        remark=remark,
    )


def read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    """The rows of a file.

    Raises:
        StoreError: it cannot be read.
    """
    with opened_h5(source.path, REMEDY) as file:
        feats, coords = array_of(file, "feats", source.path), array_of(file, "coords", source.path)
        rows: np.ndarray = feats[...].reshape(checked_rows(feats, coords, source.path))
        return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def write(folder: Path, features: FeaturesToWrite) -> Path:
    """Write what STAMP writes into its output folder, at one magnification; places are in micrometres.

    The file says that it is of STAMP 2.3.0, the first version that writes all of its attributes, so that this and every
    later one takes it.

    Raises:
        StoreError: a value does not fit float16, which is what STAMP stores.
        MismatchError: the file is there, at another magnification.
    """
    rows, tile_um = float16_rows(features), features.tile_px * features.mpp
    path = target(folder, features).path
    if path.exists():
        refuse_other_tiles(path, read_places(FeatureSource(path)).tile, features, tile_um)
    with new_h5(path) as file:
        file["coords"] = (features.xy_l0px * features.slide_mpp).astype(np.float32)
        file["feats"] = rows
        set_attributes(
            file,
            {
                "stamp_version": _WRITTEN_AS,
                "extractor": features.encoder,
                "unit": "um",
                "tile_size_um": tile_um,
                "tile_size_px": features.tile_px,
                "code_hash": _CODE,
                "feat_type": "tile",
            },
        )
    return path


def target(folder: Path, features: FeaturesToWrite) -> FeatureSource:
    """The file that `write` writes into a folder of output."""
    return FeatureSource(folder / f"{file_name(features.encoder)}-{_CODE}" / f"{features.slide}.h5")


def _encoder(extractor: str) -> str:
    """Without the digests and the version of STAMP that older versions add to the name."""
    return _HASH.sub("", _VERSION_1.sub("", extractor))


def _check_version(attributes: Mapping[str, Any], path: Path) -> None:
    version = text_of(attributes.get("stamp_version"))
    match = re.match(r"\d+", version or "0")
    if match is None:
        raise StoreError(f"cannot use {path}: its stamp_version is {version!r}; expected is a number. {REMEDY}")
    if int(match[0]) > NEWEST:
        raise FormatVersionError(
            f"cannot use {path}: it is of STAMP {version}, and this parfocal knows files up to STAMP {NEWEST}. "
            "Install a newer parfocal."
        )


def _of_version_1(
    path: Path, xy: Float64[np.ndarray, "tile 2"], tile_size: float | None, extractor: str | None
) -> tuple[float, int, str]:
    """Side of a tile in micrometres and in the pixels that the places of a file of version 1 count.

    STAMP's own reader knows such a file by tiles that are 224 px apart, and takes them to be 256 um. They are what
    `info.json` beside the file says, where it is there.

    Raises:
        StoreError: tiles are some other distance apart, so that nothing says how large they are.
    """
    side_um, side_px = _SIDE_UM, _SIDE_PX
    remark = f"tiles of STAMP 1 are taken to be {side_um:g} um of {side_px} px, as STAMP does"
    info = _info(path.parent / "info.json")
    if info is not None:
        side_um, side_px = info
        remark = ""
    apart = tile_size or _smallest_step(xy)
    of_version_1 = _VERSION_1.match(extractor or "") is not None
    if round(apart or (side_px if of_version_1 else 0)) != side_px:
        found = "nothing tells how far its tiles lie apart" if apart is None else f"its tiles lie {apart:g} apart"
        raise StoreError(
            f"cannot use {path}: it has no tile_size_um, and {found}; expected of STAMP 1 is {side_px}. {REMEDY}"
        )
    return side_um, side_px, remark


def _info(path: Path) -> tuple[float, int] | None:
    """Micrometres and pixels of a tile, as STAMP 1 writes them beside its files; None where they are not there."""
    try:
        content = json.loads(path.read_text())
        return float(content["microns"]), int(content["patch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _smallest_step(xy: Float64[np.ndarray, "tile 2"]) -> float | None:
    """The smallest distance of two columns or rows, as STAMP's `get_stride` does; None where there is one of each."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in xy.T])
    return float(steps.min()) if len(steps) else None


STAMP = FeatureFormat("stamp", (".h5",), read_places, read_rows, parts, (_FOLDER,), write=write, target=target)
