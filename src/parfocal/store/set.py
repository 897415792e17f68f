"""Reading a store: which sets it holds, which slides are done, and the embeddings of one slide.

A set may be read as it would be without some of its magnifications.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from parfocal.addresses import shown_path
from parfocal.errors import MismatchError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.geometry import format_mpp
from parfocal.store.files import ForeignRows
from parfocal.store.formats.format import FORMATS, FeatureSource
from parfocal.store.h5 import attributes_of, count_not_finite, opened_h5, read_from, read_rows, tree_digest
from parfocal.store.layout import (
    INDEX_FOLDER,
    SAYS_WHOSE,
    SETTINGS_FILE,
    VERSION_ATTRIBUTE,
    Kind,
    check_belongs,
    check_version,
    encoder_digest,
    features_path,
    index_path,
    read_settings,
    repair_advice,
)
from parfocal.store.mirror import fetch, on_disk
from parfocal.store.reading import Reading, unread_tiles
from parfocal.store.recent import Recent
from parfocal.store.row_source import RowSource
from parfocal.store.slide_index import SlideIndex
from parfocal.store.tokens import SlidePlaces, SlideRegions, SlideTokens

# What indexes of a set, each of a megabyte where a slide has thousands of regions, may take in memory.
_RECENT_BYTES = 1 << 25
_NOWHERE = (-1, -1, -1)


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
    # The files that have been checked, as they were, each with the part of it that is another tool's: reading them
    # again, epoch by epoch or through the same set with fewer slides (`dataclasses.replace`), costs no digest.
    _checked: set[tuple[Path, int, int, int, str | None]] = field(default_factory=set, repr=False)
    # What their indexes said, as they were: one question after the other about a slide opens its index once.
    _recent: Recent[SlideIndex] = field(default_factory=lambda: Recent(_RECENT_BYTES, SlideIndex.n_bytes), repr=False)

    def __str__(self) -> str:
        return str(self.path)

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
    def step_um(self) -> float:
        """From one region to the next, in micrometres; less than the side of a region where regions overlap."""
        return float(self.settings.get("grid", {}).get("stride_um") or self.region_um)

    @property
    def tile_px(self) -> int | None:
        """Side of a tile in pixels, at the finest magnification where they differ; None for regions."""
        return None if self.content["tile_px"] is None else int(self.content["tile_px"])

    @cached_property
    def tile_um(self) -> dict[float, float]:
        """The nominal side of a tile in micrometres, per magnification.

        Raises:
            StoreError: this is a set of regions.
        """
        self._must_be("tiles")
        sides = self.content.get("tile_px_by_mpp", {})
        return {mpp: mpp * int(sides.get(format_mpp(mpp), self.content["tile_px"])) for mpp in self.mpps}

    def tile_um_of(self, slide: SlidePlaces | SlideTokens) -> dict[float, float]:
        """The same of one slide: the regions of an indexed one are slightly larger or smaller, and its tiles as much.

        Raises:
            StoreError: this is a set of regions.
        """
        return {mpp: side_um * slide.region_um / self.region_um for mpp, side_um in self.tile_um.items()}

    def refuse_several_sides(self) -> None:
        """Refuse tiles that have more pixels at one magnification than at another, for a region encoder.

        Raises:
            MismatchError: they have; those that parfocal reads never do.
        """
        if "tile_px_by_mpp" in self.content:
            sides = ", ".join(f"{px} px at {mpp} mpp" for mpp, px in self.content["tile_px_by_mpp"].items())
            raise MismatchError(
                f"a region encoder takes tiles of one number of pixels, and {self.name} has {sides}. Evaluate its "
                "tiles themselves, or extract all magnifications with one."
            )

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
            return len(index.values["region_xy_um"])

    def region_xy_um(self, slide: str) -> Float64[np.ndarray, "region 2"]:
        """The top left of each region of a slide, in micrometres; only its index is opened."""
        with self._open_index(slide) as index:
            return np.array(index.values["region_xy_um"], np.float64)

    def side_um(self, slide: str) -> float:
        """Side of a slide's regions, in micrometres, which is not exactly the set's in an indexed one."""
        return float(self.attributes(slide)["region_um"])

    def n_tiles(self, slide: str) -> dict[float, int]:
        """How many tiles the regions of a slide have, per magnification; only its index is opened.

        Where regions overlap, a tile counts in each that holds it; see `n_rows`.
        """
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return {mpp: len(index.groups[format_mpp(mpp)].values["region"]) for mpp in self.mpps}

    def n_rows(self, slide: str) -> dict[float, int]:
        """How many tiles were embedded, per magnification; one that several regions share counts once."""
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return {mpp: stored_rows(index.groups[format_mpp(mpp)].values) for mpp in self.mpps}

    def n_absent(self, slide: str) -> dict[float, int]:
        """How many planned tiles the slide's file had no pixels for, per magnification; only its index is opened."""
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return {mpp: len(index.groups[format_mpp(mpp)].values.get("absent_coords", ())) for mpp in self.mpps}

    def n_unread(self, slide: str) -> dict[float, int]:
        """How many planned tiles were not read by choice, per magnification; only the slide's index is opened."""
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return {mpp: len(index.groups[format_mpp(mpp)].values.get("unread_coords", ())) for mpp in self.mpps}

    def reading(self, slide: str) -> Reading | None:
        """By which policy and with which shares a slide was read; None where all of it was."""
        return Reading.of(self.attributes(slide))

    def has_tissue(self, slide: str) -> bool:
        """Whether the index of a slide keeps how much of each finest tile is tissue; older versions did not."""
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return "tissue" in index.groups[format_mpp(min(self.mpps))].values

    def share_read(self, slide: str, mpp: float | None = None) -> Float64[np.ndarray, " region"]:
        """Of each region, the share of its planned tiles that has been read; 1 where none was planned.

        Args:
            slide: id.
            mpp: of the tiles; the finest where None.
        """
        self._must_be("tiles")
        mpp = min(self.mpps) if mpp is None else mpp
        with self._open_index(slide) as index:
            n_regions = len(index.values["region_xy_um"])
            read = np.bincount(index.groups[format_mpp(mpp)].values["region"], minlength=n_regions)
        others = np.bincount(self.unread_tiles(slide, mpp)[0], minlength=n_regions)
        return np.asarray(np.where(read + others > 0, read / np.maximum(read + others, 1), 1.0))

    def unread_tiles(
        self, slide: str, mpp: float | None = None
    ) -> tuple[Int32[np.ndarray, " tile"], Float32[np.ndarray, "tile 2"]]:
        """The planned tiles of a magnification that were not read by choice; only the slide's index is opened.

        Args:
            slide: id.
            mpp: of the tiles; the finest where None.

        Returns:
            the number of each one's region, never falling, and its centre about its region's centre in micrometres. Of
            regions of which nothing was read, which are not in the set, no tile is named.
        """
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return unread_tiles(index, min(self.mpps) if mpp is None else mpp, int(self.content["tile_px"]))

    def attributes(self, slide: str) -> dict[str, Any]:
        """The attributes of a slide's index: fingerprint, path, mpp and what else is known of it."""
        with self._open_index(slide) as index:
            return dict(index.attrs)

    def read(self, slide: str, mpps: Sequence[float] | None = None) -> SlideTokens:
        """The tile embeddings of a slide, of all magnifications or of those of its set that are named.

        Index and features are checked to belong together: by the ids and settings that they carry, by the seal of the
        index and by the digest of each features file that it has. Sets of before that are said to be unchecked.

        Raises:
            StoreError: the slide is not done, a file is damaged, or index and features do not fit together.
            NotFiniteError: a value of its rows is not finite.
        """
        self._must_be("tiles")
        with self._open_index(slide) as index:
            places = self._tile_places(slide, index, self.mpps if mpps is None else mpps)
            rows = self._row_sources(slide, index, places)
        features = {mpp: self._read_features(slide, mpp, own) for mpp, own in rows.items()}
        try:
            return SlideTokens(features=features, **vars(places))
        except ValueError as error:
            raise StoreError(f"cannot use {index_path(self.path, slide)}: {error}. {_index_remedy(slide)}") from error

    def places(self, slide: str) -> SlidePlaces:
        """Where the regions of a slide and their tiles lie, checked as in `read`; only its index is opened.

        Raises:
            StoreError: the slide is not done, or its index is damaged.
        """
        with self._open_index(slide) as index:
            if self.kind == "regions":
                return _places(slide, index, {}, {})
            places = self._tile_places(slide, index, self.mpps)
            places.check_order()
            return places

    def row_sources(self, slide: str) -> dict[float, RowSource]:
        """In which rows of which file each magnification of a slide is, in the order of `places`; rows stay on disk.

        Raises:
            StoreError: the slide is not done, or its index is damaged.
        """
        self._must_be("tiles")
        with self._open_index(slide) as index:
            return self._row_sources(slide, index, self._tile_places(slide, index, self.mpps))

    def _row_sources(self, slide: str, index: SlideIndex, places: SlidePlaces) -> dict[float, RowSource]:
        return {
            mpp: RowSource.of(index.groups[format_mpp(mpp)], len(own), self.path, features_path(self.path, slide, mpp))
            for mpp, own in places.region.items()
        }

    def state(self, slide: str) -> tuple[int, int]:
        """What tells that the index of a slide, which knows its features by their digests, is still the same file.

        Size and time of change; of one that cannot be asked, whoever reads the slide says why.
        """
        return _state(index_path(self.path, slide))[1:3]

    def _tile_places(self, slide: str, index: SlideIndex, mpps: Sequence[float]) -> SlidePlaces:
        groups = {mpp: index.groups[format_mpp(mpp)].values for mpp in mpps}
        region = {mpp: group["region"].copy() for mpp, group in groups.items()}
        center_um = {mpp: group["center_um"].copy() for mpp, group in groups.items()}
        tissue = {mpp: group["tissue"].copy() for mpp, group in groups.items() if "tissue" in group}
        places = replace(_places(slide, index, region, center_um), tissue=tissue)
        if not all(np.isfinite(values).all() for values in (places.region_xy_um, *center_um.values())):
            raise ValueError("a place is not finite")
        if not all(((values >= 0) & (values <= 1)).all() for values in tissue.values()):
            raise ValueError("a share of tissue is not between 0 and 1")
        return places

    def read_regions(self, slide: str) -> SlideRegions:
        """The region embeddings of a slide, checked as in `read`.

        Raises:
            StoreError: the slide is not done, a file is damaged, or index and features do not fit together.
            NotFiniteError: a value of its rows is not finite.
        """
        self._must_be("regions")
        with self._open_index(slide) as index:
            places = _places(slide, index, {}, {})
            rows = RowSource.of(index, len(places.region_xy_um), self.path, features_path(self.path, slide, None))
        features = self._read_features(slide, None, rows)
        return SlideRegions(slide, places.region_um, places.slide_mpp, places.region_xy_um, features)

    def _must_be(self, kind: Kind) -> None:
        if self.kind != kind:
            raise StoreError(f"{self.path} is a set of {self.kind}; a set of {kind} is needed here.")

    @contextmanager
    def _open_index(self, slide: str) -> Iterator[SlideIndex]:
        path, remedy = index_path(self.path, slide), _index_remedy(slide)
        state = _state(path)
        if state[1:] == _NOWHERE and not path.exists():
            raise StoreError(f"{slide} is not done in {self.path}: {path} is absent. Embed it first.")
        with read_from(path, remedy):
            yield self._recent.get((state, self.mpps), lambda: self._read_index(slide, path, state, remedy))

    def _read_index(self, slide: str, path: Path, state: tuple[Path, int, int, int], remedy: str) -> SlideIndex:
        with opened_h5(path, remedy, checked=(*state, None) in self._checked) as file:
            attributes = attributes_of(file)
            check_version(attributes.get(VERSION_ATTRIBUTE), path)
            check_belongs(attributes, path, remedy, slide=slide, settings=self.content["settings"])
            self._checked.add((*state, None))
            return SlideIndex.read(file, attributes, map(format_mpp, self.mpps if self.kind == "tiles" else ()))

    def _read_features(self, slide: str, mpp: float | None, group: RowSource) -> Float[np.ndarray, "tile dim"]:
        path = group.path
        expected, dim = group.count, self.dim if mpp is None else self.dims[mpp]
        remedy = repair_advice(self.path, slide)
        if not path.exists():  # or its state would be that of all files that are absent
            fetch(path)
        state = (*_state(path), None if group.foreign is None else group.foreign.part)
        checked = state in self._checked
        values = self._values(slide, mpp, path, group, checked=checked)
        rows, features = group.row, values
        if rows is not None:
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(values):
                raise StoreError(
                    f"cannot use {path}: its index refers to rows {rows.min()} to {rows.max()} and it has "
                    f"{len(values)}. {remedy}"
                )
            features = values[rows]
        if features.shape != (expected, dim):
            raise StoreError(
                f"cannot use {path}: it has {len(features)} rows of width {features.shape[-1]}, "
                f"its index expects {expected} of width {dim}. {remedy}"
            )
        if not checked:
            self._check_values(slide, path, group.digest, features)
            self._checked.add(state)
        return features

    def _values(
        self, slide: str, mpp: float | None, path: Path, group: RowSource, *, checked: bool
    ) -> Float[np.ndarray, "tile dim"]:
        """All rows of a features file, whoever wrote it."""
        own, remedy = group.foreign is None, repair_advice(self.path, slide)
        if group.foreign is not None and group.foreign.format is not None:
            return _foreign_rows(path, group.foreign, remedy, None if checked else group.digest)
        with opened_h5(path, remedy, digest=group.digest, checked=checked) as file:
            attributes = {} if checked else attributes_of(file, SAYS_WHOSE)
            if attributes.get(VERSION_ATTRIBUTE) is not None:
                check_version(attributes[VERSION_ATTRIBUTE], path)
                if own:
                    check_belongs(attributes, path, remedy, slide=slide, settings=self.content["settings"], mpp=mpp)
            values, coords = read_rows(file)
        if len(values) != len(coords):
            raise StoreError(f"cannot use {path}: it has {len(values)} features and {len(coords)} coords. {remedy}")
        return values

    def _check_values(
        self, slide: str, path: Path, digest: str | None, features: Float[np.ndarray, "tile dim"]
    ) -> None:
        """Refuse rows that are not finite, and say where nobody knows whether they are the ones that were indexed."""
        if digest is None:
            if not self._unchecked:
                warnings.warn(
                    f"{self.path} holds slides that are unchecked ({slide} is one): an older version wrote them "
                    "without a digest of their files, so nobody can tell whether these have changed since.",
                    ParfocalWarning,
                    stacklevel=4,
                )
            self._unchecked.add(slide)
        bad = count_not_finite(features)
        if bad:
            raise NotFiniteError(
                f"cannot use {slide}: {bad} of {len(features)} rows of {path} hold values that are not finite. "
                "Extract the slide again, or leave it out."
            )

    @cached_property
    def _unchecked(self) -> set[str]:
        """The slides that have no digest, as far as they have been read."""
        return set()


