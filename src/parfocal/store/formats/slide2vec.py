"""`slide2vec`: features as slide2vec writes them, with the places of their tiles as hs2p writes those.

    tile_embeddings/[<class>/]<slide>.pt or .npz            (N, D), and <slide>.meta.json
    hierarchical_embeddings/[<class>/]<slide>.pt or .npz    (R, T, D): regions of T tiles, row by row in each
    tiles/[<class>/]<slide>.coordinates.npz                 places of tiles, or of regions, and .coordinates.meta.json

The features are written before their `.meta.json`, which says what they are. Before slide2vec 3 there was none:
features were `features/<slide>.pt`, and places `coordinates/<slide>.npy`, a table.

Source: slide2vec 7.1.4 (`artifacts.py`, `runtime/embedding.py`, `runtime/hierarchical.py`), hs2p 6.1.0
(`tiling/io.py`), which are alike from hs2p 3 on; hs2p 2.5.1 (`api.py`) and 1.1.1 (`wsi/__init__.py`, slide2vec 2.0.2).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from parfocal.errors import MismatchError, StoreError
from parfocal.files import writing
from parfocal.store.formats import npz, tensors
from parfocal.store.formats.checks import REMEDY, checked_places, checked_side, checked_tile_px, number_of, text_of
from parfocal.store.formats.format import FeatureFile, FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.store.formats.hs2p import META, PLACES, Grid, meta_path, read_grid, read_meta, write_grid, write_meta
from parfocal.store.formats.written import float16_rows, float32_rows, refuse_other_tiles

_TILES, _REGIONS, _BEFORE = "tile_embeddings", "hierarchical_embeddings", "features"
_LATENTS = "slide_latents"
_PLACES_FOLDERS = ("tiles", "coordinates")
# Which slide2vec gives the tiles' features of a slide encoder, whose vector of the slide has the name without it.
_OF_TILES, _OF_SLIDE = "-tiles.pt", "-latents.pt"
_SUFFIXES = (".pt", _OF_TILES, ".npz", *PLACES, META, *(meta_path(Path(one)).name for one in PLACES))
_NAME_PLACES = "Name the folder of its tiles too"


def parts(path: Path) -> Mapping[str, str | None] | None:
    """One where a file has the features of tiles, or stands for those of a slide without tiles; none for its others."""
    if path.name.endswith(META):
        return _parts_of_meta(path)
    if path.name.endswith(PLACES):
        return {} if npz.names_in(path) >= {"x", "y"} else None
    meta = meta_path(path)
    if meta.exists():
        said = read_meta(meta)
        kind = said.get("artifact_type")
        if kind in {_TILES, _REGIONS}:
            return {"": text_of(said.get("encoder_name"))}
        return None if kind is None else {}
    above = {folder.name for folder in (path.parent, path.parent.parent)}
    if _LATENTS in above or path.name.endswith(_OF_SLIDE):
        return {}
    if above & {_TILES, _REGIONS}:
        return {"": None}  # its extraction was stopped before its .meta.json
    if path.suffix == ".pt" and _table_of(path).exists():
        # The vector of a slide lies beside the features of its tiles.
        vector = not path.name.endswith(_OF_TILES) and path.with_name(path.stem + _OF_TILES).exists()
        return {} if vector else {"": None}
    return None


def read_places(source: FeatureSource) -> FeatureFile:
    """Read where the tiles of a file lie; of features only the shape is read.

    Raises:
        StoreError: what belongs to it is absent, or it is not what slide2vec writes.
        MismatchError: its rows and its places are not as many.
    """
    path = source.path
    if path.name.endswith(META):
        raise StoreError(
            f"cannot use {path}: it says that the slide has no tiles, and there are no features beside it. Leave the "
            "slide out, or cut its tiles with another mask of tissue."
        )
    meta = meta_path(path)
    if not meta.exists():
        if _table_of(path).exists():
            return _of_table(source)
        raise StoreError(
            f"cannot use {path}: {meta.name}, which slide2vec writes last, is not beside it, as after an "
            f"extraction that was stopped. {REMEDY}"
        )
    said = read_meta(meta)
    shape, item_bytes = _look_at(path)
    is_regions = said.get("artifact_type") == _REGIONS
    if len(shape) != 2 + is_regions or 0 in shape[1:]:
        expected = "(R, T, D)" if is_regions else "(N, D)"
        raise StoreError(f"cannot use {path}: its features are {shape}; expected are {expected}. {REMEDY}")
    grid = _grid_of(source, said, shape[0])
    file = FeatureFile(
        source,
        checked_places(grid.xy, grid.path, grid.size_l0px),
        grid.tile_px,
        grid.tile,
        shape[-1],
        stride=grid.stride,
        slide_mpp=grid.slide_mpp,
        size_l0px=grid.size_l0px,
        float16=item_bytes == 2,
        slide=text_of(said.get("sample_id")),
    )
    return _tiles_of_regions(file, grid, said, shape[1], meta) if is_regions else file


def read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    """The rows of a file; those of regions one after the other.

    Raises:
        StoreError: it cannot be read, or holds anything else than rows.
    """
    path = source.path
    if path.suffix == ".npz":
        rows = npz.read(path, "features", REMEDY)
        if rows.dtype.kind != "f" or rows.dtype.itemsize > 8:
            raise StoreError(f"cannot use {path}: its features are {rows.dtype}; expected are floats. {REMEDY}")
    else:
        rows = tensors.read_array(path, REMEDY)
    if rows.ndim not in {2, 3}:
        raise StoreError(f"cannot use {path}: its features are {rows.shape}; expected are rows (N, D). {REMEDY}")
    return rows.reshape(-1, rows.shape[-1])


def write(folder: Path, features: FeaturesToWrite) -> Path:
    """Write what slide2vec and hs2p write for one slide at one magnification into their folder of output.

    hs2p asks for the share of each tile that is tissue, which is not known here and not a number there. Its order is
    by x, then y.

    Raises:
        MismatchError: the files are there, at another magnification.
    """
    path = target(folder, features).path
    places = folder / _PLACES_FOLDERS[0] / f"{features.slide}{PLACES[0]}"
    places_meta = meta_path(places)
    if places_meta.exists():
        found = checked_side(
            number_of(read_meta(places_meta), "tile_size_lv0", places_meta), "tile_size_lv0", places_meta
        )
        refuse_other_tiles(path, found, features, float(features.tile_l0px))
    order = np.lexsort((features.xy_l0px[:, 1], features.xy_l0px[:, 0]))
    rows = (float16_rows if features.rows.dtype.itemsize == 2 else float32_rows)(features)[order]
    write_grid(places, replace(features, rows=rows, xy_l0px=features.xy_l0px[order]))
    write_meta(meta_path(path), _features_meta(features, rows, path, places))
    with writing(path) as temporary:
        tensors.write_tensor(np.ascontiguousarray(rows), temporary)
    return path


def target(folder: Path, features: FeaturesToWrite) -> FeatureSource:
    """The file of features that `write` writes into a folder of output."""
    return FeatureSource(folder / _TILES / f"{features.slide}.pt")


def _parts_of_meta(path: Path) -> Mapping[str, str | None] | None:
    """One where it stands for the features of a slide without tiles, which are not written."""
    said = read_meta(path)
    if "tile_size_lv0" not in said and "artifact_type" not in said:
        return None
    stem = path.name.removesuffix(META)
    is_alone = not any(path.with_name(stem + suffix).exists() for suffix in (".pt", ".npz"))
    is_empty = said.get("artifact_type") == _TILES and said.get("num_tiles") == 0
    return {"": text_of(said.get("encoder_name"))} if is_empty and is_alone else {}


def _look_at(path: Path) -> tuple[tuple[int, ...], int]:
    """The shape of a file's features, and the bytes of a number."""
    if path.suffix != ".npz":
        return tensors.look_at_array(path, REMEDY)
    shape, dtype = npz.look_at(path, "features", REMEDY)
    return shape, dtype.itemsize


