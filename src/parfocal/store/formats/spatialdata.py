"""`spatialdata`: features as LazySlide writes them, in one SpatialData store for each slide, `<slide>.zarr`.

    tables/<model>_<tiles>                  AnnData: X (N, D), and in obs which tile each row is of
    shapes/<tiles>/shapes.parquet           a box for each tile, in pixels of level 0
    attributes tile_spec, slide_properties  how tiles were cut, and the slide's micrometres per pixel and size

A store holds several sets of tiles under names of their own, as those of several magnifications; each table of one is
a part. Tables of other things than tiles, and of the tokens in tiles (`dense`), are none. Source: wsidata 0.12.0
(`io/_elems.py`, `_model/tile.py`), LazySlide 0.13.0 (`preprocess/_tiles.py`, `tools/_features.py`), spatialdata 0.7.3.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from parfocal.errors import ConfigError, FormatVersionError, MismatchError, StoreError
from parfocal.files import check_permission
from parfocal.store.formats.checks import REMEDY, checked_places, checked_side, checked_tile_px, number_of, text_of
from parfocal.store.formats.format import FeatureFile, FeatureFormat, FeatureSource

_TABLES, _SHAPES, _BOXES = "tables", "shapes", "shapes.parquet"
_DENSE = "_dense"
# Of spatialdata_attrs: of the store, of a table, of shapes. Before 0.2 shapes were no Parquet files.
_STORE_VERSIONS, _TABLE_VERSIONS, _SHAPES_VERSIONS = {"0.1", "0.2"}, {"0.1", "0.2"}, {"0.2", "0.3"}
# Well-known binary of a polygon of one ring of five points, lowest byte first.
_BOX = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
_BOX_HEAD = (1, 3, 1, 5)
_SAME_MPP = 1e-3


def parts(path: Path) -> Mapping[str, str | None] | None:
    """The tables of tiles in a store of SpatialData; None for another folder, such as a slide in OME-Zarr.

    A table that is not called as LazySlide does is taken for one of an encoder of its whole name.
    """
    said = _attributes(path)
    if "spatialdata_attrs" not in said:
        return None
    specs = said.get("tile_spec")
    found: dict[str, str | None] = {}
    for table in sorted((path / _TABLES).glob("*")):
        regions = _regions(_attributes(table)) if table.is_dir() else []
        if not isinstance(specs, dict) or not regions or not set(regions) <= set(specs):
            continue
        model = table.name.removesuffix(f"_{regions[0]}")
        if not any(one.endswith(_DENSE) for one in regions):
            found[table.name] = model or table.name
    return found


def read_places(source: FeatureSource) -> FeatureFile:
    """Read where the tiles of a table lie; of its rows only the shape is read.

    Raises:
        ConfigError: a package that reads such stores is not installed.
        FormatVersionError: the store is newer than what is known.
        StoreError: it is not what LazySlide writes.
        MismatchError: rows are of other tiles than there are.
    """
    path, table_path = source.path, source.path / _TABLES / source.part
    said, of_table = _attributes(path), _attributes(table_path)
    _check_version(said, _STORE_VERSIONS, path)
    _check_version(of_table, _TABLE_VERSIONS, table_path)
    regions = _regions(of_table)
    if len(regions) != 1:
        raise StoreError(
            f"cannot use {source}: its rows are of {len(regions)} sets of tiles ({', '.join(regions)}); expected is "
            "one. Write a table for each."
        )
    tiles = regions[0]
    spec = _mapping(_mapping(said, "tile_spec", path), tiles, path)
    slide = _mapping(said, "slide_properties", path)
    with _opened(table_path) as group:
        rows = _rows(group, source)
        shape, item_bytes = rows.shape, rows.dtype.itemsize
        instances = _instances(group, text_of(of_table.get("instance_key")) or "tile_id", source)
    boxes, ids = _boxes(path / _SHAPES / tiles)
    at = _matched(instances, ids, source, tiles)
    side = boxes[:, 2:] - boxes[:, :2]
    width, height = (number_of(spec, name, path) for name in ("width", "height"))
    if width != height or (len(side) and not np.allclose(side, side[0, 0], rtol=0, atol=1e-6)):
        raise StoreError(f"cannot use {source}: the tiles {tiles} are no squares of one side. {REMEDY}")
    mpp, remark = _slide_mpp(spec, slide, path)
    downsample = number_of(spec, "base_downsample", path) or 1.0
    tile_px = checked_tile_px(width, "width", path)
    # As wsidata cuts it.
    side_l0px = float(side[0, 0]) if len(side) else float(int(tile_px * downsample))
    stride = int((number_of(spec, "stride_width", path) or tile_px) * downsample)
    if number_of(spec, "stride_width", path) != number_of(spec, "stride_height", path):
        raise StoreError(f"cannot use {source}: the tiles {tiles} have another step in x than in y. {REMEDY}")
    size = _size(slide, path)
    return FeatureFile(
        source,
        checked_places(boxes[at, :2], path, size),
        tile_px,
        checked_side(side_l0px, "the side of a tile", path),
        shape[1],
        stride=checked_side(float(stride), "stride_width", path),
        slide_mpp=mpp,
        size_l0px=size,
        float16=item_bytes == 2,
        remark=remark,
    )


def read_rows(source: FeatureSource) -> Float[np.ndarray, "tile dim"]:
    """The rows of a table.

    Raises:
        ConfigError: a package that reads such stores is not installed.
        StoreError: it cannot be read, or holds anything else than rows.
    """
    with _opened(source.path / _TABLES / source.part) as group:
        values: np.ndarray = np.asarray(_rows(group, source)[...])
        return values


def _attributes(path: Path) -> dict[str, Any]:
    """The attributes of a Zarr group, as the two versions of Zarr write them; nothing where it is none.

    Raises:
        StoreError: they cannot be read.
    """
    for name, inner in (("zarr.json", "attributes"), (".zattrs", None)):
        file = path / name
        if not file.is_file():
            continue
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"cannot read {path}: its attributes are damaged ({error}). {REMEDY}") from error
        if inner is not None:
            said = said.get(inner, {}) if isinstance(said, dict) else None
        if not isinstance(said, dict):
            raise StoreError(f"cannot read {path}: its attributes are damaged. {REMEDY}")
        return said
    return {}


def _regions(said: Mapping[str, Any]) -> list[str]:
    """The names of the shapes that the rows of a table are of."""
    region = said.get("region")
    return [region] if isinstance(region, str) else [one for one in region or [] if isinstance(one, str)]


def _check_version(said: Mapping[str, Any], known: set[str], path: Path) -> None:
    inner = said.get("spatialdata_attrs")
    version = inner.get("version") if isinstance(inner, dict) else said.get("version")
    if version is not None and str(version) not in known:
        raise FormatVersionError(
            f"cannot use {path}: it is of version {version} of SpatialData's format, and {', '.join(sorted(known))} "
            "are known. Write it again with SpatialData 0.7, or look for a newer parfocal."
        )


def _mapping(said: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    inner = said.get(name)
    if not isinstance(inner, dict):
        raise StoreError(f"cannot use {path}: its attributes have no {name}, so tiles have no size. {REMEDY}")
    return inner


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A group of a store; whatever is wrong with it is one line."""
    try:
        import anndata  # noqa: F401  # only who reads such stores needs them
        import zarr
    except ImportError as error:
        raise ConfigError(_needs(path, "anndata")) from error
    if not path.is_dir():
        raise StoreError(f"cannot read {path}: it is absent. {REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what is planned for next versions
            yield zarr.open_group(path, mode="r", use_consolidated=False)
    except (StoreError, ConfigError):
        raise
    except Exception as error:  # of a damaged store zarr and its codecs may raise anything
        check_permission(error, path)
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"cannot read {path}: it is damaged or no table ({text}). {REMEDY}") from error