Source = Path | str | EmbeddingSet
"""Where embeddings come from: a store, on a disk or in a bucket, the folder of one of its sets, or a set that is open.
"""


def open_sets(source: Source) -> list[EmbeddingSet]:
    """The sets of a store that hold a slide, sorted by name; or the set whose folder is named, even an empty one.

    A set that is open is given back.

    A run that failed on every slide leaves its set without any, and that must not stand in the way of the others.

    Raises:
        StoreError: there is no set, or no slide is done in any.
        FormatVersionError: a newer parfocal wrote a set.
    """
    if isinstance(source, EmbeddingSet):
        return [source]
    path = on_disk(source)
    if (path / SETTINGS_FILE).is_file():
        return [_open(path)]
    # Nothing is found in what is no folder.
    found = [_open(file.parent) for file in sorted(path.glob(f"*/{SETTINGS_FILE}")) if file.is_file()]
    if not found:
        raise StoreError(
            f"{shown_path(source)} holds no embeddings: there is no {SETTINGS_FILE} in it or in a folder of it."
        )
    with_slides = [one for one in found if one.slides]
    if not with_slides:
        names = ", ".join(one.name for one in found)
        raise StoreError(
            f"{shown_path(source)} holds no embeddings: no slide is done in any of its {len(found)} sets: {names}. "
            "Embed slides first; failures.csv says which ones failed, and why."
        )
    return with_slides


