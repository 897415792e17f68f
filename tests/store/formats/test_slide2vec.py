"""slide2vec's files, written here as its own code does it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.errors import MismatchError, StoreError
from parfocal.store.folders import find_feature_folders
from parfocal.store.formats.format import FeatureFile, FeatureSource, FeaturesToWrite
from parfocal.store.formats.slide2vec import parts, read_places, read_rows, write

SIDE = 444  # 224 px at 0.5 mpp of a slide of 0.2525 mpp, read at level 0 as hs2p rounds it
XY = np.stack([np.arange(6) // 2, np.arange(6) % 2], axis=1) * SIDE + np.array([1234, 777])
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
TILING = {
    "requested_tile_size_px": 224,
    "requested_spacing_um": 0.5,
    "read_tile_size_px": SIDE,
    "read_spacing_um": 0.2525,
    "tile_size_lv0": SIDE,
    "step_px_lv0": SIDE,
}


def places(folder: Path, xy: np.ndarray = XY, slide: str = "a.1", **tiling: Any) -> Path:
    path = folder / "tiles" / f"{slide}.coordinates.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, tile_index=np.arange(len(xy)), x=xy[:, 0], y=xy[:, 1])
    said = {
        "provenance": {"sample_id": slide},
        "slide": {"dimensions": [5000, 3000], "base_spacing_um": 0.2525},
        "tiling": TILING | tiling,
    }
    path.with_name(f"{path.name.removesuffix('.npz')}.meta.json").write_text(json.dumps(said))
    return path


def features(folder: Path, rows: Any = ROWS, kind: str = "tile_embeddings", slide: str = "a.1", **said: Any) -> Path:
    path = folder / kind / f"{slide}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows, path)
    meta = {
        "sample_id": slide.rpartition("/")[2],
        "artifact_type": kind,
        "encoder_name": "virchow2",
        "tile_size_lv0": SIDE,
        "requested_spacing_um": 0.5,
        "requested_tile_size_px": 224,
        "read_tile_size_px": SIDE,
        "coordinates_npz_path": "",
    }
    path.with_name(f"{slide.rpartition('/')[2]}.meta.json").write_text(json.dumps(meta | said))
    return path


def found(folder: Path) -> FeatureFile:
    """The only features below a folder, as an index finds them."""
    (one,) = find_feature_folders([folder])
    (source,) = one.sources.values()
    return one.format.read_places(source)


def test_tiles_are_as_large_as_they_were_read_and_the_slide_says_its_resolution(tmp_path: Path) -> None:
    path = features(tmp_path, ROWS.astype(np.float16))
    beside = places(tmp_path)

    assert parts(path) == {"": "virchow2"}
    assert parts(beside) == parts(beside.with_name("a.1.coordinates.meta.json")) == {}
    file = found(tmp_path)
    assert (file.tile_px, file.tile, file.stride, file.slide_mpp) == (224, SIDE, SIDE, 0.2525)
    assert (file.size_l0px, file.dim, file.float16, file.slide) == ((5000, 3000), 5, True, "a.1")
    assert np.array_equal(file.xy, XY)
    assert np.array_equal(read_rows(file.source), ROWS.astype(np.float16))


def test_rows_of_an_archive_are_those_of_a_tensor(tmp_path: Path) -> None:
    path = features(tmp_path)
    places(tmp_path)
    np.savez_compressed(path.with_suffix(".npz"), features=ROWS, tile_index=np.arange(6))
    path.unlink()

    assert np.array_equal(read_rows(found(tmp_path).source), ROWS)


def test_tiles_of_regions_lie_row_by_row_in_each(tmp_path: Path) -> None:
    regions = np.array([[100, 900], [3000, 40]])
    features(
        tmp_path,
        np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3),
        "hierarchical_embeddings",
        region_tile_multiple=2,
        tile_size_lv0=None,
    )
    # hs2p rounds a region's side apart from a tile's.
    places(tmp_path, regions, requested_tile_size_px=448, tile_size_lv0=2 * SIDE + 1, step_px_lv0=2 * SIDE + 1)

    file = found(tmp_path)

    assert (file.tile_px, file.tile, file.stride, file.dim) == (224, SIDE, SIDE, 3)
    assert file.xy[:4].tolist() == [[100, 900], [100 + SIDE, 900], [100, 900 + SIDE], [100 + SIDE, 900 + SIDE]]
    assert file.xy[4].tolist() == [3000, 40]
    assert read_rows(file.source)[4].tolist() == [12, 13, 14]


def test_each_run_and_each_class_has_the_places_that_lie_beside_it(tmp_path: Path) -> None:
    # As many tiles in each, of one slide; only the folder tells which places are whose.
    for kind, shift in (("tumor", 0), ("stroma", 7)):
        features(tmp_path, slide=f"{kind}/a")
        places(tmp_path, XY + shift, f"{kind}/a")

    (one,) = find_feature_folders([tmp_path])

    assert set(one.sources) == {"tumor/a", "stroma/a"}
    assert np.array_equal(read_places(one.sources["stroma/a"]).xy, XY + 7)


def test_places_of_another_folder_are_those_that_fit(tmp_path: Path) -> None:
    path = features(tmp_path / "features")
    fitting, fewer = places(tmp_path / "20x"), places(tmp_path / "10x", XY[:4])

    assert np.array_equal(read_places(FeatureSource(path, beside=(fewer, fitting))).xy, XY)
    with pytest.raises(MismatchError, match=r"6 rows of 444 px.*4 of 444 px in"):
        read_places(FeatureSource(path, beside=(fewer,)))
    with pytest.raises(MismatchError, match=r"both .* fit, and differ"):
        read_places(FeatureSource(path, beside=(fitting, places(tmp_path / "shifted", XY + 1))))
    with pytest.raises(StoreError, match="does not say where its 6 tiles lie"):
        read_places(FeatureSource(path))


def test_a_stopped_extraction_and_a_slide_without_tiles_are_told(tmp_path: Path) -> None:
    path = features(tmp_path)
    path.with_name("a.1.meta.json").unlink()
    assert parts(path) == {"": None}
    with pytest.raises(StoreError, match="extraction that was stopped"):
        read_places(FeatureSource(path))

    features(tmp_path / "empty", num_tiles=0).unlink()
    with pytest.raises(StoreError, match="the slide has no tiles"):
        found(tmp_path / "empty")


def test_a_pickle_of_something_else_is_not_unpickled(tmp_path: Path) -> None:
    path = features(tmp_path, {"rows": torch.from_numpy(ROWS)})
    places(tmp_path)

    for read in (read_places, read_rows):
        with pytest.raises(StoreError, match="no file of one tensor"):
            read(FeatureSource(path))


def test_vectors_of_slides_are_no_features_of_tiles(tmp_path: Path) -> None:
    assert parts(features(tmp_path, kind="slide_embeddings")) == {}
    other = tmp_path / "other.pt"
    torch.save(torch.from_numpy(ROWS), other)
    assert parts(other) is None


def test_files_of_before_version_3_are_read(tmp_path: Path) -> None:
    table = np.zeros(6, dtype=[("x", int), ("y", int), ("target_tile_size", int), ("tile_size_lv0", int)])
    table["x"], table["y"], table["target_tile_size"], table["tile_size_lv0"] = *XY.T, 256, 512
    (tmp_path / "coordinates").mkdir()
    np.save(tmp_path / "coordinates" / "a.npy", table)
    (tmp_path / "features").mkdir()
    path = tmp_path / "features" / "a.pt"
    torch.save(torch.from_numpy(ROWS), path)

    assert parts(path) == {"": None}
    file = read_places(FeatureSource(path))
    assert (file.tile_px, file.tile, file.slide_mpp) == (256, 512, None)
    assert np.array_equal(file.xy, XY)


def test_what_is_written_is_in_the_order_of_hs2p_and_another_magnification_is_not_mixed_in(tmp_path: Path) -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    given = FeaturesToWrite("a", ROWS[order], XY[order], 224, SIDE, SIDE, 0.5, 0.2525, (5000, 3000), "virchow2")

    path = write(tmp_path, given)

    with np.load(tmp_path / "tiles" / "a.coordinates.npz") as written:
        assert np.array_equal(np.stack([written["x"], written["y"]], axis=1), XY)
    assert np.array_equal(torch.load(path, weights_only=True).numpy(), ROWS)
    coarse = FeaturesToWrite("a", ROWS, XY * 2, 224, 2 * SIDE, 2 * SIDE, 1.0, 0.2525, (5000, 3000), "virchow2")
    with pytest.raises(MismatchError, match="another folder for each magnification"):
        write(tmp_path, coarse)