def _needs(path: Path, package: str) -> str:
    return (
        f"cannot read {path}: {package}, which reads SpatialData, is not installed. "
        "pip install 'parfocal[spatialdata]'."
    )


def _rows(group: Any, source: FeatureSource) -> Any:
    """The array of a table's rows, whose values stay on disk."""
    import zarr

    rows = group.get("X")
    if isinstance(rows, zarr.Group):
        kind = rows.attrs.get("encoding-type", "no array")
        raise StoreError(f"cannot use {source}: its X is {kind}; expected is a dense array. Write it dense.")
    if not isinstance(rows, zarr.Array) or rows.ndim != 2 or rows.shape[1] == 0:
        shape = "absent" if rows is None else f"{getattr(rows, 'shape', 'no array')}"
        raise StoreError(f"cannot use {source}: its X is {shape}; expected are rows (N, D). {REMEDY}")
    if rows.dtype.kind != "f" or rows.dtype.itemsize > 8:
        raise StoreError(f"cannot use {source}: its X is {rows.dtype}; expected are floats. {REMEDY}")
    # Zarr reads what is not there as zeros without a word.
    if rows.nchunks_initialized < rows.nchunks:
        raise StoreError(
            f"cannot use {source}: its X is not all there ({rows.nchunks_initialized} of {rows.nchunks} parts are "
            f"written). {REMEDY}"
        )
    return rows


