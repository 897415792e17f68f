"""Writing the embeddings of a slide: streamed as they come, or all at once; whole or not at all."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Float32, Int64

from parfocal.errors import StoreError
from parfocal.geometry import format_mpp, to_l0px
from parfocal.store.absent import AbsentRows
from parfocal.store.disk import NewFile, new_file
from parfocal.store.files import SlideOrigin, as_stored, write_index, write_layout
from parfocal.store.fingerprint import SlideState
from parfocal.store.layout import (
    features_path,
    index_path,
    pixel_of_places,
    read_settings,
    realised_mpp,
    set_attributes,
)
from parfocal.store.row_source import RowSource
from parfocal.store.tokens import SlidePlaces, SlideRegions, SlideTokens


class SlideWriter:
    """Streams the rows of one slide into temporary files, and renames them when the block ends well.

    Rows go to disk as they come, so memory does not grow with the slide. The features are renamed first, the index
    last. An exception inside the block leaves nothing behind.
    """

    def __init__(
        self,
        set_path: Path,
        places: SlidePlaces,
        *,
        coords_l0px: Mapping[float, Int64[np.ndarray, "_tile 2"]] | None = None,
        row: Mapping[float, Int64[np.ndarray, " _place"]] | None = None,
        there: Mapping[float, RowSource] | None = None,
        origin: SlideOrigin | None = None,
        replaces: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare to write the rows that are announced.

        Args:
            set_path: the set, of tiles.
            places: of the slide's regions and of each row that will come; or of each tile of each region, where several
                of them share a row.
            coords_l0px: per magnification, the top left of each row's tile as the slide was read; computed where it is
                not given.
            row: per magnification, the number of the row of each of `places` where they share some; every row is named.
            there: of magnifications whose rows lie in files that are there already, and stay as they are; their rows
                neither are announced nor come.
            origin: what is known of the slide file.
            replaces: whether the slide is there already, and what is written takes its place.
            attributes: further attributes of the index.

        Raises:
            StoreError: this is no set of tiles.
        """
        self._set_path, self._places, self._coords_l0px, self._row = set_path, places, coords_l0px, row
        self._origin, self._replaces = origin or SlideOrigin(), replaces
        self._there, self._attributes = dict(there or {}), dict(attributes or {})
        self._settings = read_settings(set_path)
        if self._settings["kind"] != "tiles":
            raise StoreError(f"cannot write tile embeddings to {set_path}: it is a set of regions.")
        self._stack = ExitStack()
        self._files: dict[float, NewFile] = {}
        self._datasets: dict[float, h5py.Dataset] = {}
        self._written: dict[float, int] = {}
        self._absent: dict[float, AbsentRows] = {}
        self._unread: dict[float, Int64[np.ndarray, "tile 2"]] = {}
        self._worth: dict[float, Float32[np.ndarray, " tile"]] = {}

    @property
    def n_regions(self) -> int:
        """How many regions the slide has, without those that lost all of their tiles."""
        return len(self._places.region_xy_um)

    def __enter__(self) -> "SlideWriter":
        with ExitStack() as stack:
            for mpp in self._own:
                self._datasets[mpp] = self._begin(stack, mpp)
                self._written[mpp] = 0
            self._stack = stack.pop_all()
        return self

    @property
    def _own(self) -> list[float]:
        """The magnifications of which rows come."""
        return [mpp for mpp in self._settings["mpps"] if mpp not in self._there]

    def append(self, mpp: float, rows: Float[np.ndarray, "tile dim"]) -> Float[np.ndarray, "tile dim"]:
        """Add the next rows of a magnification, in the order that was announced; they come back as they are stored.

        Raises:
            StoreError: a value is not finite, or does not fit float16.
            ValueError: more rows come than were announced, or of another width.
        """
        dataset = self._datasets[mpp]
        start = self._written[mpp]
        if start + len(rows) > len(dataset) or rows.shape[1] != dataset.shape[1]:
            raise ValueError(f"{len(rows)} rows of width {rows.shape[1]} do not fit {dataset.shape} after {start}")
        stored = as_stored(rows, dataset.dtype, f"row {start} and following of {self._places.slide} at {mpp:g} mpp")
        dataset[start : start + len(rows)] = stored
        self._files[mpp].check()
        self._written[mpp] = start + len(rows)
        return stored

    def leave_out(
        self,
        absent: Mapping[float, Mapping[int, str]],
        unread: Mapping[float, Int64[np.ndarray, " _tile"]] | None = None,
    ) -> None:
        """Say which of the announced rows do not come, before the block ends.

        The others keep their order. A region that none of its tiles is left of is left out too; the index keeps where
        the absent tiles are, and why they are absent, and where those are that nobody wanted to read.

        Args:
            absent: per magnification, the number of each absent row among the announced ones, and the reason.
            unread: per magnification, the numbers of the rows that were not read by choice, rising.
        """
        unread = unread or {}
        announced = self._places
        lost: set[int] = set()
        coords = {mpp: self._coords(mpp) for mpp in self._own}
        region, center_um, coords_l0px = dict(announced.region), dict(announced.center_um), dict(coords)
        row, tissue = dict(self._row or {}), dict(announced.tissue)
        for mpp in dict.fromkeys([*absent, *unread]):
            reasons, not_read = absent.get(mpp, {}), unread.get(mpp, np.zeros(0, np.int64))
            missing = np.array(sorted(reasons), np.int64)
            rows = np.union1d(missing, not_read)
            places = np.flatnonzero(np.isin(row[mpp], rows)) if mpp in row else rows
            lost |= set(region[mpp][places].tolist())
            self._unread[mpp] = coords[mpp][not_read]
            self._absent[mpp] = AbsentRows(coords[mpp][missing], tuple(reasons[row] for row in missing.tolist()))
            coords_l0px[mpp] = np.delete(coords_l0px[mpp], rows, axis=0)
            for values in (region, center_um, tissue):
                if mpp in values:
                    values[mpp] = np.delete(values[mpp], places, axis=0)
            if mpp in row:
                left = np.delete(row[mpp], places)
                row[mpp] = left - np.searchsorted(rows, left)
        lost -= set(np.concatenate(list(region.values())).tolist())
        kept = np.setdiff1d(np.arange(self.n_regions), list(lost))
        # Rows of a region that is left out are gone already, so every number is found.
        region = {mpp: np.searchsorted(kept, numbers).astype(np.int32) for mpp, numbers in region.items()}
        xy_um = announced.region_xy_um[kept]
        self._places = replace(announced, region_xy_um=xy_um, region=region, center_um=center_um, tissue=tissue)
        self._coords_l0px, self._row = coords_l0px, row or None

    def as_stored(self, mpp: float, rows: Float[np.ndarray, "tile dim"]) -> Float[np.ndarray, "tile dim"]:
        """Rows of a magnification as they will be stored, for whoever must not wait until they are appended.

        Raises:
            StoreError: a value is not finite, or does not fit float16.
        """
        return as_stored(rows, self._datasets[mpp].dtype, f"rows of {self._places.slide} at {mpp:g} mpp")

    def set_reading(self, reading: Mapping[str, Any], worth: Float[np.ndarray, " tile"] | None = None) -> None:
        """Say how the slide was read in part, before the fingerprint is set.

        Args:
            reading: by the names of READING.
            worth: of all planned finest tiles as they are ordered, where it is compared between slides.
        """
        self._origin = replace(self._origin, reading=reading)
        if worth is not None:
            self._worth = {min(self._settings["mpps"]): worth.astype(np.float32)}

    def set_fingerprint(self, fingerprint: str, state: SlideState) -> None:
        """Say which file the rows come from, before the block ends: this is known when the file has been read."""
        self._origin = replace(self._origin, fingerprint=fingerprint, state=state)
        for dataset in self._datasets.values():
            known = self._origin.attributes()
            set_attributes(dataset.parent, {name: value for name, value in known.items() if value is not None})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        expected = {mpp: len(self._coords(mpp)) for mpp in self._written}
        short = {mpp: (n, expected[mpp]) for mpp, n in self._written.items() if n != expected[mpp]}
        if kind is None and short:
            problem = StoreError(f"cannot finish {self._places.slide}: rows are missing (written, announced): {short}.")
            self._stack.__exit__(type(problem), problem, None)
            raise problem
        if kind is None:
            for mpp in self._absent:
                self._shorten(mpp)
            if self._replaces:
                # A kill from here on leaves a slide that is not done, and no files of two readings beside each other.
                for file in self._files.values():
                    file.flush()
                    file.check()
                index_path(self._set_path, self._places.slide).unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            digests: dict[float | None, str] = {mpp: file.digest for mpp, file in self._files.items()}
            foreign, rows = {}, dict(self._row or {})
            for mpp, source in self._there.items():
                foreign[mpp] = source.rows_in(self._set_path)
                if source.row is not None:
                    rows[mpp] = source.row
                if source.digest is not None:
                    digests[mpp] = source.digest
            write_index(
                self._set_path,
                self._places,
                row=rows or None,
                foreign=foreign or None,
                digests=digests,
                absent=self._absent,
                unread=self._unread,
                worth=self._worth,
                origin=self._origin,
                **self._attributes,
            )

    def _shorten(self, mpp: float) -> None:
        """Cut a features file, which was made for the announced rows, to those that came."""
        features, coords = self._datasets[mpp], self._coords(mpp)
        features.resize(len(coords), axis=0)
        features.parent["coords"].resize(len(coords), axis=0)
        features.parent["coords"][...] = coords

    def _begin(self, stack: ExitStack, mpp: float) -> h5py.Dataset:
        places, tile_px = self._places, self._settings["tile_px"]
        path = features_path(self._set_path, places.slide, mpp)
        file = self._files[mpp] = new_file(stack, path)
        dataset = write_layout(
            file,
            self._settings,
            places.slide,
            path.parent,
            coords_l0px=self._coords(mpp),
            dim=self._settings["dims"][format_mpp(mpp)],
            tile_um=tile_px * mpp * self._scale,
            tile_px=tile_px,
            slide_mpp=places.slide_mpp,
            origin=self._origin,
        )
        low, high = realised_mpp(places.region_xy_um, places.region_um, places.slide_mpp, mpp * self._scale)
        digest = self._settings["encoder_digests"][format_mpp(mpp)]
        set_attributes(file, {"mpp": mpp, "realised_mpp_min": low, "realised_mpp_max": high, "encoder_digest": digest})
        return dataset

    @property
    def _scale(self) -> float:
        """By how much the regions of the slide, and with them its tiles, are larger than the set says."""
        return float(self._places.region_um / self._settings["region_um"])

    def _coords(self, mpp: float) -> Int64[np.ndarray, "tile 2"]:
        if self._coords_l0px is not None:
            return self._coords_l0px[mpp]
        places = self._places
        tile_um = self._settings["tile_px"] * mpp * self._scale
        in_region = places.center_um[mpp].astype(np.float64) + (places.region_um - tile_um) / 2
        coords = to_l0px(places.region_xy_um[places.region[mpp]] + in_region, pixel_of_places(places.slide_mpp))
        return coords if self._row is None else coords[np.unique(self._row[mpp], return_index=True)[1]]


