"""Features that another tool has written in TRIDENT's layout: which files there are, and where their tiles lie."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Float64

from parfocal.errors import NotFiniteError, ParfocalWarning, StoreError
from parfocal.store.h5 import count_not_finite, file_digest, opened_h5, read_rows

__all__ = ["FeatureFile", "FeatureFolder", "check_rows", "find_feature_folders", "read_feature_file"]

_PREFIX = "features_"
_REMEDY = "Extract it again, or leave it out."
# 2.5 m of tissue at the resolution of a 40x scan: beyond any slide.
_LARGEST_L0PX = 1e7
_LARGEST_TILE_PX = 1 << 16
_NOTHING = {"", "none", "null", "nan"}
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:x|px)?")


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

    def without_places(self) -> "FeatureFile":
        """The same without the places of its tiles, as thousands of files are kept in memory."""
        return replace(self, xy_l0px=np.zeros((0, 2)))


def find_feature_folders(sources: Sequence[Path], encoder: str | None = None) -> list[FeatureFolder]:
    """The folders of features in job folders, magnification folders, or as named themselves; links are followed.

    Args:
        sources: TRIDENT job folders (`5x_224px_0px_overlap/features_NAME/` below them), or folders of HDF5 files.
        encoder: which encoder's, where several are there.

    Raises:
        StoreError: nothing is found, or the features of several encoders are and none is named.
    """
    found: dict[Path, FeatureFolder] = {}
    for source in sources:
        if not source.is_dir():
            what = "is no folder" if source.exists() else "is not there"
            raise StoreError(f"cannot index {source}: it {what}. Name a job folder, or a folder of HDF5 files.")
        below = [source] if any(source.glob("*.h5")) else _named_below(source)
        with_files = [folder for folder in map(_folder, below) if folder.files]
        if not with_files:
            raise StoreError(
                f"{source} holds no features: expected are HDF5 files in it, or folders {_PREFIX}NAME below it."
            )
        # A folder that is given twice, by its own name and by that of its job, is one.
        found |= {folder.path.resolve(): folder for folder in with_files if folder.path.resolve() not in found}
    names = list(dict.fromkeys(folder.encoder for folder in found.values() if folder.encoder is not None))
    if encoder is not None:
        # A folder without an encoder in its name is taken at the caller's word.
        chosen = [folder for folder in found.values() if folder.encoder in {encoder, None}]
        if not chosen:
            raise StoreError(f"there are no features of {encoder!r}: found are {', '.join(names)}.")
        return chosen
    if len(names) > 1:
        raise StoreError(f"the features of several encoders are there: {', '.join(names)}. Name one (--encoder NAME).")
    return list(found.values())


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
        attributes["target_magnification"],
        int(shape[1]),
        slide_mpp,
        (size_l0px[0], size_l0px[1]),
        dtype.itemsize == 2,
    )


def check_rows(path: Path) -> str:
    """Read the rows of a file once; its digest, by which a later reader sees that it is still the same file.

    Raises:
        NotFiniteError: a value is not finite.
        StoreError: the file cannot be read.
    """
    with opened_h5(path, _REMEDY) as file:
        digest = file_digest(path)
        features, _ = read_rows(file)
    bad = count_not_finite(features)
    if bad:
        raise NotFiniteError(
            f"cannot use {path}: {bad} of its {len(features)} rows hold values that are not finite. {_REMEDY}"
        )
    return digest


_ATTRIBUTES = ("patch_size", "patch_size_level0", "overlap", "target_magnification", "level0_width", "level0_height")


def _named_below(folder: Path) -> list[Path]:
    """The folder itself where it is called as one of features, else those below it."""
    if folder.name.startswith(_PREFIX):
        return [folder]
    return [path for path in _walk(folder, is_leaf=_is_named) if _is_named(path)]


def _is_named(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and path.is_dir()


def _is_h5(path: Path) -> bool:
    return path.name.endswith(".h5")


def _walk(folder: Path, is_leaf: Callable[[Path], bool], above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """What lies below a folder, sorted, without hidden names; links are followed, but not back to where they are."""
    above = above | {folder.resolve()}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        warnings.warn(f"cannot look into {folder} ({error.strerror}); it is left out.", ParfocalWarning, stacklevel=2)
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        yield path
        if is_leaf(path) or not path.is_dir():
            continue
        real = path.resolve()
        if not any(real == one or real in one.parents for one in above):
            yield from _walk(path, is_leaf, above)


def _folder(path: Path) -> FeatureFolder:
    # A folder, a pipe or a dangling link of such a name is a slide too: one that cannot be read, and is named.
    files = [file for file in _walk(path, is_leaf=_is_h5) if _is_h5(file)]
    return FeatureFolder(
        path,
        path.name.removeprefix(_PREFIX) if path.name.startswith(_PREFIX) else None,
        {file.relative_to(path).as_posix().removesuffix(".h5"): file for file in files},
    )


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