def _grid_of(source: FeatureSource, said: Mapping[str, Any], n_rows: int) -> Grid:
    """The places of as many tiles, or regions, as the file has.

    They lie where slide2vec puts them, or where it says that it took them from; else in a folder that is named too.

    Raises:
        StoreError: there are none.
        MismatchError: there are others, or two that differ.
    """
    side = number_of(said, "tile_size_lv0", source.path)
    others: list[Grid] = []
    for path in _own_places(source.path, said):
        if path.exists():
            grid = read_grid(path)
            if len(grid.xy) == n_rows and side in {None, grid.tile}:
                return grid
            others.append(grid)
    fitting: list[Grid] = []
    for path in source.beside:
        if path.name.endswith(PLACES):
            grid = read_grid(path)
            is_same = number_of(read_meta(meta_path(path)), "requested_spacing_um", path) in {
                None,
                number_of(said, "requested_spacing_um", source.path),
            }
            (fitting if len(grid.xy) == n_rows and side in {None, grid.tile} and is_same else others).append(grid)
    if any(not np.array_equal(grid.xy, fitting[0].xy) for grid in fitting):
        names = " and ".join(str(grid.path) for grid in fitting)
        raise MismatchError(f"cannot use {source.path}: both {names} fit, and differ. Name the folder of its own only.")
    if fitting:
        return fitting[0]
    if others:
        counted = ", ".join(f"{len(grid.xy)} of {grid.tile:g} px in {grid.path}" for grid in others)
        own = "" if side is None else f" of {side:g} px"
        raise MismatchError(
            f"cannot use {source.path}: it has {n_rows} rows{own}, and no file has as many places ({counted}). {REMEDY}"
        )
    raise StoreError(
        f"cannot use {source.path}: it does not say where its {n_rows} tiles lie, and no file of its tiles is there. "
        f"{_NAME_PLACES}."
    )


