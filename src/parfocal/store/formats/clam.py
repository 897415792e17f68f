"""`clam`: features in CLAM's layout, `h5_files/<slide>.h5` or `pt_files/<slide>.pt`, with `patches/<slide>.h5`.

A file of features does not say how large its tiles are, and a `.pt` not even where they lie: that is in the slide's
file of patches, which is known by its places, equal in number and value (`.h5`) or in number (`.pt`). Where no such
file is named, the side of a tile is the distance between them. Source: CLAM 53e2409, `wsi_core/WholeSlideImage.py`
(`process_contour`, and `_getPatchGenerator` for files that hold pictures), `utils/file_utils.py`,
`extract_features_fp.py`; `custom_downsample` as TRIDENT's `read_coords_legacy` and `from_legacy_coords` take it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Float64

from parfocal.errors import MismatchError, StoreError
from parfocal.files import writing
from parfocal.store.formats.checks import (
    REMEDY,
    array_of,
    checked_places,
    checked_rows,
    checked_side,
    checked_tile_px,
    number_of,
    text_of,
)
from parfocal.store.formats.format import FeatureFile, FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.store.formats.lattice import step_of
from parfocal.store.formats.tensors import holds_tensor, look_at_tensor, read_tensor, write_tensor
from parfocal.store.formats.written import float32_rows, growing, new_h5, refuse_other_tiles
from parfocal.store.h5 import opened_h5
from parfocal.store.h5 import read_rows as rows_of_h5

_H5, _PT, _PATCHES = "h5_files", "pt_files", "patches"
# TRIDENT's folders; what other tools lay beside a `.pt` to say what it is.
_OF_TRIDENT = ("features_*", "slide_features_*")
_SIDECARS = (".meta.json", ".index.npz")
# What tiles of CLAM usually have, where nothing says it: the first that a level of a pyramid could have.
_USUAL_PX = (256, 224)
_NAME_PATCHES = "Name the folder of its patches too"
_CHUNK_ROWS = 32
# CLAM does not say how many pixels a tile has that was read at level 0 and made smaller; files of ours do.
_TILE_PX = "tile_px"


def parts(path: Path) -> Mapping[str, str | None] | None:
    """One where the file has rows as CLAM leaves them, without attributes; none where it holds the places of patches.

    A `.pt` whose rows are there as `.h5` too is not a second one.
    """
    if path.suffix == ".pt":
        return _parts_of_tensor(path)
    with opened_h5(path, checked=True) as file:
        coords, features, pictures = (file.get(name) for name in ("coords", "features", "imgs"))
        if not isinstance(coords, h5py.Dataset) or "patch_size_level0" in coords.attrs:
            return None
        says = "patch_level" in coords.attrs
        if not isinstance(features, h5py.Dataset):
            return {} if says or (isinstance(pictures, h5py.Dataset) and "patch_level" in pictures.attrs) else None
        if says:
            # TRIDENT's features of CLAM's places, which it copies with their attributes.
            return {"": text_of(features.attrs.get("encoder"))}
        if _folder_of(path, *_OF_TRIDENT) is not None:
            return None
        bare = not (len(file.attrs) or len(coords.attrs) or len(features.attrs))
        return {"": None} if bare or _folder_of(path, _H5) is not None else None


def read_places(source: FeatureSource) -> FeatureFile:
    """Read where the tiles of a file lie; the rows of an `.h5` stay on disk.

    Raises:
        StoreError: it is no file in CLAM's layout, or nothing says where its tiles lie or how large they are.
        MismatchError: two files of patches fit, and differ.
    """
    path = source.path
    grids = [_grid(file) for file in source.beside if file.suffix == ".h5" and file != path]
    if path.suffix == ".pt":
        xy, (n_tiles, dim, float16) = None, look_at_tensor(path, REMEDY)
        fitting = [grid for grid in grids if len(grid.xy) == n_tiles]
    else:
        with opened_h5(path, REMEDY) as file:
            features, coords = array_of(file, "features", path), array_of(file, "coords", path)
            n_tiles, dim = checked_rows(features, coords, path)
            xy, float16 = coords[...].reshape(n_tiles, 2).astype(np.float64), features.dtype.itemsize == 2
            says = "patch_level" in coords.attrs
        grids = [_grid(path)] if says else grids
        fitting = [grid for grid in grids if np.array_equal(grid.xy, xy)]
    if any(not grid.is_like(fitting[0]) for grid in fitting):
        names = " and ".join(str(grid.path) for grid in fitting)
        raise MismatchError(
            f"cannot use {path}: both {names} fit, and differ. Name the folder that it was made from only."
        )
    if fitting:
        grid = fitting[0]
    elif xy is not None:
        grid = _Grid(path, xy)
    else:
        counted = ", ".join(f"{len(grid.xy)} in {grid.path}" for grid in grids)
        found = f"none has {n_tiles} places ({counted})" if grids else "no file of its patches is named"
        raise StoreError(
            f"cannot use {path}: it does not say where its {n_tiles} tiles lie, and {found}. {_NAME_PATCHES}."
        )
    return _placed(source, grid, dim, float16)


def read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    """The rows of a file.

    Raises:
        StoreError: it cannot be read, or holds anything else than rows.
    """
    if source.path.suffix == ".pt":
        return read_tensor(source.path, REMEDY)
    with opened_h5(source.path, REMEDY) as file:
        return rows_of_h5(file)[0]


def write(folder: Path, features: FeaturesToWrite) -> Path:
    """Write what CLAM writes into its folders of features and of patches, here one folder, at one magnification.

    Patches are said to be read from level 0, as nothing is known of the slide's other levels; CLAM's encoders make them
    smaller anyway (`--target_patch_size`).

    Raises:
        MismatchError: the files are there, at another magnification.
    """
    rows, xy = float32_rows(features), features.xy_l0px.astype(np.int64)
    source = target(folder, features)
    path, (patches,) = source.path, source.beside
    if patches.exists():
        refuse_other_tiles(patches, _grid(patches).tile or 0.0, features, float(features.tile_l0px))
    attributes: dict[str, Any] = {
        "patch_size": features.tile_l0px,
        "patch_level": 0,
        "downsample": (1.0, 1.0),
        "name": features.slide,
        "save_path": str(folder / _PATCHES),
        _TILE_PX: features.tile_px,
    }
    if 0 not in features.size_l0px:
        attributes["downsampled_level_dim"] = attributes["level_dim"] = features.size_l0px
    with new_h5(patches) as file:
        growing(file, "coords", xy, _CHUNK_ROWS, attributes)
    with writing(folder / _PT / f"{features.slide}.pt") as temporary:
        write_tensor(rows, temporary)
    with new_h5(path) as file:
        growing(file, "features", rows, _CHUNK_ROWS)
        growing(file, "coords", xy.astype(np.int32), _CHUNK_ROWS)
    return path


def target(folder: Path, features: FeaturesToWrite) -> FeatureSource:
    """The file of features that `write` writes into a folder, and that of patches beside it."""
    name = f"{features.slide}.h5"
    return FeatureSource(folder / _H5 / name, beside=(folder / _PATCHES / name,))


@dataclass(frozen=True, eq=False)
class _Grid:
    """What a file says of the places of tiles.

    Attributes:
        path: the file.
        xy: the places as they stand there.
        l0px: pixels of level 0 in what the places count, which is more than one where pictures are in the file.
        tile: side of a tile in pixels of level 0; None where the file does not say it.
        tile_px: side of a tile in its own pixels; None where the file does not say it.
        size_l0px: width and height of level 0; zeros where the file does not say them.
        slide: the slide's name, where the file says it.
    """

    path: Path
    xy: Float64[np.ndarray, "tile 2"]
    l0px: int = 1
    tile: float | None = None
    tile_px: int | None = None
    size_l0px: tuple[int, int] = (0, 0)
    slide: str | None = None

    def is_like(self, other: "_Grid") -> bool:
        """Whether both say the same of the tiles."""
        same = (self.l0px, self.tile, self.tile_px) == (other.l0px, other.tile, other.tile_px)
        return same and np.array_equal(self.xy, other.xy)


def _parts_of_tensor(path: Path) -> Mapping[str, str | None] | None:
    twin = path.with_suffix(".h5")
    folder = _folder_of(path, _PT)
    if folder is not None:
        twin = folder.with_name(_H5) / twin.relative_to(folder)
    elif _is_of_others(path) or not holds_tensor(path):
        return None
    return {} if twin.exists() else {"": None}


def _folder_of(path: Path, *patterns: str) -> Path | None:
    """The folder of such a name that a file lies in, directly or below it, as slides may lie in folders."""
    return next((one for one in path.parents if any(fnmatchcase(one.name, pattern) for pattern in patterns)), None)


def _is_of_others(path: Path) -> bool:
    beside = any(path.with_name(path.stem + suffix).exists() for suffix in _SIDECARS)
    return beside or _folder_of(path, *_OF_TRIDENT) is not None


def _grid(path: Path) -> _Grid:
    """The places in a file of patches, and how large they are.

    Raises:
        StoreError: it cannot be read, or says what no slide has.
    """
    with opened_h5(path, REMEDY) as file:
        coords, pictures = array_of(file, "coords", path), file.get("imgs")
        if coords.dtype.kind not in "iuf" or coords.ndim != 2 or coords.shape[1] != 2:
            raise StoreError(
                f"cannot use {path}: coords are {coords.dtype} {coords.shape}; expected are numbers (N, 2). {REMEDY}"
            )
        xy = coords[...].astype(np.float64)
        if isinstance(pictures, h5py.Dataset):
            said, picture_px = dict(pictures.attrs), float(pictures.shape[1])
        else:
            said, picture_px = dict(coords.attrs), None
    downsample, level_size = _pair(said, "downsample", path), _pair(said, "level_dim", path)
    if downsample is None and number_of(said, "patch_level", path) == 0:
        downsample = (1.0, 1.0)
    slide = text_of(said.get("name" if picture_px is None else "wsi_name"))
    if downsample is None:
        px = number_of(said, "patch_size", path) or picture_px
        return _Grid(path, xy, tile_px=None if px is None else checked_tile_px(px, "patch_size", path), slide=slide)
    # The picture is read from its level at the mean of what it is smaller by in width and height, which differ by the
    # rounding of the level's sides.
    mean = checked_side(sum(downsample) / 2, "downsample", path)
    size = (0, 0)
    if level_size is not None:
        size = (round(level_size[0] * downsample[0]), round(level_size[1] * downsample[1]))
    if picture_px is not None:
        # Made smaller once more after reading, which only shows in the level's size; places count the smaller pixels.
        shrunk = _pair(said, "downsampled_level_dim", path)
        custom = 1 if level_size is None or shrunk is None else round(level_size[0] / shrunk[0])
        tile_px = checked_tile_px(picture_px, "the side of imgs", path)
        return _Grid(path, xy, int(mean) * custom, tile_px * mean * custom, tile_px, size, slide)
    tile_px = checked_tile_px(number_of(said, "patch_size", path), "patch_size", path)
    further = checked_side(number_of(said, "custom_downsample", path) or 1.0, "custom_downsample", path)
    own_px = checked_tile_px(number_of(said, _TILE_PX, path) or float(tile_px), _TILE_PX, path)
    return _Grid(path, xy, 1, tile_px * mean * further, own_px, size, slide)


def _pair(attributes: Mapping[str, Any], name: str, path: Path) -> tuple[float, float] | None:
    """An attribute of two numbers above zero, for x and y; one number stands for both.

    Raises:
        StoreError: it is something else.
    """
    if name not in attributes:
        return None
    try:
        x, y = (float(one) for one in np.broadcast_to(np.ravel(attributes[name]), 2))
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot use {path}: {name} is no pair of numbers. {REMEDY}") from error
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        raise StoreError(f"cannot use {path}: {name} is {x:g}, {y:g}; expected are numbers above 0. {REMEDY}")
    return x, y


def _placed(source: FeatureSource, grid: _Grid, dim: int, float16: bool) -> FeatureFile:
    """The tiles of a source as a grid says they lie.

    Raises:
        StoreError: they lie where no slide is, or nothing says how large they are.
    """
    xy = checked_places(grid.xy * grid.l0px, grid.path, grid.size_l0px)
    remark = ""
    if grid.tile is None or grid.tile_px is None:
        grid, remark = _inferred(source.path, grid, step_of(xy))
    elif grid.l0px > 1:
        remark = f"its places are whole numbers of {grid.l0px} px of level 0, and up to that much too far left and up"
    assert grid.tile is not None
    assert grid.tile_px is not None
    return FeatureFile(
        source,
        xy,
        grid.tile_px,
        grid.tile,
        dim,
        size_l0px=grid.size_l0px,
        float16=float16,
        slide=grid.slide,
        remark=remark,
    )


def _inferred(path: Path, grid: _Grid, step: float | None) -> tuple[_Grid, str]:
    """The grid with the side that tiles have if none overlaps, and a sentence that says so."""
    if step is None:
        raise StoreError(
            f"cannot use {path}: nothing says how large its tiles are, and the places of its {len(grid.xy)} tiles have "
            f"no distance that most share. {_NAME_PATCHES}."
        )
    whole = float(grid.tile_px or _usual_px(step))
    side = checked_side(step, "the distance of tiles", path)
    tile_px = checked_tile_px(whole, "the side of a tile", path)
    remark = (
        f"no file of its patches says how large tiles are: {side:g} px of level 0, the distance between them, as if "
        f"none overlapped, and {tile_px} px of their own"
    )
    return replace(grid, tile=side, tile_px=tile_px), remark


def _usual_px(side: float) -> float:
    """The pixels that a tile of such a side in level 0 has if it is one of the usual, at a level of half of halves."""
    for px in _USUAL_PX:
        if side >= px and math.log2(side / px).is_integer():
            return float(px)
    return side


CLAM = FeatureFormat("clam", (".h5", ".pt"), read_places, read_rows, parts, (_H5, _PT), write=write, target=target)
