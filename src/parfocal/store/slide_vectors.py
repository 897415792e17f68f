"""Vectors of whole slides that another tool has written: which folders hold them, and the one of each file.

Two layouts are read, each one HDF5 file a slide. TRIDENT's `slide_features_NAME/SLIDE.h5` has a dataset `features` of
shape (dim,) or (1, dim); STAMP's has `feats`, and an attribute `feat_type` that says `slide`.
"""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32

from parfocal.errors import ConfigError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.store.folders import walk
from parfocal.store.formats.checks import parts_written, text_of
from parfocal.store.h5 import count_not_finite, opened_h5
from parfocal.table import some_of

_PREFIX = "slide_features_"
_SUFFIX = ".h5"
_NAMES = ("features", "feats")
_REMEDY = "Extract it again, or take it out of the folder."


@dataclass(frozen=True)
class VectorFolder:
    """A folder of vectors by one whole-slide encoder.

    Attributes:
        path: the folder.
        name: what its arms are called: the encoder's name, which follows `slide_features_`, or the folder's own.
        files: of the slides, by their path below the folder without suffix.
    """

    path: Path
    name: str
    files: dict[str, Path]


def find_vector_folders(sources: Sequence[Path]) -> list[VectorFolder]:
    """The folders of vectors that are named themselves, or lie below a TRIDENT job folder; links are followed.

    Files of another kind are passed over, and said once for each folder.

    Args:
        sources: folders of vectors, or folders with `slide_features_NAME` somewhere below them.

    Raises:
        StoreError: one is no folder, cannot be searched, or holds no vectors.
        ConfigError: two folders would be called the same.
    """
    found: dict[Path, VectorFolder] = {}
    for source in sources:
        if not source.is_dir():
            what = f"is a link to {os.readlink(source)}, which is not there" if source.is_symlink() else "is no folder"
            raise StoreError(f"cannot read slide vectors in {source}: it {what}. Name a folder of them.")
        folders = (
            [source] if _holds_vectors(source) else [one for one in walk(source) if _is_named(one) and one.is_dir()]
        )
        read = [folder for folder in map(_folder, folders or [source]) if folder.files]
        if not read:
            raise StoreError(
                f"{source} holds no slide vectors: expected are files *{_SUFFIX} in it, one of each slide, or folders "
                f"{_PREFIX}NAME below it."
            )
        found |= {folder.path.resolve(): folder for folder in read if folder.path.resolve() not in found}
    return _named_apart(list(found.values()))


def read_slide_vector(path: Path) -> Float32[np.ndarray, " dim"]:
    """The vector of a slide.

    Raises:
        StoreError: the file cannot be read, or holds something else, such as a vector of each tile.
        NotFiniteError: the vector holds a value that is not finite.
    """
    with opened_h5(path, _REMEDY) as file:
        name = next((one for one in _NAMES if isinstance(file.get(one), h5py.Dataset)), None)
        there = ", ".join(sorted(file)) or "nothing"
        of = text_of(file.attrs.get("feat_type")) or "slide"
        shape: tuple[int, ...] = () if name is None else file[name].shape or ()
        is_vector = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)
        dtype = np.dtype("f4") if name is None else file[name].dtype
        written, expected = (0, 0) if name is None else parts_written(file[name])
        values = file[name][...].reshape(-1) if name is not None and is_vector and dtype.kind == "f" else None
    if name is None:
        raise StoreError(
            f"cannot use {path}: it has no array {' or '.join(map(repr, _NAMES))}, only {there}. {_REMEDY}"
        )
    if of != "slide":
        raise StoreError(f"cannot use {path}: it says that it is of a {of}, not of a slide. {_REMEDY}")
    if not is_vector:
        more = " These look like tiles, which are for `parfocal index`." if len(shape) == 2 else ""
        raise StoreError(f"cannot use {path}: {name} have the shape {shape}; expected is one vector (dim,).{more}")
    if values is None or dtype.itemsize > 8:
        raise StoreError(f"cannot use {path}: {name} are {dtype}; expected are float16, float32 or float64.")
    if not values.size or written < expected:
        what = "empty" if not values.size else "not all there, as after an extraction that was stopped"
        raise StoreError(f"cannot use {path}: its {name} are {what}. {_REMEDY}")
    if count_not_finite(values[None]):
        n_bad = int((~np.isfinite(values)).sum()) or 1
        raise NotFiniteError(f"cannot use {path}: {n_bad} of its {values.size} values are not finite. {_REMEDY}")
    vector: Float32[np.ndarray, " dim"] = values.astype(np.float32)
    return vector


def _named_apart(folders: Sequence[VectorFolder]) -> list[VectorFolder]:
    """The folders, those of one name with that of the folder above, such as another magnification's."""
    count = Counter(folder.name for folder in folders)
    apart = [
        replace(one, name=f"{one.path.resolve().parent.name}/{one.name}") if count[one.name] > 1 else one
        for one in folders
    ]
    doubled = [name for name, times in Counter(folder.name for folder in apart).items() if times > 1]
    if doubled:
        paths = some_of([str(one.path) for one in apart if one.name == doubled[0]])
        raise ConfigError(f"two folders of slide vectors are called {doubled[0]!r}: {paths}. Rename one.")
    return apart


def _is_vectors(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _is_named(folder: Path) -> bool:
    return folder.name.startswith(_PREFIX)


def _holds_vectors(folder: Path) -> bool:
    return _is_named(folder) or any(_is_vectors(one.name) for one in walk(folder, is_leaf=lambda _: True))


def _folder(path: Path) -> VectorFolder:
    files, others = dict[str, Path](), Counter[str]()
    for file in walk(path):
        # A link that leads nowhere is a slide too: one that cannot be read, and is named.
        if _is_vectors(file.name):
            files[file.relative_to(path).as_posix().removesuffix(_SUFFIX)] = file
        elif not file.is_dir():
            others[file.suffix or "without suffix"] += 1
    name = path.resolve().name if path.name in {"", "."} else path.name
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        warnings.warn(
            f"{others.total()} files of other kinds in {path} are passed over ({kinds}); slide vectors are *{_SUFFIX}.",
            ParfocalWarning,
            stacklevel=2,
        )
    return VectorFolder(path, name.removeprefix(_PREFIX) or name, files)
