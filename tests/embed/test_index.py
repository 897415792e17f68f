"""Features of another tool become a set: joined by micrometres, misalignment measured, nothing copied or guessed."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import CalibrationError, ConfigError, MismatchError, StoreError
from parfocal.store import index_features, open_set
from parfocal.store.grid import TileGrid
from parfocal.store.join import join_tiles

from .trident import SIDES, trident_file, trident_job


def test_three_runs_become_regions_in_true_micrometres(tmp_path: Path) -> None:
    written = trident_job(tmp_path / "job", "s")
    before = {file: file.read_bytes() for file in (tmp_path / "job").rglob("*.h5")}

    # A 40x slide of 0.2525 um per pixel: the 20x tiles have 0.505, not 0.5.
    summary = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.2525)
    tokens = open_set(tmp_path / "store").read("s")

    assert {file: file.read_bytes() for file in (tmp_path / "job").rglob("*.h5")} == before
    assert summary.exit_status == 0
    assert tokens.mpps == (2.0, 1.0, 0.5)
    assert tokens.region_um == pytest.approx(1792 * 0.2525)
    assert summary.slides[0].realised_mpp == pytest.approx({2.0: 2.02, 1.0: 1.01, 0.5: 0.505})
    assert summary.slides[0].largest_misalignment_um == pytest.approx(0, abs=1e-9)
    # Independent: TRIDENT's grids start at zero, so the parent is an integer division (exact); a region without a tile
    # at 5x is one too.
    corners = {tuple(v // 1792 * 1792 for v in xy) for coords, _ in written.values() for xy in coords.tolist()}
    assert {tuple(xy) for xy in np.rint(tokens.region_xy_um / 0.2525).astype(int).tolist()} == corners
    assert len(tokens.region[2.0]) == len(written[5][0]) < tokens.n_regions
    for mpp, power in ((2.0, 5), (1.0, 10), (0.5, 20)):
        coords, features = written[power]
        assert len(tokens.region[mpp]) == len(coords)
        assert summary.slides[0].n_left_out[mpp] == 0
        found = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp]
        by_place = {tuple(xy): row for row, xy in zip(features, coords.tolist(), strict=True)}
        for center_um, row in zip(found, tokens.features[mpp], strict=True):
            corner = np.rint(center_um / 0.2525 - SIDES[power] / 2).astype(int)
            assert np.array_equal(by_place[tuple(corner.tolist())], row)


def test_regions_may_be_several_coarsest_tiles(tmp_path: Path) -> None:
    trident_job(tmp_path / "job", "s")

    summary = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.2525, region_um=896.0)
    tokens = summary.embeddings.read("s")

    assert tokens.region_um == pytest.approx(2 * 1792 * 0.2525)
    assert np.allclose(tokens.region_xy_um / tokens.region_um, np.rint(tokens.region_xy_um / tokens.region_um))
    assert np.bincount(tokens.region[2.0]).max() == 4
    assert np.bincount(tokens.region[0.5]).max() <= 64


def test_a_shifted_grid_is_measured_and_named_and_can_be_refused(tmp_path: Path) -> None:
    trident_job(tmp_path / "job", "s", shift_l0px=40)

    found = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25).slides[0]
    assert found.misalignment_um == pytest.approx({2.0: 0, 1.0: 0, 0.5: 10})
    assert found.remarks == (
        "the tiles of 0.5 mpp do not nest: their grid starts +10.0, +10.0 um from that of the regions",
    )
    with pytest.raises(MismatchError, match=r"10\.00 um from its place in a region, and the limit is 5\.60 um.*starts"):
        index_features([tmp_path / "job"], tmp_path / "strict", slide_mpp=0.25, max_misalignment=0.05)


def test_a_nominal_magnification_is_never_a_length(tmp_path: Path) -> None:
    trident_job(tmp_path / "job", "s")

    with pytest.raises(CalibrationError, match=r"only carry a nominal magnification.*--slide-mpp"):
        index_features([tmp_path / "job"], tmp_path / "store")


@pytest.mark.parametrize("mpp", [0.0, float("nan"), 352.8])
def test_a_resolution_that_no_slide_has_is_refused(tmp_path: Path, mpp: float) -> None:
    trident_job(tmp_path / "job", "s")
    with pytest.raises(ConfigError, match="--slide-mpp"):
        index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=mpp)
    assert not (tmp_path / "store").exists()


def test_the_resolution_comes_from_the_slide_or_the_manifest(tmp_path: Path, make_slide) -> None:
    trident_job(tmp_path / "job", "s")
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide,path,mpp\ns,absent.svs,0.26\n")

    summary = index_features([tmp_path / "job"], tmp_path / "store", slides=[manifest])
    assert summary.slides[0].slide_mpp == 0.26
    assert summary.slides[0].mpp_source == "manifest"
    # This one has another size than the features say.
    with pytest.raises(MismatchError, match="1900 x 1130 px"):
        index_features([tmp_path / "job"], tmp_path / "store", slides=[make_slide("s.tif")])


def test_a_slide_of_another_resolution_is_refused_and_the_rest_is_indexed(tmp_path: Path) -> None:
    for number, slide in enumerate("abcd"):
        trident_job(tmp_path / "job", slide, seed=number)
    (tmp_path / "job" / "10x_224px_0px_overlap" / "features_toy" / "b.h5").unlink()
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide,path,mpp\na,a.svs,0.2525\nb,b.svs,0.25\nc,c.svs,0.249\nd,d.svs,0.2738\n")

    summary = index_features([tmp_path / "job"], tmp_path / "store", slides=[manifest])

    assert summary.exit_status == 3
    assert [one.slide for one in summary.slides] == ["a", "c"]
    assert summary.embeddings.mpps == (2.0, 1.0, 0.5)
    reasons = {one.slide: one.message for one in summary.failed}
    assert "no features in" in reasons["b"]
    assert "have 2.19 um per pixel" in reasons["d"]
    assert (tmp_path / "store" / "failures.csv").exists()


def test_a_cohort_off_the_nominal_value_is_called_by_its_true_one(tmp_path: Path) -> None:
    trident_job(tmp_path / "job", "s")

    summary = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.2738)

    assert summary.embeddings.mpps == (2.19, 1.1, 0.548)


def test_a_leading_axis_of_one_is_read(tmp_path: Path) -> None:
    written = trident_job(tmp_path / "job", "s")
    path = tmp_path / "job" / "5x_224px_0px_overlap" / "features_toy" / "s.h5"
    with h5py.File(path, "r+") as file:
        rows = file["features"][:]
        del file["features"]
        file["features"] = rows[None]

    tokens = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25).embeddings.read("s")

    assert tokens.features[2.0].shape == written[5][1].shape


def test_what_is_not_in_the_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no features"):
        index_features([tmp_path], tmp_path / "store", slide_mpp=0.25)
    trident_job(tmp_path / "job", "s")
    trident_job(tmp_path / "job", "s", encoder="other")
    with pytest.raises(StoreError, match=r"other, toy.*--encoder"):
        index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25)
    assert index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25, encoder="toy").slides
    path = tmp_path / "job" / "5x_224px_0px_overlap" / "features_toy" / "s.h5"
    with h5py.File(path, "r+") as file:
        del file["coords"].attrs["patch_size_level0"]
    with pytest.raises(StoreError, match=r"s\.h5: coords have no attribute patch_size_level0"):
        index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25, encoder="toy")


def test_folders_of_any_name_and_our_own_files_are_indexed(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    ours = embed_slides([make_slide()], tmp_path / "ours", small_settings).set_path

    # No resolution is given: parfocal's own files carry it.
    summary = index_features([ours / "0.5", ours / "2", ours / "1"], tmp_path / "store", encoder="bank")

    first, second = open_set(ours).read("one"), summary.embeddings.read("one")
    assert summary.embeddings.name.startswith("bank-")
    assert summary.embeddings.slides == ("one",)
    # Our tiles lie on whole level-0 pixels, so theirs are half a pixel off at most, plus that of the tile's side.
    assert 0 < summary.slides[0].largest_misalignment_um < 1.0
    for mpp in first.mpps:
        assert sorted(map(tuple, first.features[mpp].tolist())) == sorted(map(tuple, second.features[mpp].tolist()))


def test_features_that_changed_after_indexing_are_noticed(tmp_path: Path) -> None:
    written = trident_job(tmp_path / "job", "s")
    store = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.25).embeddings
    path = tmp_path / "job" / "20x_224px_0px_overlap" / "features_toy" / "s.h5"
    trident_file(path, written[20][0][:5], power=20, side_l0px=448.0, features=written[20][1][:5])

    with pytest.raises(StoreError, match=r"s\.h5: it has changed since it was indexed. Put it back, or"):
        store.read("s")


@settings(max_examples=30)
@given(
    slide_mpp=st.floats(0.1, 1.2),
    origin=st.tuples(st.integers(0, 4000), st.integers(0, 4000)),
    fine_l0px=st.integers(100, 600),
    per_side=st.integers(1, 3),
)
def test_any_nesting_grid_joins_exactly(
    slide_mpp: float, origin: tuple[int, int], fine_l0px: int, per_side: int
) -> None:
    """On a lattice of its own origin, 5 x 3 coarse tiles of 4 x 4 fine ones."""

    def grid(side: int, columns: int, rows: int) -> TileGrid:
        xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * side + origin
        return TileGrid("f.h5", xy * slide_mpp, side * slide_mpp, side * slide_mpp)

    grids = {2.0: grid(4 * fine_l0px, 5, 3), 0.5: grid(fine_l0px, 20, 12)}

    joined = join_tiles(grids, per_side, 0.05)

    assert max(joined.misalignment_um.values()) < 1e-6 * fine_l0px
    assert not joined.reasons
    assert joined.n_left_out == {2.0: 0, 0.5: 0}
    for mpp, side in ((2.0, 4 * fine_l0px), (0.5, fine_l0px)):
        corner = joined.region_xy_um[joined.region[mpp]] + joined.region_um / 2 + joined.center_um[mpp]
        corner = corner - side * slide_mpp / 2
        assert np.allclose(corner, grids[mpp].xy_um[joined.row[mpp]], atol=1e-2)
        assert sorted(joined.row[mpp].tolist()) == list(range(len(grids[mpp].xy_um)))
