"""Reading a store: which sets it holds, which slides are done, and the embeddings of one slide."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.embeddings.layout import (
    INDEX_FOLDER,
    SETTINGS_FILE,
    VERSION_ATTRIBUTE,
    Kind,
    check_version,
    features_path,
    index_path,
    read_settings,
    repair_advice,
)
from parfocal.embeddings.tokens import SlideRegions, SlideTokens
from parfocal.errors import StoreError
from parfocal.geometry import format_mpp

__all__ = ["EmbeddingSet", "open_set", "open_sets"]


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """The embeddings of many slides by one set of encoders and settings; one folder of a store.

    Attributes:
        path: the folder.
        content: what `settings.json` says.
        slides: the slides that are done, sorted.
    """

    path: Path
    content: Mapping[str, Any]
    slides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the folder: encoder and digest."""
        return self.path.name

    @property
    def kind(self) -> Kind:
        """`tiles` or `regions`."""
        return "tiles" if self.content["kind"] == "tiles" else "regions"

    @cached_property
    def mpps(self) -> tuple[float, ...]:
        """The magnifications, coarse to fine; for regions, those they were made from."""
        return tuple(float(mpp) for mpp in self.content["mpps"])

    @cached_property
    def dims(self) -> dict[float, int]:
        """The width of a tile's row, per magnification.

        Raises:
            StoreError: this is a set of regions.
        """
        self._must_be("tiles")
        return {mpp: int(self.content["dims"][format_mpp(mpp)]) for mpp in self.mpps}

    @property
    def dim(self) -> int:
        """The width of a region's row.

        Raises:
            StoreError: this is a set of tiles.
        """
        self._must_be("regions")
        return int(self.content["dims"])

    @property
    def region_um(self) -> float:
        """Side of a region, in micrometres; a slide of an indexed set may have a slightly other one (`SlideTokens`)."""
        return float(self.content["region_um"])

    @property
    def tile_px(self) -> int | None:
        """Side of a tile in pixels; None for regions."""
        return None if self.content["tile_px"] is None else int(self.content["tile_px"])

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes a row, as it was when the set was made."""
        return dict(self.content["settings"])

    @property
    def encoder_digest(self) -> str:
        """The digest of the tile encoder, or of the encoders where magnifications have their own."""
        return str(self.content["encoder_digest"])

    @cached_property
    def encoder_digests(self) -> dict[float, str]:
        """The digest of the tile encoder of each magnification."""
        return {mpp: str(self.content["encoder_digests"][format_mpp(mpp)]) for mpp in self.mpps}

    def n_regions(self, slide: str) -> int:
        """How many regions a slide has; only its index is opened."""
        with self._open_index(slide) as index:
            return int(index["region_xy_um"].shape[0])

    def n_tiles(self, slide: str) -> dict[float, int]:
        """How many tiles a slide has, per magnification; only its index is opened."""
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return {mpp: int(index[format_mpp(mpp)]["region"].shape[0]) for mpp in self.mpps}

    def attributes(self, slide: str) -> dict[str, Any]:
        """The attributes of a slide's index: fingerprint, path, mpp and what else is known of it."""
        with self._open_index(slide) as index:
            return {key: value.item() if isinstance(value, np.generic) else value for key, value in index.attrs.items()}

    def read(self, slide: str) -> SlideTokens:
        """The tile embeddings of a slide.

        Raises:
            StoreError: the slide is not done, a file is damaged, or index and features do not fit together.
        """
        self._must_be("tiles")
        with self._open_index(slide) as index:
            groups = {mpp: _group(index, mpp) for mpp in self.mpps}
            slide_mpp, region_um = float(index.attrs["slide_mpp"]), float(index.attrs["region_um"])
            region_xy_um = index["region_xy_um"][...]
        features = {}
        for mpp, (region, _, row, file) in groups.items():
            path = features_path(self.path, slide, mpp) if file is None else Path(os.path.normpath(self.path / file))
            features[mpp] = self._read_features(slide, path, rows=row, expected=len(region), dim=self.dims[mpp])
        return SlideTokens(
            slide=slide,
            region_um=region_um,
            slide_mpp=slide_mpp,
            region_xy_um=region_xy_um,
            features=features,
            region={mpp: group[0] for mpp, group in groups.items()},
            center_um={mpp: group[1] for mpp, group in groups.items()},
        )

    def read_regions(self, slide: str) -> SlideRegions:
        """The region embeddings of a slide.

        Raises:
            StoreError: the slide is not done, a file is damaged, or index and features do not fit together.
        """
        self._must_be("regions")
        with self._open_index(slide) as index:
            slide_mpp, region_um = float(index.attrs["slide_mpp"]), float(index.attrs["region_um"])
            region_xy_um = index["region_xy_um"][...]
        path = features_path(self.path, slide, None)
        return SlideRegions(
            slide=slide,
            region_um=region_um,
            slide_mpp=slide_mpp,
            region_xy_um=region_xy_um,
            features=self._read_features(slide, path, rows=None, expected=len(region_xy_um), dim=self.dim),
        )

    def _must_be(self, kind: Kind) -> None:
        if self.kind != kind:
            raise StoreError(f"{self.path} is a set of {self.kind}; a set of {kind} is needed here.")

    @contextmanager
    def _open_index(self, slide: str) -> Iterator[h5py.File]:
        path = index_path(self.path, slide)
        if not path.is_file():
            raise StoreError(f"{slide} is not done in {self.path}: {path} is absent. Embed it first.")
        with _opened(path, f"Remove it and embed or index {slide} again.") as file:
            check_version(file.attrs.get(VERSION_ATTRIBUTE), path)
            yield file

    def _read_features(
        self, slide: str, path: Path, *, rows: np.ndarray | None, expected: int, dim: int
    ) -> Float[np.ndarray, "tile dim"]:
        remedy = repair_advice(self.path, slide)
        if not path.is_file():
            raise StoreError(f"cannot read {path}: the index refers to it and it is absent. {remedy}")
        with _opened(path, remedy) as file:
            if file.attrs.get(VERSION_ATTRIBUTE) is not None:
                check_version(file.attrs[VERSION_ATTRIBUTE], path)
            features, n_coords = file["features"], file["coords"].shape[-2]
            # Some tools keep a leading axis of one.
            values: np.ndarray = features[0] if features.ndim == 3 and features.shape[0] == 1 else features[...]
        if len(values) != n_coords:
            raise StoreError(f"cannot use {path}: it has {len(values)} features and {n_coords} coords. {remedy}")
        if rows is not None:
            if len(rows) and rows.max() >= len(values):
                raise StoreError(
                    f"cannot use {path}: its index refers to row {rows.max()} and it has {len(values)}. {remedy}"
                )
            values = values[rows]
        if values.shape != (expected, dim):
            raise StoreError(
                f"cannot use {path}: it has {len(values)} rows of width {values.shape[-1]}, "
                f"its index expects {expected} of width {dim}. {remedy}"
            )
        return values


