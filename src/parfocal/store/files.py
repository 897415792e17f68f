"""One file of a store: how it begins, what it carries, and what its rows may hold."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int, Int64
from scipy.spatial import cKDTree

from parfocal.errors import StoreError
from parfocal.geometry import format_mpp
from parfocal.store.absent import AbsentRows
from parfocal.store.disk import new_file
from parfocal.store.fingerprint import FINGERPRINT, SIZES, TIMES, SlideState
from parfocal.store.layout import (
    FILE_DIGEST,
    chunk_rows,
    coords_attributes,
    file_attributes,
    index_path,
    pixel_of_places,
    read_settings,
    set_attributes,
)
from parfocal.store.tokens import SlidePlaces

SCAN, PLACES = "slide_scan", "places_digest"
_FAR_PX = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SlideOrigin:
    """What a store keeps of the slide file that its rows come from; all of it may be unknown.

    Attributes:
        path: the slide file, as text.
        fingerprint: the digest of its bytes, or `files.file_fingerprint` of it where only its features are known.
        state: the sizes and times of its files.
        scan: which scan of a file that holds several.
        size_l0px: width and height of level 0, in pixels.
        objective_power: what the slide says of its objective.
        mpp_source: where the slide's mpp came from.
        tissue_mask: name and digest of the file that said where its tissue is.
        places: digest of the places that its regions lie on; None where they lie on a lattice.
        reading: how it was read in part, by the names of READING; nothing where all of it was.
    """

    path: str | None = None
    fingerprint: str | None = None
    size_l0px: tuple[int, int] = (0, 0)
    objective_power: float | None = None
    mpp_source: str | None = None
    state: SlideState | None = None
    scan: int | None = None
    tissue_mask: str | None = None
    places: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def attributes(self) -> dict[str, Any]:
        """As attributes of a file; None where nothing is known."""
        return {
            "slide_path": self.path,
            FINGERPRINT: self.fingerprint,
            SIZES: self.state.sizes if self.state else None,
            TIMES: self.state.times if self.state else None,
            SCAN: self.scan,
            "slide_mpp_source": self.mpp_source,
            "tissue_mask": self.tissue_mask,
            PLACES: self.places,
            "level0_width": self.size_l0px[0] or None,
            "level0_height": self.size_l0px[1] or None,
            **self.reading,
        }


@dataclass(frozen=True)
class ForeignRows:
    """Where the rows of an indexed slide are.

    Attributes:
        file: the features, relative to the set.
        part: which of them, where the file holds several.
        format: the name of their format; None in indexes of before there was more than one.
    """

    file: str
    part: str = ""
    format: str | None = None


def write_layout(
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
            overlap_px=_overlap_px(coords_l0px, tile_um / pixel_of_places(slide_mpp), tile_px),
        ),
    )
    return features


def _overlap_px(coords_l0px: Int64[np.ndarray, "tile 2"], side_l0px: float, tile_px: int) -> int:
    """The most pixels by which a tile reaches into its neighbour; 0 where tiles lie side by side, as rounded."""
    # Where columns and rows lie far enough apart, as on nearly every lattice, no two places are near each other, and to
    # look for the nearest of each would take a hundred times as long.
    if all(np.diff(np.unique(axis)).min(initial=_FAR_PX) > side_l0px - 2 for axis in coords_l0px.T):
        return 0
    places = np.unique(coords_l0px, axis=0)
    nearest = float(cKDTree(places).query(places, k=2, p=np.inf)[0][:, 1].min())
    return 0 if nearest > side_l0px - 2 else round(tile_px * (1 - nearest / side_l0px))


def as_stored(rows: Float[np.ndarray, "tile dim"], dtype: np.dtype, where: str) -> Float[np.ndarray, "tile dim"]:
    """The rows in the type of the file; `where` names them in the error.

    Raises:
        StoreError: a value is not finite or does not fit; clipping it would be silent damage.
    """
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


def write_index(
    set_path: Path,
    places: SlidePlaces,
    *,
    row: Mapping[float, Int[np.ndarray, " _tile"]] | None = None,
    foreign: Mapping[float, ForeignRows] | None = None,
    digests: Mapping[float | None, str] | None = None,
    absent: Mapping[float, AbsentRows] | None = None,
    unread: Mapping[float, Int64[np.ndarray, "_tile 2"]] | None = None,
    worth: Mapping[float, Float[np.ndarray, " _tile"]] | None = None,
    origin: SlideOrigin | None = None,
    **attributes: Any,
) -> None:
    """Write a slide's index: where its regions are and which rows are theirs. From then on the slide is done.

    Args:
        set_path: the set.
        places: of the slide.
        row: per magnification, which row of the features file is meant, in the order of `places.region`; nothing of one
            where all of them are, in their own order.
        foreign: per magnification, where the rows are, where they are not the set's own.
        digests: per magnification, the digest of the features file (`seal`); under None that of a set of regions.
        absent: per magnification, the planned tiles that the file has no pixels for.
        unread: per magnification, the top left of the planned tiles that were not read by choice, in level-0 pixels.
        worth: per magnification, what reading each planned tile is worth, in the order in which they are read.
        origin: what is known of the slide file.
        attributes: further attributes of the index.
    """
    settings = read_settings(set_path)
    digests = digests or {}
    with ExitStack() as stack:
        file = new_file(stack, index_path(set_path, places.slide))
        set_attributes(
            file,
            file_attributes(
                settings=settings["settings"],
                kind=settings["kind"],
                slide=places.slide,
                region_um=places.region_um,
                slide_mpp=places.slide_mpp,
                encoder_digest=settings["encoder_digest"],
                **{FILE_DIGEST: digests.get(None)},
                **(origin or SlideOrigin()).attributes(),
                **attributes,
            ),
        )
        file.create_dataset("region_xy_um", data=places.region_xy_um)
        for mpp in sorted(places.region, reverse=True):
            group = file.create_group(format_mpp(mpp))
            says: dict[str, Any] = {"mpp": mpp}
            if foreign is not None and mpp in foreign:
                known = vars(foreign[mpp]).items()
                says |= {f"features_{name}": value for name, value in known if value is not None}
            if mpp in digests:
                says[FILE_DIGEST] = digests[mpp]
            set_attributes(group, says)
            group.create_dataset("region", data=places.region[mpp])
            group.create_dataset("center_um", data=places.center_um[mpp])
            if mpp in places.tissue:
                group.create_dataset("tissue", data=places.tissue[mpp])
            if row is not None and mpp in row:
                group.create_dataset("row", data=row[mpp])
            if absent and absent.get(mpp):
                group.create_dataset("absent_coords", data=absent[mpp].coords_l0px)
                group.create_dataset("absent_reason", data=absent[mpp].reasons, dtype=h5py.string_dtype())
            if unread and len(unread.get(mpp, ())):
                group.create_dataset("unread_coords", data=unread[mpp])
            if worth and mpp in worth:
                group.create_dataset("worth", data=worth[mpp])