def write_tokens(set_path: Path, tokens: SlideTokens, *, origin: SlideOrigin | None = None) -> None:
    """Write the tile embeddings of one slide into a set of tiles; a slide that is there already is replaced.

    Raises:
        StoreError: a value is not finite, or does not fit the rows of the set.
    """
    with SlideWriter(set_path, tokens.places, origin=origin) as writer:
        for mpp in tokens.mpps:
            writer.append(mpp, tokens.features[mpp])


def write_regions(set_path: Path, regions: SlideRegions, *, origin: SlideOrigin | None = None) -> None:
    """Write the region embeddings of one slide into a set of regions, in TRIDENT's layout: a region is a patch.

    Raises:
        StoreError: the set is not one of regions, or a value does not fit its rows.
    """
    settings = read_settings(set_path)
    if settings["kind"] != "regions":
        raise StoreError(f"cannot write region embeddings to {set_path}: it is a set of tiles.")
    path = features_path(set_path, regions.slide, None)
    coords_l0px = to_l0px(regions.region_xy_um, pixel_of_places(regions.slide_mpp))
    with ExitStack() as stack:
        file = new_file(stack, path)
        finest = min(settings["mpps"])
        dataset = write_layout(
            file,
            settings,
            regions.slide,
            path.parent,
            coords_l0px=coords_l0px,
            dim=regions.features.shape[1],
            tile_um=regions.region_um,
            tile_px=round(regions.region_um / finest),
            slide_mpp=regions.slide_mpp,
            origin=origin or SlideOrigin(),
        )
        set_attributes(file, {"encoder_digest": settings["encoder_digest"]})
        dataset[:] = as_stored(regions.features, dataset.dtype, f"the regions of {regions.slide}")
    write_index(set_path, regions.places, digests={None: file.digest}, origin=origin)
