"""A feature format: one .npz for each slide, with `rows`, `xy` and the side of a tile as `tile_px` and `tile_l0px`."""

import zipfile
from pathlib import Path

import numpy as np

from parfocal.errors import StoreError
from parfocal.store import FeatureFile, FeatureFormat, FeatureSource


def parts(path: Path) -> dict[str, str | None] | None:
    """One, where the file has the arrays of this format."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {"": None} if {"rows", "xy", "tile_l0px"} <= set(file) else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def read_places(source: FeatureSource) -> FeatureFile:
    rows, file = read_all(source.path)
    return FeatureFile(
        source, file["xy"].astype(np.float64), int(file["tile_px"]), float(file["tile_l0px"]), rows.shape[1]
    )


def read_rows(source: FeatureSource) -> np.ndarray:
    return read_all(source.path)[0]


def read_all(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays["rows"], arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"cannot read {path}: it is no .npz of features ({error}). Write it again.") from error


FORMAT = FeatureFormat("npz", (".npz",), read_places, read_rows, parts)