def open_sets(path: Path | str) -> list[EmbeddingSet]:
    """The sets of a store that hold a slide, sorted by name; or the set whose folder is named, even an empty one.

    A run that failed on every slide leaves its set without any, and that must not stand in the way of the others.

    Raises:
        StoreError: there is no set, or no slide is done in any.
        FormatVersionError: a newer parfocal wrote a set.
    """
    path = Path(path)
    if (path / SETTINGS_FILE).is_file():
        return [_open(path)]
    found = [_open(file.parent) for file in sorted(path.glob(f"*/{SETTINGS_FILE}"))] if path.is_dir() else []
    if not found:
        raise StoreError(f"{path} holds no embeddings: there is no {SETTINGS_FILE} in it or in a folder of it.")
    with_slides = [one for one in found if one.slides]
    if not with_slides:
        names = ", ".join(one.name for one in found)
        raise StoreError(
            f"{path} holds no embeddings: no slide is done in any of its {len(found)} sets: {names}. "
            "Embed slides first; failures.csv says which ones failed, and why."
        )
    return with_slides


def open_set(path: Path | str) -> EmbeddingSet:
    """The only set of a store that holds a slide, or the set whose folder is named.

    Raises:
        StoreError: there is none, or more than one.
    """
    found = open_sets(path)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise StoreError(f"{path} holds {len(found)} sets: {names}. Name the folder of one of them.")
    return found[0]


def done_slides(set_path: Path) -> tuple[str, ...]:
    """The ids of the slides whose index is there, sorted; temporary files of killed runs do not count."""
    folder = set_path / INDEX_FOLDER
    files = (file.relative_to(folder) for file in folder.rglob("*.h5") if not file.name.startswith("."))
    return tuple(sorted(file.as_posix().removesuffix(".h5") for file in files))


def _open(path: Path) -> EmbeddingSet:
    return EmbeddingSet(path=path, content=read_settings(path), slides=done_slides(path))


def _group(index: h5py.File, mpp: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str | None]:
    """Region numbers, centres, rows (None: all) and features file (None: the set's own) of one magnification."""
    group = index[format_mpp(mpp)]
    row = group["row"][...] if "row" in group else None
    file = group.attrs.get("features_file")
    return group["region"][...], group["center_um"][...], row, None if file is None else str(file)


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[h5py.File]:
    """An HDF5 file for reading; damage of any kind, a missing dataset included, is one StoreError.

    Files never change once they have their name, so a file system that has no locks is no reason to fail.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise StoreError(f"cannot read {path}: it is damaged or not what it should be ({error}). {remedy}") from error
