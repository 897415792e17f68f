"""Features that another tool has written in TRIDENT's layout: which files there are, and where their tiles lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float64

from parfocal.errors import StoreError

__all__ = ["FeatureFile", "FeatureFolder", "find_feature_folders", "read_feature_file"]

_PREFIX = "features_"


@dataclass(frozen=True)
class FeatureFolder:
    """A folder of features of one encoder at one magnification.

    Attributes:
        path: the folder.
        encoder: the encoder's name, what follows `features_` in the folder's name; None in a folder of another name.
        files: the file of each slide, by the slide's id.
    """

    path: Path
    encoder: str | None
    files: dict[str, Path]


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """Where the tiles of one slide lie, at one magnification.

    Attributes:
        path: the file.
        xy_l0px: top left of each tile, in level-0 pixels.
        tile_px: side of a tile in its own pixels.
        tile_l0px: side of a tile in level-0 pixels; may be broken.
        target_magnification: the nominal magnification that was asked for; None where the file does not say.
        dim: width of a row.
        slide_mpp: the slide's resolution, where the file says it (parfocal's own do).
        size_l0px: width and height of level 0; zeros where the file does not say.
        float16: whether rows are float16.
    """

    path: Path
    xy_l0px: Float64[np.ndarray, "tile 2"]
    tile_px: int
    tile_l0px: float
    target_magnification: float | None
    dim: int
    slide_mpp: float | None
    size_l0px: tuple[int, int]
    float16: bool


def find_feature_folders(sources: Sequence[Path], encoder: str | None = None) -> list[FeatureFolder]:
    """The folders of features in job folders, magnification folders, or as named themselves.

    Args:
        sources: TRIDENT job folders (`5x_224px_0px_overlap/features_NAME/` below them), or folders of HDF5 files.
        encoder: which encoder's, where several are there.

    Raises:
        StoreError: nothing is found, or the features of several encoders are and none is named.
    """
    found: list[FeatureFolder] = []
    for source in sources:
        folders = [source] if any(source.glob("*.h5")) else sorted(source.rglob(f"{_PREFIX}*"))
        with_files = [_folder(path) for path in folders if path.is_dir()]
        with_files = [folder for folder in with_files if folder.files]
        if not with_files:
            raise StoreError(
                f"{source} holds no features: expected are HDF5 files in it, or folders {_PREFIX}NAME below it."
            )
        found += with_files
    names = list(dict.fromkeys(folder.encoder for folder in found if folder.encoder is not None))
    if encoder is not None:
        # A folder without an encoder in its name is taken at the caller's word.
        chosen = [folder for folder in found if folder.encoder in {encoder, None}]
        if not chosen:
            raise StoreError(f"there are no features of {encoder!r}: found are {', '.join(names)}.")
        return chosen
    if len(names) > 1:
        raise StoreError(f"the features of several encoders are there: {', '.join(names)}. Name one (--encoder NAME).")
    return found


def read_feature_file(path: Path) -> FeatureFile:
    """Read the places of a file's tiles; the rows themselves stay on disk.

    Raises:
        StoreError: it is no file in TRIDENT's layout, or its tiles overlap.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            shape, dtype = file["features"].shape, file["features"].dtype
            coords, attributes = file["coords"][...], dict(file["coords"].attrs)
            slide_mpp = file.attrs.get("slide_mpp")
    except (OSError, KeyError, RuntimeError) as error:
        raise StoreError(f"cannot read {path}: it is no file of features and coords ({error}).") from error
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if len(shape) != 2 or coords.ndim != 2 or coords.shape[1] != 2 or len(coords) != shape[0]:
        raise StoreError(
            f"cannot use {path}: features are {shape} and coords {coords.shape}; expected are (N, D) and (N, 2)."
        )
    missing = [name for name in ("patch_size", "patch_size_level0") if name not in attributes]
    if missing:
        raise StoreError(f"cannot use {path}: coords have no attribute {' and '.join(missing)}, so tiles have no size.")
    if _number(attributes.get("overlap")):
        raise StoreError(f"cannot use {path}: its tiles overlap by {attributes['overlap']} px. Extract with overlap 0.")
    return FeatureFile(
        path,
        coords.astype(np.float64),
        int(attributes["patch_size"]),
        float(attributes["patch_size_level0"]),
        _number(attributes.get("target_magnification")),
        int(shape[1]),
        _number(slide_mpp),
        (int(_number(attributes.get("level0_width")) or 0), int(_number(attributes.get("level0_height")) or 0)),
        dtype == np.float16,
    )


def _folder(path: Path) -> FeatureFolder:
    files = sorted(file for file in path.rglob("*.h5") if not file.name.startswith("."))
    return FeatureFolder(
        path,
        path.name.removeprefix(_PREFIX) if path.name.startswith(_PREFIX) else None,
        {file.relative_to(path).as_posix().removesuffix(".h5"): file for file in files},
    )


def _number(value: Any) -> float | None:
    """An attribute as a number; TRIDENT writes None as the text `None`."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