def _instances(group: Any, key: str, source: FeatureSource) -> np.ndarray:
    """Which tile each row is of."""
    from anndata.io import read_elem

    obs = read_elem(group["obs"])
    if key not in obs or len(obs) != group["X"].shape[0]:
        raise StoreError(f"cannot use {source}: obs has no column {key}, or not one row for each of X. {REMEDY}")
    return np.asarray(obs[key])


def _boxes(path: Path) -> tuple[Float64[np.ndarray, "tile 4"], np.ndarray]:
    """Left, top, right and bottom of each tile, and its number.

    Raises:
        ConfigError: Parquet files cannot be read.
        StoreError: there are none, or they are no boxes along the axes.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(_needs(path, "pyarrow")) from error
    _check_version(_attributes(path), _SHAPES_VERSIONS, path)
    file = path / _BOXES
    if not file.is_file():
        raise StoreError(f"cannot read {file}: it is absent, so nothing says where tiles lie. {REMEDY}")
    try:
        table = pyarrow.parquet.ParquetFile(file).read()
        names = set(table.column_names)
        raw = b"".join(map(bytes, table.column("geometry").to_pylist()))
        ids = np.asarray(table.column("tile_id")) if "tile_id" in names else np.arange(len(table))
    except Exception as error:  # of a damaged file pyarrow may raise anything
        check_permission(error, file)
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"cannot read {file}: it is damaged or holds no geometry ({text}). {REMEDY}") from error
    no_boxes = StoreError(f"cannot use {file}: its shapes are no boxes along the axes, as tiles are. {REMEDY}")
    if len(raw) != len(table) * _BOX.itemsize:
        raise no_boxes
    polygons = np.frombuffer(raw, dtype=_BOX)
    head = np.stack([polygons[name].astype(np.int64) for name in ("order", "kind", "rings", "points")], axis=1)
    xy = polygons["xy"]
    low, high = xy.min(axis=1), xy.max(axis=1)
    at_corners = ((xy == low[:, None]) | (xy == high[:, None])).all()
    if (head != _BOX_HEAD).any() or not at_corners:
        raise no_boxes
    return np.concatenate([low, high], axis=1), ids


def _matched(instances: np.ndarray, ids: np.ndarray, source: FeatureSource, tiles: str) -> np.ndarray:
    """The tile of each row.

    Raises:
        MismatchError: there is none, or there are two.
    """
    where = {one: number for number, one in enumerate(ids.tolist())}
    named = instances.tolist()
    absent = sum(one not in where for one in named)
    if absent or len(where) != len(ids) or len(set(named)) != len(named):
        raise MismatchError(
            f"cannot use {source}: {absent} of its {len(named)} rows are of no tile of {tiles}, or several of one. "
            f"{REMEDY}"
        )
    return np.array([where[one] for one in named], dtype=np.int64)


def _slide_mpp(spec: Mapping[str, Any], slide: Mapping[str, Any], path: Path) -> tuple[float | None, str]:
    """Micrometres per pixel of level 0 as tiles were cut by, and a sentence where that is not the slide's own.

    Where the slide has none, LazySlide cuts by pixels and says what was asked for, which nothing can be told from.
    """
    own = number_of(slide, "mpp", path)
    if not own:
        return None, ""
    asked, downsample = number_of(spec, "mpp", path), number_of(spec, "base_downsample", path)
    if not asked or not downsample:
        return own, ""
    used = asked / downsample
    if abs(used - own) <= _SAME_MPP * own:
        return own, ""
    return used, f"its tiles were cut by {used:.4g} um per pixel, and the slide says {own:.4g}"


def _size(slide: Mapping[str, Any], path: Path) -> tuple[int, int]:
    shape = slide.get("shape")
    if not isinstance(shape, list) or len(shape) != 2:
        return 0, 0
    height, width = (number_of({"shape": side}, "shape", path) or 0 for side in shape)
    return int(width), int(height)


SPATIALDATA = FeatureFormat("spatialdata", (".zarr",), read_places, read_rows, parts, is_folder=True)