def open_set(source: Source) -> EmbeddingSet:
    """The only set of a store that holds a slide, or the set whose folder is named; one that is open is given back.

    Raises:
        StoreError: there is none, or more than one.
    """
    sets = open_sets(source)
    if len(sets) > 1:
        names = ", ".join(one.name for one in sets)
        raise StoreError(f"{source} holds {len(sets)} sets: {names}. Name the folder of one of them.")
    return sets[0]


def done_slides(set_path: Path) -> tuple[str, ...]:
    """The ids of the slides whose index is there, sorted; temporary files of killed runs do not count."""
    folder = os.path.join(set_path, INDEX_FOLDER)
    # As texts: with a path for each it takes eight times as long.
    files = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names if name[0] != ".")
    found = (file[len(folder) + 1 :].removesuffix(".h5") for file in files if file.endswith(".h5"))
    return tuple(sorted(slide.replace(os.sep, "/") for slide in found))


def _open(path: Path) -> EmbeddingSet:
    return EmbeddingSet(path=path, content=read_settings(path), slides=done_slides(path))


def stored_rows(group: Mapping[str, Any]) -> int:
    """How many rows a group of an index names; one that several regions share counts once."""
    return len(np.unique(group["row"][...])) if "row" in group else int(group["region"].shape[0])


