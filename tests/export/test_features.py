"""What is exported in a layout is indexed again to the same regions and rows; files that are there are not lost."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.embed.conftest import slide_bytes

from parfocal import export_features, index_features, open_set
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError
from parfocal.export import ExportSettings, export_formats
from parfocal.export.tiles import features_of, once_each
from parfocal.run import FailedSlide
from parfocal.store import EmbeddingSet, SlideOrigin, SlideRegions, SlideTokens, create_set, write_regions, write_tokens

MPP = 0.4985


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    """A slide of 1,900 x 1,130 px, in regions of 128 um with 21 tiles."""
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "one.tif").write_bytes(slide_bytes(0, MPP))
    settings = EmbedSettings(
        grid=GridConfig(region_um=128.0, tile_px=64), encoder="filterbank,tile_px=64", dtype="float32"
    )
    embed_slides([folder / "one.tif"], folder / "store", settings)
    return open_set(folder / "store")


def by_place(tokens: SlideTokens, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres in micrometres, whole, and rows, in one order."""
    centre = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp]
    order = np.lexsort(np.round(centre / 4).T)
    return centre[order], tokens.features[mpp][order]


@pytest.mark.parametrize("format", [name for name in export_formats() if name != "anndata"])
def test_what_is_exported_is_indexed_to_the_same_regions_and_rows(
    tiles: EmbeddingSet, tmp_path: Path, format: str
) -> None:
    done = export_features(tiles, tmp_path / "out", ExportSettings(format=format))

    assert done.exit_status == 0
    assert done.done[0].n_rows == tiles.n_tiles("one")
    found = index_features([tmp_path / "out"], tmp_path / "index", slide_mpp=MPP).embeddings
    before, after = tiles.read("one"), found.read("one")
    assert found.mpps == tiles.mpps
    # A side in whole pixels of level 0 is half a pixel off at most, and so is a place.
    assert after.region_um == pytest.approx(before.region_um, abs=MPP)
    assert after.n_regions == before.n_regions
    np.testing.assert_allclose(
        after.region_xy_um[np.lexsort(np.round(after.region_xy_um / 4).T)],
        before.region_xy_um[np.lexsort(np.round(before.region_xy_um / 4).T)],
        atol=MPP,
    )
    for mpp in tiles.mpps:
        (centre, rows), (centre_there, rows_there) = by_place(before, mpp), by_place(after, mpp)
        np.testing.assert_allclose(centre_there, centre, atol=2 * MPP)
        assert rows_there.dtype == (np.float16 if format == "stamp" else np.float32)
        assert np.array_equal(rows_there, rows.astype(rows_there.dtype))


def test_what_is_there_is_kept_and_anything_else_is_not_written_over(tiles: EmbeddingSet, tmp_path: Path) -> None:
    first = export_features(tiles, tmp_path, ExportSettings(format="trident", mpps=(2.0,)))
    file = first.done[0].files[2.0]
    content = file.read_bytes()

    again = export_features(tiles, tmp_path, ExportSettings(format="trident", mpps=(2.0, 1.0)))
    assert again.done[0].n_kept == 1
    assert file.read_bytes() == content

    with h5py.File(file, "r+") as opened:
        opened["features"][0, 0] += 1
    content = file.read_bytes()
    refused = export_features(tiles, tmp_path, ExportSettings(format="trident", mpps=(2.0,)))
    assert refused.exit_status == 1
    assert "holds other features" in refused.failed[0].message
    assert "--overwrite" in refused.failed[0].message
    assert file.read_bytes() == content
    assert "one," in (tmp_path / "failures.csv").read_text()

    written = export_features(tiles, tmp_path, ExportSettings(format="trident", mpps=(2.0,), overwrite=True))
    assert written.exit_status == 0
    with h5py.File(file) as opened:
        assert np.array_equal(opened["features"][...], next(features_of(tiles, "one", in_um=False)).rows)
    assert not (tmp_path / "failures.csv").exists()