def _own_places(path: Path, said: Mapping[str, Any]) -> Iterator[Path]:
    """Where the places of a file are to be expected."""
    for top in path.parents[:2]:
        if top.name in {_TILES, _REGIONS}:
            below = path.relative_to(top)
            for folder in _PLACES_FOLDERS:
                for suffix in PLACES:
                    yield top.parent / folder / below.with_name(below.stem + suffix)
    recorded = text_of(said.get("coordinates_npz_path"))
    if recorded is not None:
        yield Path(recorded)


def _tiles_of_regions(file: FeatureFile, grid: Grid, said: Mapping[str, Any], n_tiles: int, meta: Path) -> FeatureFile:
    """The tiles of regions, which lie in a square, row by row.

    Raises:
        StoreError: they are not as many as a square has.
    """
    per_side = round(n_tiles**0.5)
    if per_side**2 != n_tiles or number_of(said, "region_tile_multiple", meta) not in {None, per_side}:
        raise StoreError(f"cannot use {file.path}: {n_tiles} tiles of a region are no square, or not its own. {REMEDY}")
    read_px = number_of(said, "read_tile_size_px", meta)
    if read_px is None or grid.read_mpp is None or grid.slide_mpp is None:
        side = float(grid.tile // per_side)
    else:
        # As slide2vec has it: a region's side may be a few pixels more than its tiles'.
        side = float(round(read_px * grid.read_mpp / grid.slide_mpp))
    row, column = np.divmod(np.arange(n_tiles), per_side)
    offset = np.stack([column, row], axis=1) * checked_side(side, "read_tile_size_px", meta)
    return FeatureFile(
        file.source,
        (file.xy[:, None] + offset).reshape(-1, 2),
        checked_tile_px(number_of(said, "requested_tile_size_px", meta), "requested_tile_size_px", meta),
        side,
        file.dim,
        stride=side,
        slide_mpp=file.slide_mpp,
        size_l0px=file.size_l0px,
        float16=file.float16,
        slide=file.slide,
    )


def _table_of(path: Path) -> Path:
    """Where slide2vec wrote the places of `features/<slide>.pt` before version 3."""
    stem = path.name.removesuffix(_OF_TILES).removesuffix(".pt")
    folder = (
        path.parent.parent / _PLACES_FOLDERS[1] if path.parent.name == _BEFORE else path.parent / _PLACES_FOLDERS[1]
    )
    return folder / f"{stem}.npy"


def _of_table(source: FeatureSource) -> FeatureFile:
    """The tiles of a file of before slide2vec 3.

    Raises:
        StoreError: the table cannot be read, or is something else.
        MismatchError: there are as many places as rows.
    """
    path, table_path = source.path, _table_of(source.path)
    (n_rows, *more), item_bytes = _look_at(path)
    table = npz.read_single(table_path, REMEDY)
    if not {"x", "y", "tile_size_lv0", "target_tile_size"} <= set(table.dtype.names or ()):
        raise StoreError(f"cannot use {table_path}: it has no columns x, y, tile_size_lv0, target_tile_size. {REMEDY}")
    if len(more) != 1 or n_rows != len(table):
        raise MismatchError(
            f"cannot use {path}: its features are {(n_rows, *more)}, and {table_path} has {len(table)} places. {REMEDY}"
        )
    said = {name: table[name] for name in ("tile_size_lv0", "target_tile_size")}
    xy = np.stack([table["x"], table["y"]], axis=1).astype(np.float64)
    return FeatureFile(
        source,
        checked_places(xy, table_path),
        checked_tile_px(number_of(said, "target_tile_size", table_path), "target_tile_size", table_path),
        checked_side(number_of(said, "tile_size_lv0", table_path), "tile_size_lv0", table_path),
        more[0],
        float16=item_bytes == 2,
    )


def _features_meta(features: FeaturesToWrite, rows: np.ndarray, path: Path, places: Path) -> dict[str, Any]:
    return {
        "sample_id": features.slide,
        "artifact_type": _TILES,
        "format": "pt",
        "feature_dim": rows.shape[1],
        "feature_dtype": "fp16" if rows.dtype.itemsize == 2 else "fp32",
        "num_tiles": len(rows),
        "annotation": None,
        "encoder_name": features.encoder,
        "encoder_level": "tile",
        "encoder_input_size_px": features.tile_px,
        "coordinates_npz_path": str(places.absolute()),
        "coordinates_meta_path": str(meta_path(places).absolute()),
        "tiles_tar_path": "",
        "image_path": features.slide_path or "",
        "mask_path": None,
        "tile_size_lv0": features.tile_l0px,
        "backend": "openslide",
        "read_tile_size_px": features.tile_l0px,
        "requested_tile_size_px": features.tile_px,
        "requested_spacing_um": features.mpp,
    }


SLIDE2VEC = FeatureFormat(
    "slide2vec", _SUFFIXES, read_places, read_rows, parts, (_TILES, _REGIONS, _BEFORE), write=write, target=target
)
