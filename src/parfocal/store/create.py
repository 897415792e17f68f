"""The folder of a set, and the settings that it stands for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parfocal.errors import MismatchError
from parfocal.files import canonical_json, digest8, provenance, writing
from parfocal.geometry import format_mpp
from parfocal.store.files import RowDtype
from parfocal.store.layout import (
    FORMAT_VERSION,
    SETTINGS_FILE,
    VERSION_ATTRIBUTE,
    Kind,
    encoder_digest,
    read_settings,
    seal_settings,
)


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
    content = seal_settings(content)
    with writing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The digest that stands in a set's name."""
    return digest8(json.loads(canonical_json(dict(settings))))