def _foreign_rows(path: Path, foreign: ForeignRows, remedy: str, digest: str | None) -> Float[np.ndarray, "tile dim"]:
    """All rows of a file of another tool; against `digest` it is checked that it is the one that was indexed."""
    if foreign.format is None or foreign.format not in FORMATS:
        raise StoreError(f"cannot read {path}: its format {foreign.format!r} is not installed. {remedy}")
    if not path.exists():
        raise StoreError(f"cannot read {path}: it is absent. {remedy}")
    if digest is not None and tree_digest(path) != digest:
        raise StoreError(f"cannot use {path}: it has changed since it was indexed. {remedy}")
    return np.asarray(FORMATS.get(foreign.format).read_rows(FeatureSource(path, foreign.part)))


def _places(
    slide: str, index: SlideIndex, region: Mapping[float, np.ndarray], center_um: Mapping[float, np.ndarray]
) -> SlidePlaces:
    slide_mpp, region_um = float(index.attrs["slide_mpp"]), float(index.attrs["region_um"])
    return SlidePlaces(slide, region_um, slide_mpp, index.values["region_xy_um"].copy(), region, center_um)


def _state(path: Path) -> tuple[Path, int, int, int]:
    """What tells that a file is still the same; of one that cannot be asked, whoever opens it says why."""
    try:
        status = path.stat()
    except OSError:
        return path, *_NOWHERE
    return path, status.st_size, status.st_mtime_ns, status.st_ino