@pytest.mark.parametrize("format", [name for name in export_formats() if name != "anndata"])
def test_an_export_that_was_stopped_goes_on(tiles: EmbeddingSet, tmp_path: Path, format: str) -> None:
    settings = ExportSettings(format=format, mpps=(1.0,))
    file = export_features(tiles, tmp_path, settings).done[0].files[1.0]
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert export_features(tiles, tmp_path, settings).done[0].n_kept == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content
    file.unlink()  # it is written last
    again = export_features(tiles, tmp_path, settings)
    assert not again.failed
    assert again.done[0].n_kept == 0
    assert file.exists()
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot be read" in export_features(tiles, tmp_path, settings).failed[0].message


def test_a_tile_that_two_regions_hold_is_written_once() -> None:
    rows = np.array([[1.0], [2.0], [1.0], [3.0]], np.float32)
    xy = np.array([[5, 9], [5, 0], [5, 9], [5, 9]], np.int64)

    assert once_each(rows, xy).tolist() == [1, 0, 3]


def toy_set(folder: Path, *, slide_mpp: float = 0.25) -> EmbeddingSet:
    """A tile of 448 um and four of 224 um in each of two regions that overlap by half."""
    path = create_set(
        folder,
        "toy-1",
        "tiles",
        region_um=448.0,
        dims={2.0: 3, 1.0: 3},
        settings={"encoder": "toy"},
        encoder_digests={2.0: "d", 1.0: "d"},
        tile_px=224,
        dtype="float32",
    )
    region_xy_um = np.array([[448.0, 224.0], [672.0, 224.0]])
    corners = np.array([[-112, -112], [112, -112], [-112, 112], [112, 112]], np.float32)
    center_um = {2.0: np.zeros((2, 2), np.float32), 1.0: np.concatenate([corners, corners])}
    region = {2.0: np.arange(2, dtype=np.int32), 1.0: np.repeat(np.arange(2), 4).astype(np.int32)}
    # The right half of the first region is the left half of the second one.
    fine = np.array([0, 1, 2, 3, 1, 4, 3, 5], np.float32)[:, None] * np.ones(3, np.float32)
    features = {2.0: np.array([[7, 7, 7], [8, 8, 8]], np.float32), 1.0: fine}
    tokens = SlideTokens("s", 448.0, slide_mpp, region_xy_um, features, region, center_um)
    write_tokens(path, tokens, origin=SlideOrigin())
    return open_set(path)


def test_overlapping_regions_are_tiles_that_overlap_and_share_the_finer_ones(tmp_path: Path) -> None:
    coarse, fine = features_of(toy_set(tmp_path), "s", in_um=False)

    assert coarse.xy_l0px.tolist() == [[1792, 896], [2688, 896]]
    assert (coarse.tile_px, coarse.tile_l0px, coarse.stride_l0px) == (224, 1792, 896)
    assert fine.xy_l0px.tolist() == [[x, y] for y in (896, 1792) for x in (1792, 2688, 3584)]
    assert fine.rows[:, 0].tolist() == [0, 1, 4, 2, 3, 5]
    assert (fine.tile_l0px, fine.stride_l0px) == (896, 896)


def test_a_region_is_a_tile_of_its_side(tmp_path: Path) -> None:
    path = create_set(
        tmp_path / "store",
        "model-1-cls",
        "regions",
        region_um=448.0,
        dims=5,
        settings={"model": "model", "readout": "cls"},
        encoder_digests={2.0: "d", 0.5: "d"},
        dtype="float16",
    )
    rows = np.arange(15, dtype=np.float16).reshape(3, 5)
    places = np.array([[448.0, 0.0], [896.0, 0.0], [448.0, 448.0]])
    write_regions(path, SlideRegions("s", 448.0, 0.25, places, rows), origin=SlideOrigin())

    done = export_features(tmp_path / "store", tmp_path / "out", ExportSettings(format="slide2vec"))

    found = index_features([tmp_path / "out"], tmp_path / "index", slide_mpp=0.25).embeddings
    tokens = found.read("s")
    assert (found.mpps, found.tile_px) == ((2.0,), 224)
    assert done.done[0].n_rows == {2.0: 3}
    assert sorted(map(tuple, tokens.region_xy_um.tolist())) == sorted(map(tuple, places.tolist()))
    assert sorted(tokens.features[2.0][:, 0].tolist()) == [0, 5, 10]
    with pytest.raises(ConfigError, match="--mpps"):
        export_features(tmp_path / "store", tmp_path / "out", ExportSettings(mpps=(2.0,)))


