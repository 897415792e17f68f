"""The places of tiles as hs2p writes them, which slide2vec takes them from.

`<slide>.coordinates.npz` has x and y of the top left of each tile in pixels of level 0, and `.coordinates.meta.json`
says how large tiles are and of what slide. Source: hs2p 6.1.0 (`tiling/io.py`), whose layout is that of 3.0; 2.5.1
(`api.py`) has other names for some numbers, and 2.0 another for the files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.errors import StoreError
from parfocal.files import writing
from parfocal.store.formats import npz
from parfocal.store.formats.checks import REMEDY, checked_side, checked_tile_px, number_of
from parfocal.store.formats.format import FeaturesToWrite

META = ".meta.json"
PLACES = (".coordinates.npz", ".tiles.npz")
_LARGEST_META = 1 << 24


@dataclass(frozen=True, eq=False)
class Grid:
    """What a file of places says of its tiles, or regions.

    Attributes:
        path: the file.
        xy: the places.
        tile_px: side in its own pixels.
        tile: side in pixels of level 0.
        stride: from one to the next, in pixels of level 0; None where the file does not say it.
        slide_mpp: micrometres in a pixel of level 0; None where the file does not say it.
        size_l0px: width and height of level 0; zeros where the file does not say them.
        read_mpp: micrometres in a pixel of the level that was read; None where the file does not say it.
    """

    path: Path
    xy: Float64[np.ndarray, "tile 2"]
    tile_px: int
    tile: float
    stride: float | None = None
    slide_mpp: float | None = None
    size_l0px: tuple[int, int] = (0, 0)
    read_mpp: float | None = None


def read_meta(path: Path) -> dict[str, Any]:
    """What a `.meta.json` says; what stands in its sections too, as versions differ in which.

    Raises:
        StoreError: it cannot be read, or is something else.
    """
    try:
        if path.stat().st_size > _LARGEST_META:
            raise ValueError("it is far too long")
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: it is no JSON of slide2vec's ({error}). {REMEDY}") from error
    if not isinstance(said, dict):
        raise StoreError(f"cannot read {path}: it is no JSON of slide2vec's. {REMEDY}")
    sections = [said.get(name) for name in ("provenance", "slide", "tiling")]
    return said | {name: value for one in sections if isinstance(one, dict) for name, value in one.items()}


def meta_path(path: Path) -> Path:
    """Where it is said what is in a file."""
    return path.with_name(path.name.removesuffix(path.suffix) + META)


def read_grid(path: Path) -> Grid:
    """The places in a file, and how large its tiles are.

    Raises:
        StoreError: it cannot be read, or says what no slide has.
    """
    where = meta_path(path)
    said = read_meta(where)
    columns = [npz.read(path, name, REMEDY) for name in ("x", "y")]
    if any(one.ndim != 1 or one.dtype.kind not in "iuf" or len(one) != len(columns[0]) for one in columns):
        shapes = " and ".join(f"{one.dtype} {one.shape}" for one in columns)
        raise StoreError(f"cannot use {path}: x and y are {shapes}; expected are as many numbers of each. {REMEDY}")
    named = {name: _first(said, names, where) for name, names in _NAMES.items()}
    tile = checked_side(named["tile"], "tile_size_lv0", where)
    mpp, stride = named["mpp"] or None, named["stride"]
    if stride is None and named["overlap"] is not None and 0 <= named["overlap"] < 1:
        stride = tile * (1 - named["overlap"])
    return Grid(
        path,
        np.stack(columns, axis=1).astype(np.float64),
        checked_tile_px(named["tile_px"], "requested_tile_size_px", where),
        tile,
        None if stride is None else checked_side(stride, "step_px_lv0", where),
        mpp,
        _size(said, where),
        named["read_mpp"] or None,
    )


# What hs2p calls a number, newest name first.
_NAMES = {
    "tile_px": ("requested_tile_size_px", "target_tile_size_px"),
    "tile": ("tile_size_lv0",),
    "stride": ("step_px_lv0",),
    "overlap": ("overlap",),
    "mpp": ("base_spacing_um",),
    "read_mpp": ("read_spacing_um", "effective_spacing_um"),
}


def _first(said: Mapping[str, Any], names: tuple[str, ...], path: Path) -> float | None:
    return next((value for name in names if (value := number_of(said, name, path)) is not None), None)


def _size(said: Mapping[str, Any], path: Path) -> tuple[int, int]:
    size = said.get("dimensions")
    if not isinstance(size, list) or len(size) != 2:
        return 0, 0
    width, height = (number_of({"dimensions": side}, "dimensions", path) or 0 for side in size)
    return int(width), int(height)


def write_grid(path: Path, features: FeaturesToWrite) -> None:
    """Write the places of features and what hs2p says of them, in the order of `features`.

    hs2p asks for the share of each tile that is tissue, which is not known here and not a number there.
    """
    with writing(path) as temporary:
        np.savez_compressed(
            temporary,
            tile_index=np.arange(len(features.rows), dtype=np.int32),
            x=features.xy_l0px[:, 0].astype(np.int64),
            y=features.xy_l0px[:, 1].astype(np.int64),
            tissue_fractions=np.full(len(features.rows), np.nan, dtype=np.float32),
        )
    write_meta(meta_path(path), _places_meta(features))


def write_meta(path: Path, said: Mapping[str, Any]) -> None:
    """Write what is said of a file."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _places_meta(features: FeaturesToWrite) -> dict[str, Any]:
    """All that hs2p asks for; what it would have set and parfocal has not is null."""
    return {
        "provenance": {
            "sample_id": features.slide,
            "image_path": features.slide_path or "",
            "backend": "openslide",
            "requested_backend": "openslide",
            **dict.fromkeys(("spacing_at_level_0", "mask_path", "mask_backend", "requested_mask_backend")),
        },
        "slide": {
            "dimensions": list(features.size_l0px),
            "base_spacing_um": features.slide_mpp,
            "level_downsamples": [1.0],
        },
        "tiling": {
            "requested_tile_size_px": features.tile_px,
            "requested_spacing_um": features.mpp,
            "read_level": 0,
            "read_tile_size_px": features.tile_l0px,
            "read_spacing_um": features.slide_mpp,
            "tile_size_lv0": features.tile_l0px,
            "tolerance": 0.05,
            "step_px_lv0": features.stride_l0px,
            "overlap": 1 - features.stride_l0px / features.tile_l0px,
            "min_tissue_fraction": None,
            "is_within_tolerance": features.tile_l0px == features.tile_px,
            "n_tiles": len(features.rows),
        },
        "segmentation": {"tissue_method": "parfocal", **dict.fromkeys(_SEGMENTATION)},
        "filtering": dict.fromkeys(_FILTERING),
        "artifact": {
            "coordinate_space": "level0_px",
            "tile_order": "x_then_y",
            **dict.fromkeys(("annotation", "selection_strategy", "output_mode")),
        },
    }


_SEGMENTATION = (
    "requested_seg_downsample",
    "seg_downsample",
    "seg_level",
    "seg_spacing_um",
    "sthresh",
    "sthresh_up",
    "mthresh",
    "close",
    "sam2_checkpoint_path",
    "sam2_config_path",
    "mask_path",
    "ref_tile_size_px",
    "tissue_mask_tissue_value",
    "mask_level",
    "mask_spacing_um",
)
_FILTERING = (
    "a_t",
    "a_h",
    "filter_white",
    "filter_black",
    "white_threshold",
    "black_threshold",
    "fraction_threshold",
    "filter_grayspace",
    "grayspace_saturation_threshold",
    "grayspace_fraction_threshold",
    "filter_blur",
    "blur_threshold",
    "qc_spacing_um",
)
