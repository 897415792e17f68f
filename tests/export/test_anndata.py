"""Embeddings as AnnData, read back by its own library."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.errors import MismatchError
from parfocal.export import observed_regions, observed_tiles, write_anndata
from parfocal.store.tokens import SlideRegions, SlideTokens

pytest.importorskip("anndata", reason="anndata is not installed (the extra `anndata`)")

CORNERS = np.array([[448.0, 0.0], [896.0, 448.0]])


def tokens(slide: str, dim: int = 3) -> SlideTokens:
    """Two regions of 448 um: one tile of each at 2 mpp, and two of the second at 1 mpp."""
    rows = np.random.default_rng(len(slide)).normal(size=(4, dim)).astype(np.float16)
    return SlideTokens(
        slide,
        448.0,
        0.25,
        CORNERS,
        {2.0: rows[:2], 1.0: rows[2:]},
        {2.0: np.array([0, 1], np.int32), 1.0: np.array([1, 1], np.int32)},
        {2.0: np.zeros((2, 2), np.float32), 1.0: np.array([[-112, -112], [112, -112]], np.float32)},
    )


def test_a_cohort_is_one_object_and_a_row_lies_where_its_tile_does(tmp_path: Path) -> None:
    import anndata

    slides = [tokens("a/b"), tokens("c")]
    observed = (observed_tiles(one, mpp, side_um=224 * mpp) for one in slides for mpp in one.mpps)

    write_anndata(tmp_path / "cohort.h5ad", observed, known={"settings": "{}"})

    data = anndata.read_h5ad(tmp_path / "cohort.h5ad")
    expected = np.concatenate([one.features[mpp] for one in slides for mpp in (2.0, 1.0)])
    assert data.X.dtype == np.float16
    assert np.array_equal(data.X, expected)
    assert list(data.obs_names[:5]) == ["a/b:1", "a/b:2", "a/b:3", "a/b:4", "c:1"]
    assert list(data.obs["mpp"]) == [2, 2, 1, 1] * 2
    assert list(data.obs["magnification"][:3]) == ["5x", "5x", "10x"]
    assert list(data.obs["region"]) == [0, 1, 1, 1] * 2
    # By hand: the second region's middle is at 1120, 672 um, and 0.25 um are a pixel.
    assert data.obsm["spatial"][1].tolist() == [4480, 2688]
    assert data.obsm["spatial"][2].tolist() == [4480 - 448, 2688 - 448]
    of = data.uns["spatial"][data.obs["library_id"].iloc[2]]
    assert of["scalefactors"]["spot_diameter_fullres"] == 896
    assert data.uns["parfocal"]["settings"] == "{}"


def test_regions_name_all_of_their_magnifications(tmp_path: Path) -> None:
    import anndata

    regions = SlideRegions("a", 448.0, 0.25, CORNERS, np.ones((2, 4), np.float32))

    write_anndata(tmp_path / "a.h5ad", [observed_regions(regions, (1.0, 2.0))])

    data = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (data.shape, set(data.obs["magnification"]), set(data.obs["mpp"])) == ((2, 4), {"5x+10x"}, {1.0})
    assert data.obsm["spatial"][0].tolist() == [2688, 896]


def test_rows_of_another_width_leave_no_file(tmp_path: Path) -> None:
    observed = [observed_tiles(tokens("a", dim), 1.0, side_um=224.0) for dim in (3, 4)]
    with pytest.raises(MismatchError, match="width 4, and those before 3"):
        write_anndata(tmp_path / "a.h5ad", observed)
    assert not list(tmp_path.iterdir())
