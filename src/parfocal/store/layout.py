"""Where the files of a store lie, and what each of them is called inside.

A set is one folder: `settings.json`, one folder of HDF5 files per magnification in TRIDENT's layout (or the folder
`region`), and the folder `index` with one small file per slide. The index file is renamed into place last: where it
is, the slide is done.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from h5py import h5a, h5s, h5t
from jaxtyping import Float64

from parfocal.errors import FormatVersionError, MismatchError, StoreError
from parfocal.files import canonical_json, check_on_disk, digest8, provenance, writing
from parfocal.geometry import format_mpp, to_l0px

FORMAT_VERSION = 1
"""Raised when an older parfocal would misread the files; every version reads all lower ones."""

Kind = Literal["tiles", "regions"]
RowDtype = Literal["float16", "float32"]

# What every set has said of itself since the first version.
_SETTINGS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "mpps": list,
    "dims": (dict, int),
    "region_um": (int, float),
    "settings": dict,
    "encoder_digest": str,
    "encoder_digests": dict,
}

VERSION_ATTRIBUTE = "parfocal_format"
# What a file says of itself, which `check_version` and `check_belongs` ask.
SAYS_WHOSE = (VERSION_ATTRIBUTE, "slide", "parfocal_settings", "mpp")
FILE_DIGEST = "file_digest"
# How a slide was read in part.
READING = (
    "zoom_policy",
    "zoom_budget",
    "zoom_seed",
    "zoom_bound",
    "zoom_rule",
    "zoom_settled",
    "zoom_total",
    "zoom_coarser",
)
POLICY, BUDGET, SEED, BOUND, RULE, SETTLED, TOTAL, COARSER = READING
SETTINGS_FILE = "settings.json"
_SEAL = "digest"
INDEX_FOLDER = "index"
REGION_FOLDER = "region"
CHUNK_BYTES = 1 << 20

# How a text and a number are stored, and how they are given.
_PLAIN = {
    dtype: (h5t.py_create(dtype, logical=True), h5t.py_create(dtype))
    for dtype in map(np.dtype, (h5py.string_dtype(), int, float))
}
_ONE = h5s.create(h5s.SCALAR)


def index_path(set_path: Path, slide: str) -> Path:
    """The index file of a slide, the mark that it is done; a slide's id may hold folders and dots."""
    return set_path / INDEX_FOLDER / f"{slide}.h5"


def features_path(set_path: Path, slide: str, mpp: float | None) -> Path:
    """The features of a slide at one magnification, or of its regions where `mpp` is None."""
    return set_path / (REGION_FOLDER if mpp is None else format_mpp(mpp)) / f"{slide}.h5"


def stored_bytes(set_path: Path, slide: str) -> int:
    """How many bytes the files of a slide have in a set; those of another tool that an index names do not count."""
    n_bytes = 0
    for folder in set_path.iterdir():
        with suppress(OSError):  # it has none there, or another run is at it
            n_bytes += (folder / f"{slide}.h5").stat().st_size
    return n_bytes


def repair_advice(set_path: Path, slide: str) -> str:
    """What to do about a features file of a slide that is lost or damaged; nothing is repaired unasked.

    The rows may be the ones that a model was trained on, and a disk that is not there today may be there tomorrow.
    """
    return f"Put it back, or remove {index_path(set_path, slide)} and embed or index the slide again."