def test_without_a_resolution_only_a_layout_in_micrometres_is_written(tiles: EmbeddingSet, tmp_path: Path) -> None:
    settings = ExportSettings(format="stamp", mpps=(1.0,))
    first = export_features(tiles, tmp_path / "a", settings).done[0].files[1.0]
    unknown = index_features([tmp_path / "a"], tmp_path / "index").embeddings
    assert np.isnan(unknown.places("one").slide_mpp)

    refused = export_features(unknown, tmp_path / "out", ExportSettings(format="clam"))
    assert isinstance(refused.slides[0], FailedSlide)
    assert "resolution is not known" in refused.failed[0].message
    again = export_features(unknown, tmp_path / "b", settings).done[0].files[1.0]
    with h5py.File(first) as one, h5py.File(again) as other:
        np.testing.assert_allclose(other["coords"][...], one["coords"][...], atol=2e-3)  # a 1024th of a micrometre
        assert np.array_equal(one["feats"][...], other["feats"][...])
        assert dict(one.attrs) == dict(other.attrs)


def test_a_slide_or_a_layout_that_is_not_there_is_one_line(tiles: EmbeddingSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no slide two"):
        export_features(tiles, tmp_path, ExportSettings(only=("two",)))
    with pytest.raises(ValueError, match="no layout that is written"):
        ExportSettings(format="parquet")


def test_one_bad_slide_does_not_stop_the_others(tmp_path: Path) -> None:
    made = toy_set(tmp_path / "store")
    good = made.read("s")
    write_tokens(made.path, replace(good, slide="t"), origin=SlideOrigin())
    next((made.path / "1").glob("s.h5")).write_bytes(b"broken")

    done = export_features(made.path, tmp_path / "out", ExportSettings(format="clam"))

    assert done.exit_status == 3
    assert [one.slide for one in done.done] == ["t"]
    assert [one.slide for one in done.failed] == ["s"]


@pytest.mark.parametrize("per", ["slide", "cohort"])
def test_an_object_of_anndata_has_all_tiles_with_their_places_and_is_kept(
    tiles: EmbeddingSet, tmp_path: Path, per: str
) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed (the extra `anndata`)")
    settings = ExportSettings(format="anndata", per=per)

    done = export_features(tiles, tmp_path / "out", settings)

    assert done.done[0].n_rows == tiles.n_tiles("one")
    [path] = {*done.done[0].files.values()}
    found, tokens = anndata.read_h5ad(path), tiles.read("one")
    assert found.n_obs == sum(map(len, tokens.region.values()))
    for mpp in tokens.mpps:
        own = found[found.obs["mpp"] == mpp]
        assert np.array_equal(own.X, tokens.features[mpp])
        assert np.array_equal(own.obs["region"], tokens.region[mpp])
        middle_um = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp]
        assert np.allclose(own.obsm["spatial"] * tokens.slide_mpp, middle_um)
    state = path.stat().st_mtime_ns
    assert export_features(tiles, tmp_path / "out", settings).done[0].n_kept == 1
    assert path.stat().st_mtime_ns == state


def test_shards_export_each_slide_once_and_one_object_for_all_is_of_no_shard(tmp_path: Path) -> None:
    path = toy_set(tmp_path / "store").path
    parts = [export_features(path, tmp_path / "out", ExportSettings(shard=f"{n}/2")) for n in range(2)]

    assert sorted(one.slide for part in parts for one in part.done) == list(open_set(path).slides)
    with pytest.raises(ConfigError, match="needs all slides in one run"):
        export_features(path, tmp_path / "all", ExportSettings(format="anndata", per="cohort", shard="0/2"))