def _index_remedy(slide: str) -> str:
    return f"Remove it and embed or index {slide} again."


def only_mpps(source: EmbeddingSet, mpps: Sequence[float]) -> EmbeddingSet:
    """The same set of tiles with only some magnifications; files of the others are never opened.

    Regions stay those of the set: one without a tile of these magnifications is there and has no tile.

    Args:
        source: a set of tiles.
        mpps: which, in any order; none stands for all.

    Raises:
        MismatchError: the set lacks one of them.
        StoreError: `source` is a set of regions.
    """
    dims = source.dims  # a set of regions is refused here
    wanted = {format_mpp(mpp) for mpp in mpps}
    held = {format_mpp(mpp): mpp for mpp in source.mpps}
    unknown = sorted(wanted - held.keys(), key=float)
    if unknown:
        raise MismatchError(
            f"{source.name} has no tiles at {', '.join(unknown)} mpp; it has {', '.join(held)}. Name some of these."
        )
    kept = [mpp for name, mpp in held.items() if name in wanted] if wanted else list(source.mpps)
    if len(kept) == len(source.mpps):
        return source
    digests = {mpp: source.encoder_digests[mpp] for mpp in kept}
    content = {
        **source.content,
        "mpps": kept,
        "dims": {format_mpp(mpp): dims[mpp] for mpp in kept},
        "encoder_digests": {format_mpp(mpp): digest for mpp, digest in digests.items()},
        "encoder_digest": encoder_digest(digests),
    }
    return replace(source, content=content)
