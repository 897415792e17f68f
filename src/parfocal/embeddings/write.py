"""Writing a set: its folder with the settings, then the files of each slide, whole or not at all."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64

from parfocal.embeddings.layout import (
    FORMAT_VERSION,
    SETTINGS_FILE,
    VERSION_ATTRIBUTE,
    Kind,
    chunk_rows,
    coords_attributes,
    encoder_digest,
    features_path,
    file_attributes,
    index_path,
    read_settings,
    realised_mpp,
    set_attributes,
)
from parfocal.embeddings.tokens import SlideRegions, SlideTokens
from parfocal.errors import MismatchError, StoreError
from parfocal.geometry import format_mpp, to_l0px
from parfocal.provenance import canonical_json, digest8, provenance, remove_leftovers, writing

__all__ = ["RowDtype", "SlideOrigin", "SlideWriter", "create_set", "write_index", "write_regions", "write_tokens"]

RowDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class SlideOrigin:
    """What a store keeps of the slide file that its rows come from; all of it may be unknown.

    Attributes:
        path: the slide file, as text.
        fingerprint: `provenance.file_fingerprint` of it.
        size_l0px: width and height of level 0, in pixels.
        objective_power: what the slide says of its objective.
        mpp_source: where the slide's mpp came from.
    """

    path: str | None = None
    fingerprint: str | None = None
    size_l0px: tuple[int, int] = (0, 0)
    objective_power: float | None = None
    mpp_source: str | None = None

    def attributes(self) -> dict[str, Any]:
        """As attributes of a file; None where nothing is known."""
        return {
            "slide_path": self.path,
            "slide_fingerprint": self.fingerprint,
            "slide_mpp_source": self.mpp_source,
            "level0_width": self.size_l0px[0] or None,
            "level0_height": self.size_l0px[1] or None,
        }


def create_set(
    root: Path,
    name: str,
    kind: Kind,
    *,
    region_um: float,
    dims: Mapping[float, int] | int,
    settings: Mapping[str, Any],
    encoder_digests: Mapping[float, str],
    tile_px: int | None = None,
    dtype: RowDtype = "float16",
) -> Path:
    """Make the folder of a set in a store, or find that it is there with the same settings.

    Args:
        root: the store.
        name: the folder's name; it should hold a digest of the settings, so that other settings get another folder.
        kind: `tiles` or `regions`.
        region_um: side of a region, in micrometres.
        dims: width of a row, per magnification for tiles, one number for regions.
        settings: everything that changes a row, as plain values.
        encoder_digests: per magnification, the digest of the tile encoder's description.
        tile_px: side of a tile in pixels; needed for tiles.
        dtype: type of the rows.

    Returns:
        The folder of the set.

    Raises:
        MismatchError: the folder is there and was made with other settings.
    """
    if (kind == "tiles") != isinstance(dims, Mapping) or (kind == "tiles" and tile_px is None):
        raise ValueError("tiles need dims by magnification and tile_px; regions need one number as dims")
    identity = {
        "kind": kind,
        "name": name,
        "region_um": region_um,
        "tile_px": tile_px,
        "dtype": dtype,
        "mpps": sorted(encoder_digests, reverse=True),
        "dims": {format_mpp(m): d for m, d in dims.items()} if isinstance(dims, Mapping) else dims,
        "encoder_digests": {format_mpp(m): d for m, d in encoder_digests.items()},
        "encoder_digest": encoder_digest(encoder_digests),
        "settings": dict(settings),
    }
    # Through JSON once, so that tuples compare equal with the lists that are read back.
    identity = json.loads(canonical_json(identity))
    path = root / name
    file = path / SETTINGS_FILE
    if file.exists():
        found = read_settings(path)
        differing = sorted(key for key in identity if found.get(key) != identity[key])
        if differing:
            raise MismatchError(
                f"cannot write to the set {path}: it was made with another {', '.join(differing)}. "
                "Choose another output folder."
            )
        return path
    content = {VERSION_ATTRIBUTE: FORMAT_VERSION, **provenance(settings), **identity}
    del content["parfocal_settings"]  # `settings` holds the same, readable
    with writing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


class SlideWriter:
    """Streams the rows of one slide into temporary files, and renames them when the block ends well.

    Rows go to disk as they come, so memory does not grow with the slide. The features are renamed first, the index
    last. An exception inside the block leaves nothing behind.
    """

    def __init__(
        self,
        set_path: Path,
        slide: str,
        *,
        slide_mpp: float,
        region_xy_um: Float64[np.ndarray, "region 2"],
        region: Mapping[float, Int32[np.ndarray, " _tile"]],
        center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]],
        coords_l0px: Mapping[float, Int64[np.ndarray, "_tile 2"]] | None = None,
        region_um: float | None = None,
        origin: SlideOrigin | None = None,
    ) -> None:
        """Prepare to write the rows that are announced.

        Args:
            set_path: the set, of tiles.
            slide: the slide's id.
            slide_mpp: micrometres per pixel of level 0.
            region_xy_um: top left of each region, in micrometres.
            region: per magnification, the region's number of each row that will come.
            center_um: per magnification, the tile's centre about its region's, in micrometres.
            coords_l0px: per magnification, the tile's top left as the slide was read; computed where it is not given.
            region_um: side of this slide's regions, where it is not exactly the set's (see `index_features`).
            origin: what is known of the slide file.

        Raises:
            StoreError: this is no set of tiles.
        """
        self._set_path = set_path
        self._slide = slide
        self._slide_mpp = slide_mpp
        self._region_xy_um = region_xy_um
        self._region = region
        self._center_um = center_um
        self._coords_l0px = coords_l0px
        self._origin = origin or SlideOrigin()
        self._settings = read_settings(set_path)
        self._region_um = region_um or float(self._settings["region_um"])
        if self._settings["kind"] != "tiles":
            raise StoreError(f"cannot write tile embeddings to {set_path}: it is a set of regions.")
        self._stack = ExitStack()
        self._datasets: dict[float, h5py.Dataset] = {}
        self._written: dict[float, int] = {}

    def __enter__(self) -> "SlideWriter":
        with ExitStack() as stack:
            for mpp in self._settings["mpps"]:
                self._datasets[mpp] = self._begin(stack, mpp)
                self._written[mpp] = 0
            self._stack = stack.pop_all()
        return self

    def append(self, mpp: float, rows: Float[np.ndarray, "tile dim"]) -> None:
        """Add the next rows of a magnification, in the order that was announced.

        Raises:
            StoreError: a value is not finite, or does not fit float16.
            ValueError: more rows come than were announced, or of another width.
        """
        dataset = self._datasets[mpp]
        start = self._written[mpp]
        if start + len(rows) > len(dataset) or rows.shape[1] != dataset.shape[1]:
            raise ValueError(f"{len(rows)} rows of width {rows.shape[1]} do not fit {dataset.shape} after {start}")
        dataset[start : start + len(rows)] = _as_stored(
            rows, dataset.dtype, f"row {start} and following of {self._slide} at {mpp:g} mpp"
        )
        self._written[mpp] = start + len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        short = {mpp: (n, len(self._datasets[mpp])) for mpp, n in self._written.items() if n < len(self._datasets[mpp])}
        if kind is None and short:
            problem = StoreError(f"cannot finish {self._slide}: rows are missing (written, announced): {short}.")
            self._stack.__exit__(type(problem), problem, None)
            raise problem
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            write_index(
                self._set_path,
                self._slide,
                slide_mpp=self._slide_mpp,
                region_xy_um=self._region_xy_um,
                region=self._region,
                center_um=self._center_um,
                region_um=self._region_um,
                origin=self._origin,
            )

    def _begin(self, stack: ExitStack, mpp: float) -> h5py.Dataset:
        path = features_path(self._set_path, self._slide, mpp)
        tile_px = self._settings["tile_px"]
        file = _new_file(stack, path)
        dataset = _write_layout(
            file,
            self._settings,
            self._slide,
            path.parent,
            coords_l0px=self._coords(mpp),
            dim=self._settings["dims"][format_mpp(mpp)],
            tile_um=tile_px * mpp,
            tile_px=tile_px,
            slide_mpp=self._slide_mpp,
            origin=self._origin,
        )
        low, high = realised_mpp(self._region_xy_um, self._region_um, self._slide_mpp, mpp)
        digest = self._settings["encoder_digests"][format_mpp(mpp)]
        set_attributes(file, {"mpp": mpp, "realised_mpp_min": low, "realised_mpp_max": high, "encoder_digest": digest})
        return dataset

    def _coords(self, mpp: float) -> Int64[np.ndarray, "tile 2"]:
        if self._coords_l0px is not None:
            return self._coords_l0px[mpp]
        tile_um = self._settings["tile_px"] * mpp * self._region_um / self._settings["region_um"]
        in_region = self._center_um[mpp].astype(np.float64) + (self._region_um - tile_um) / 2
        return to_l0px(self._region_xy_um[self._region[mpp]] + in_region, self._slide_mpp)


def write_tokens(set_path: Path, tokens: SlideTokens, *, origin: SlideOrigin | None = None) -> None:
    """Write the tile embeddings of one slide into a set of tiles; a slide that is there already is replaced.

    Raises:
        StoreError: a value is not finite, or does not fit the rows of the set.
    """
    with SlideWriter(
        set_path,
        tokens.slide,
        slide_mpp=tokens.slide_mpp,
        region_xy_um=tokens.region_xy_um,
        region=tokens.region,
        center_um=tokens.center_um,
        region_um=tokens.region_um,
        origin=origin,
    ) as writer:
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
    with ExitStack() as stack:
        file = _new_file(stack, path)
        finest = min(settings["mpps"])
        dataset = _write_layout(
            file,
            settings,
            regions.slide,
            path.parent,
            coords_l0px=to_l0px(regions.region_xy_um, regions.slide_mpp),
            dim=regions.features.shape[1],
            tile_um=regions.region_um,
            tile_px=round(regions.region_um / finest),
            slide_mpp=regions.slide_mpp,
            origin=origin or SlideOrigin(),
        )
        set_attributes(file, {"encoder_digest": settings["encoder_digest"]})
        dataset[:] = _as_stored(regions.features, dataset.dtype, f"the regions of {regions.slide}")
    write_index(
        set_path,
        regions.slide,
        slide_mpp=regions.slide_mpp,
        region_xy_um=regions.region_xy_um,
        region_um=regions.region_um,
        origin=origin,
    )


def write_index(
    set_path: Path,
    slide: str,
    *,
    slide_mpp: float,
    region_xy_um: Float64[np.ndarray, "region 2"],
    region: Mapping[float, Int32[np.ndarray, " _tile"]] | None = None,
    center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]] | None = None,
    row: Mapping[float, Int[np.ndarray, " _tile"]] | None = None,
    files: Mapping[float, str] | None = None,
    region_um: float | None = None,
    origin: SlideOrigin | None = None,
    **attributes: Any,
) -> None:
    """Write a slide's index: where its regions are and which rows are theirs. From then on the slide is done.

    Args:
        set_path: the set.
        slide: the slide's id.
        slide_mpp: micrometres per pixel of level 0.
        region_xy_um: top left of each region, in micrometres.
        region: per magnification, the region's number of each row; None for a set of regions.
        center_um: per magnification, the tile's centre about the region's, in micrometres.
        row: per magnification, which rows of the features file are meant, in the order of `region`; None where all
            of them are, in their own order.
        files: per magnification, the features file relative to the set, where it is not the set's own.
        region_um: side of this slide's regions, where it is not exactly the set's.
        origin: what is known of the slide file.
        attributes: further attributes of the index.
    """
    settings = read_settings(set_path)
    path = index_path(set_path, slide)
    with ExitStack() as stack:
        file = _new_file(stack, path)
        set_attributes(
            file,
            file_attributes(
                settings=settings["settings"],
                kind=settings["kind"],
                slide=slide,
                region_um=region_um or settings["region_um"],
                slide_mpp=slide_mpp,
                encoder_digest=settings["encoder_digest"],
                **(origin or SlideOrigin()).attributes(),
                **attributes,
            ),
        )
        file.create_dataset("region_xy_um", data=region_xy_um)
        for mpp in sorted(region or {}, reverse=True):
            group = file.create_group(format_mpp(mpp))
            group.attrs["mpp"] = mpp
            if files is not None:
                group.attrs["features_file"] = files[mpp]
            group.create_dataset("region", data=(region or {})[mpp])
            group.create_dataset("center_um", data=(center_um or {})[mpp])
            if row is not None:
                group.create_dataset("row", data=row[mpp])


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The digest that stands in a set's name."""
    return digest8(json.loads(canonical_json(dict(settings))))


