"""SpatialData stores, written here as LazySlide's own code does it."""

import json
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.errors import FormatVersionError, MismatchError, ParfocalError, StoreError
from parfocal.store.formats.format import FeatureSource
from parfocal.store.formats.spatialdata import parts, read_places, read_rows

pytest.importorskip("anndata", reason="anndata is not installed (the extra `spatialdata`)")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `spatialdata`)")

ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
XY = {side: np.stack([np.arange(6) % 3, np.arange(6) // 3], axis=1) * side + (1234, 777) for side in (448, 897)}


def box(x: float, y: float, side: float, high: float | None = None) -> bytes:
    right, low = x + side, y + (high or side)
    return struct.pack("<BIII10d", 1, 3, 1, 5, right, y, right, low, x, low, x, y, right, y)


def attributes(path: Path, said: dict[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "zarr.json").write_text(json.dumps({"attributes": said, "zarr_format": 3, "node_type": "group"}))


def table(store: Path, name: str, tiles: Any, rows: Any = ROWS, ids: Any = None) -> None:
    import anndata
    import pandas as pd

    ids = np.arange(len(XY[448])) if ids is None else ids
    obs = pd.DataFrame({"tile_id": ids, "library_id": "tiles"}, index=[str(one) for one in range(len(ids))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr and anndata speak of their next versions
        anndata.settings.zarr_write_format = 3
        anndata.AnnData(X=rows, obs=obs).write_zarr(store / "tables" / name)
    said = json.loads((store / "tables" / name / "zarr.json").read_text())["attributes"]
    said |= {"region": tiles, "region_key": "library_id", "instance_key": "tile_id", "version": "0.2"}
    attributes(store / "tables" / name, said)


def shapes(store: Path, tiles: str, boxes: list[bytes], ids: Any = None) -> None:
    import pyarrow
    import pyarrow.parquet

    attributes(store / "shapes" / tiles, {"spatialdata_attrs": {"version": "0.3"}})
    columns = {"tile_id": np.arange(len(boxes)) if ids is None else ids, "geometry": boxes}
    pyarrow.parquet.write_table(pyarrow.table(columns), store / "shapes" / tiles / "shapes.parquet")


def spec(mpp: float, slide_mpp: float = 0.499) -> dict[str, Any]:
    sides = dict.fromkeys(("height", "width", "stride_height", "stride_width"), 224)
    return {**sides, "mpp": mpp, "base_downsample": mpp / slide_mpp}


def root(store: Path, version: str = "0.2", **more: Any) -> None:
    said = {
        "spatialdata_attrs": {"version": version},
        "slide_properties": {"shape": [3967, 4220], "mpp": 0.499},
        "tile_spec": {"tiles": spec(1), "coarse": spec(2), "tiles_dense": spec(1)},
    }
    attributes(store, said | more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made") / "slide.zarr"
    root(store)
    for tiles, side in (("tiles", 448), ("coarse", 897)):
        table(store, f"uni_{tiles}", tiles)
        shapes(store, tiles, [box(x, y, side) for x, y in XY[side]])
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "slide.zarr"))


def test_each_table_of_tiles_is_a_part_of_its_encoder(store: Path) -> None:
    assert parts(store) == {"uni_tiles": "uni", "uni_coarse": "uni"}

    for name, region in (("uni_cells", "cells"), ("uni_tiles_dense", "tiles_dense"), ("scores", "tiles")):
        attributes(store / "tables" / name, {"region": region})
    assert parts(store) == {"uni_tiles": "uni", "uni_coarse": "uni", "scores": "scores"}


def test_a_slide_in_ome_zarr_is_of_another_layout(tmp_path: Path) -> None:
    attributes(tmp_path / "slide.zarr", {"ome": {"multiscales": []}})
    assert parts(tmp_path / "slide.zarr") is None
    (tmp_path / "none.zarr").mkdir()
    assert parts(tmp_path / "none.zarr") is None


@pytest.mark.parametrize(("part", "side"), [("uni_tiles", 448), ("uni_coarse", 897)])
def test_tiles_are_as_large_as_their_boxes(made: Path, part: str, side: int) -> None:
    # 224 px at 1 and 2 mpp are 448.9 and 897.8 px of this slide, which wsidata cuts.
    source = FeatureSource(made, part)

    file = read_places(source)

    assert (file.tile_px, file.tile, file.stride, file.dim) == (224, side, side, 5)
    assert (file.slide_mpp, file.size_l0px, file.float16, file.remark) == (0.499, (4220, 3967), False, "")
    assert np.array_equal(file.xy, XY[side])
    assert np.array_equal(read_rows(source), ROWS)


def test_a_row_lies_where_its_tile_does_whatever_the_order(store: Path) -> None:
    shapes(store, "tiles", [box(x, y, 448) for x, y in XY[448][::-1]], np.arange(6)[::-1])
    assert np.array_equal(read_places(FeatureSource(store, "uni_tiles")).xy, XY[448])

    shapes(store, "tiles", [box(x, y, 448) for x, y in XY[448]], np.arange(6) + 1)
    with pytest.raises(MismatchError, match="1 of its 6 rows are of no tile"):
        read_places(FeatureSource(store, "uni_tiles"))


def test_the_resolution_that_tiles_were_cut_by_counts(store: Path) -> None:
    root(store, tile_spec={"tiles": spec(1, 0.25)})
    file = read_places(FeatureSource(store, "uni_tiles"))
    assert (file.slide_mpp, "cut by 0.25 um per pixel" in file.remark) == (pytest.approx(0.25), True)

    root(store, slide_properties={"shape": [3967, 4220], "mpp": None})
    assert read_places(FeatureSource(store, "uni_tiles")).slide_mpp is None


def test_what_cannot_be_used_is_one_line(store: Path) -> None:
    import scipy.sparse

    source = FeatureSource(store, "uni_tiles")
    shutil.rmtree(store / "tables" / "uni_tiles")
    table(store, "uni_tiles", "tiles", scipy.sparse.csr_matrix(ROWS))
    with pytest.raises(StoreError, match="csr_matrix; expected is a dense array"):
        read_places(source)
    table(store, "two", ["tiles", "coarse"])
    with pytest.raises(StoreError, match="of 2 sets of tiles"):
        read_places(FeatureSource(store, "two"))
    coarse = FeatureSource(store, "uni_coarse")
    shapes(store, "coarse", [box(x, y, 897, 448) for x, y in XY[897]])
    with pytest.raises(StoreError, match="no squares"):
        read_places(coarse)
    shapes(store, "coarse", [b"\0" * 93] * 6)
    with pytest.raises(StoreError, match="no boxes"):
        read_places(coarse)
    root(store, version="0.9")
    with pytest.raises(FormatVersionError, match=r"version 0\.9"):
        read_places(coarse)


def test_rows_that_were_never_written_are_not_zeros(store: Path) -> None:
    shutil.rmtree(store / "tables" / "uni_tiles" / "X" / "c")
    for read in (read_places, read_rows):
        with pytest.raises(StoreError, match="0 of 1 parts are written"):
            read(FeatureSource(store, "uni_tiles"))


def test_a_cut_store_is_one_line(store: Path) -> None:
    for file in sorted(store.rglob("*")):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    for read in (read_places, read_rows):
        with pytest.raises(ParfocalError):
            read(FeatureSource(store, "uni_tiles"))