def chunk_rows(rows: int, dim: int, itemsize: int) -> int:
    """How many rows of features make one HDF5 chunk of about 1 MiB, and no more than there are.

    TRIDENT's chunk is one row, which reads several times slower (`benchmarks/store_read.py`); chunks far above
    1 MiB leave HDF5's chunk cache and waste space in the file of a small slide.
    """
    return max(1, min(rows, CHUNK_BYTES // max(1, dim * itemsize)))


def encoder_digest(digests: Mapping[float, str]) -> str:
    """One digest for the encoders of all magnifications; that of the one encoder where they share it.

    The magnifications are not part of it where one encoder serves all: a model trained on 2 and 0.5 mpp may be asked
    about 1 mpp of the same encoder.
    """
    distinct = set(digests.values())
    return distinct.pop() if len(distinct) == 1 else digest8({format_mpp(m): d for m, d in digests.items()})


def check_version(found: Any, file: Path) -> None:
    """Refuse a file of a newer format.

    Raises:
        FormatVersionError: `found` is above ours.
        StoreError: there is no version, so the file is not one of ours.
    """
    if found is None:
        raise StoreError(f"cannot read {file}: it carries no {VERSION_ATTRIBUTE}, so parfocal did not write it whole.")
    try:
        newer = int(found) > FORMAT_VERSION
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot read {file}: its {VERSION_ATTRIBUTE} is {found!r}, and no number.") from error
    if newer:
        raise FormatVersionError(
            f"cannot read {file}: it has format {int(found)}, this parfocal reads up to {FORMAT_VERSION}. "
            "Install the parfocal that wrote it, or a newer one."
        )


def check_belongs(
    attributes: Mapping[str, Any],
    file: Path,
    remedy: str,
    *,
    slide: str,
    settings: Mapping[str, Any] | None = None,
    mpp: float | None = None,
) -> None:
    """Refuse a file of ours that says of itself that it is another slide's, another set's or another magnification's.

    Raises:
        StoreError: it is; `remedy` is what to do.
    """
    found = attributes.get("slide")
    if found is not None and str(found) != slide:
        raise StoreError(f"cannot use {file}: it is a file of the slide {found!s}, not of {slide}. {remedy}")
    found = attributes.get("parfocal_settings")
    if settings is not None and found is not None and str(found) != canonical_json(settings):
        raise StoreError(f"cannot use {file}: it was made with other settings than its set. {remedy}")
    found = attributes.get("mpp")
    if mpp is not None and found is not None and format_mpp(float(found)) != format_mpp(mpp):
        raise StoreError(
            f"cannot use {file}: it is of {format_mpp(float(found))} mpp, not of {format_mpp(mpp)}. {remedy}"
        )


def read_settings(set_path: Path) -> dict[str, Any]:
    """The content of a set's `settings.json`.

    Raises:
        StoreError: it is absent or not readable.
        FormatVersionError: a newer parfocal wrote it.
    """
    file = set_path / SETTINGS_FILE
    if file.exists() and not file.is_file():
        raise StoreError(f"cannot open the set {set_path}: {SETTINGS_FILE} is no regular file.")
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot open the set {set_path}: {SETTINGS_FILE} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise StoreError(f"cannot open the set {set_path}: {SETTINGS_FILE} holds no table of settings.")
    check_version(content.get(VERSION_ATTRIBUTE), file)
    odd = [name for name, types in _SETTINGS.items() if not isinstance(content.get(name), types)]
    if odd:
        raise StoreError(f"cannot open the set {set_path}: its {SETTINGS_FILE} is damaged; it lacks {', '.join(odd)}.")
    try:
        _check_settings(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"cannot open the set {set_path}: {SETTINGS_FILE} is damaged ({type(error).__name__}: {error})."
        ) from error
    if _SEAL in content and content != seal_settings(content):
        raise StoreError(
            f"cannot open the set {set_path}: its {SETTINGS_FILE} has changed since it was written, and no longer "
            "says what the rows are. Copy it again."
        )
    return content


def seal_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with a digest of all else in it, by which a reader sees that nobody has changed it since."""
    values = json.loads(canonical_json({key: value for key, value in content.items() if key != _SEAL}))
    return {**values, _SEAL: digest8(values)}


def _check_settings(content: Mapping[str, Any]) -> None:
    """Raise whatever comes where an entry of the right type holds what no set has."""
    names = [format_mpp(float(mpp)) for mpp in content["mpps"]]
    if content["kind"] not in ("tiles", "regions") or not names or not float(content["region_um"]) > 0:
        raise ValueError("kind, mpps or region_um")
    widths = [content["dims"][name] for name in names] if content["kind"] == "tiles" else [content["dims"]]
    if not all(int(width) > 0 for width in widths):
        raise ValueError("dims")
    if content["kind"] == "tiles" and not int(content["tile_px"]) > 0:
        raise ValueError("tile_px")
    if np.dtype(content["dtype"]).kind != "f":
        raise ValueError("dtype")
    for name in names:
        content["encoder_digests"][name].strip()


def pixel_of_places(slide_mpp: float) -> float:
    """The unit of the places in a features file, in micrometres: a pixel of level 0.

    It is a micrometre where the resolution is not known, as of features that were indexed from files in micrometres;
    the attributes of the places say so (`unit`) and leave out all that is of level 0.
    """
    return slide_mpp if math.isfinite(slide_mpp) else 1.0


def realised_mpp(
    region_xy_um: Float64[np.ndarray, "region 2"], region_um: float, slide_mpp: float, mpp: float
) -> tuple[float, float]:
    """The smallest and the largest micrometres per pixel that tiles really have.

    A region's window starts and ends on whole level-0 pixels, so its tiles differ from the asked mpp by up to one
    level-0 pixel in a region's side; the mean over regions does not drift.
    """
    if len(region_xy_um) == 0 or math.isnan(slide_mpp):
        return mpp, mpp
    window_px = to_l0px(region_xy_um + region_um, slide_mpp) - to_l0px(region_xy_um, slide_mpp)
    scale = slide_mpp / region_um * mpp
    return float(window_px.min() * scale), float(window_px.max() * scale)


def coords_attributes(
    *,
    slide: str,
    folder: Path,
    tile_px: int,
    mpp: float,
    slide_mpp: float,
    size_l0px: tuple[int, int],
    objective_power: float | None = None,
    overlap_px: int = 0,
) -> dict[str, Any]:
    """The attributes that TRIDENT puts on `coords`.

    TRIDENT knows magnifications only, so both are 10 / mpp where the slide names no objective; whoever needs lengths
    finds the true mpp in the attributes of the file.
    """
    known = {
        "patch_size": tile_px,
        "target_magnification": _whole(10 / mpp),
        "overlap": overlap_px,
        "name": slide,
        "savetodir": str(folder),
    }
    if math.isnan(slide_mpp):
        return {**known, "unit": "um"}
    return {
        **known,
        "patch_size_level0": round(tile_px * mpp / slide_mpp),
        "level0_magnification": _whole(objective_power or 10 / slide_mpp),
        "level0_width": size_l0px[0],
        "level0_height": size_l0px[1],
    }


def file_attributes(*, settings: Any, **ours: Any) -> dict[str, Any]:
    """The attributes of the file itself: format, version, settings, and what is given; None becomes no attribute."""
    values = {VERSION_ATTRIBUTE: FORMAT_VERSION, **provenance(settings), **ours}
    return {
        key: canonical_json(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def set_attributes(target: h5py.HLObject, attributes: Mapping[str, Any]) -> None:
    """Write attributes onto a file, group or dataset.

    Texts and numbers, which nearly all are, by h5py's low-level functions: its mapping finds out anew for each how it
    is stored, and for each of a file what its root is, which takes longer than to write it.
    """
    place = target["/"] if isinstance(target, h5py.File) else target
    for key, value in attributes.items():
        is_plain = type(value) in (str, int, float) and not h5a.exists(place.id, key.encode())
        data = np.asarray(value, object if isinstance(value, str) else None) if is_plain else None
        if data is None or data.dtype not in _PLAIN:
            place.attrs[key] = value
        else:
            stored, given = _PLAIN[data.dtype]
            h5a.create(place.id, key.encode(), stored, _ONE).write(data, mtype=given)


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value


def create_set(
    root: Path,
    name: str,
    kind: Kind,
    *,
    region_um: float,
    dims: Mapping[float, int] | int,
    settings: Mapping[str, Any],
    encoder_digests: Mapping[float, str],
    tile_px: int | Mapping[float, int] | None = None,
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
        tile_px: side of a tile in pixels, per magnification where they differ; needed for tiles.
        dtype: type of the rows.

    Returns:
        The folder of the set.

    Raises:
        MismatchError: the folder is there and was made with other settings.
        StoreError: the store is an address.
    """
    check_on_disk(root)
    if (kind == "tiles") != isinstance(dims, Mapping) or (kind == "tiles" and tile_px is None):
        raise ValueError("tiles need dims by magnification and tile_px; regions need one number as dims")
    sides = dict.fromkeys(encoder_digests, tile_px) if not isinstance(tile_px, Mapping) else dict(tile_px)
    identity = {
        "kind": kind,
        "name": name,
        "region_um": region_um,
        "tile_px": sides[min(sides)],
        "dtype": dtype,
        "mpps": sorted(encoder_digests, reverse=True),
        "dims": {format_mpp(m): d for m, d in dims.items()} if isinstance(dims, Mapping) else dims,
        "encoder_digests": {format_mpp(m): d for m, d in encoder_digests.items()},
        "encoder_digest": encoder_digest(encoder_digests),
        "settings": dict(settings),
    }
    if len(set(sides.values())) > 1:
        identity["tile_px_by_mpp"] = {format_mpp(m): px for m, px in sides.items()}
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
    content = seal_settings(content)
    with writing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The digest that stands in a set's name."""
    return digest8(json.loads(canonical_json(dict(settings))))