def _new_file(stack: ExitStack, path: Path) -> h5py.File:
    """A new HDF5 file that becomes `path` when the stack is left well; what killed writers left is removed."""
    remove_leftovers(path)
    temporary = stack.enter_context(writing(path))
    # The default chunk cache of 1 MiB would write a chunk of that size once per batch instead of once.
    return stack.enter_context(h5py.File(temporary, "w", rdcc_nbytes=4 * (1 << 20)))


def _write_layout(
    file: h5py.File,
    settings: Mapping[str, Any],
    slide: str,
    folder: Path,
    *,
    coords_l0px: Int64[np.ndarray, "tile 2"],
    dim: int,
    tile_um: float,
    tile_px: int,
    slide_mpp: float,
    origin: SlideOrigin,
) -> h5py.Dataset:
    """Everything of a features file except the values of `features`, which are zero until written."""
    set_attributes(
        file, file_attributes(settings=settings["settings"], slide=slide, slide_mpp=slide_mpp, **origin.attributes())
    )
    dtype = np.dtype(settings["dtype"])
    rows = len(coords_l0px)
    features = file.create_dataset(
        "features",
        shape=(rows, dim),
        maxshape=(None, dim),
        dtype=dtype,
        chunks=(chunk_rows(rows, dim, dtype.itemsize), dim),
    )
    set_attributes(
        features, {"encoder": settings["settings"].get("encoder", ""), "name": slide, "savetodir": str(folder)}
    )
    coords = file.create_dataset("coords", data=coords_l0px, maxshape=(None, 2), chunks=(max(1, min(rows, 65536)), 2))
    set_attributes(
        coords,
        coords_attributes(
            slide=slide,
            folder=folder,
            tile_px=tile_px,
            mpp=tile_um / tile_px,
            slide_mpp=slide_mpp,
            size_l0px=origin.size_l0px,
            objective_power=origin.objective_power,
        ),
    )
    return features


def _as_stored(rows: Float[np.ndarray, "tile dim"], dtype: np.dtype, where: str) -> Float[np.ndarray, "tile dim"]:
    if len(rows) == 0:
        return rows.astype(dtype)
    largest = float(np.max(np.abs(rows)))
    if not np.isfinite(largest):
        raise StoreError(f"cannot store {where}: a value is not finite. The encoder failed on these tiles.")
    if largest > float(np.finfo(dtype).max):
        raise StoreError(
            f"cannot store {where}: the value {largest:.4g} does not fit {dtype.name} "
            f"(up to {float(np.finfo(dtype).max):.6g}). Use float32 rows (--dtype float32)."
        )
    return rows.astype(dtype)
