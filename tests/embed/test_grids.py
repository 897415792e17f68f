"""Grids of any origin, overlap, side and level 0 become regions where they lie; what does not fit is named."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parfocal.errors import MismatchError, StoreError
from parfocal.store import FeatureFile, FeatureSource, index_features
from parfocal.store.grid import TileGrid, lay_grid
from parfocal.store.join import join_tiles

L0PX = (3000, 2100)


def grid_of(side: float, columns: int, rows: int, *, origin: tuple[float, float] = (0, 0), stride: float | None = None):
    xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * (stride or side)
    return xy + np.asarray(origin, np.float64)


def foreign_file(xy: np.ndarray, side: float, *, stride: float | None = None) -> FeatureFile:
    return FeatureFile(
        FeatureSource(Path("f.h5")), xy.astype(np.float64), 224, float(side), 3, stride=stride and float(stride)
    )


def trident(
    folder: Path, name: str, xy: np.ndarray, side: float, *, tile_px: int = 224, overlap_px: int = 0, size=L0PX
) -> None:
    path = folder / name / "features_toy" / "s.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(len(xy)).normal(size=(len(xy), 4)).astype(np.float32)
        file["coords"] = np.rint(xy).astype(np.int64)
        file["coords"].attrs.update(
            patch_size=tile_px,
            patch_size_level0=side,
            overlap=overlap_px,
            level0_width=size[0],
            level0_height=size[1],
            name="s",
        )


@settings(max_examples=40)
@given(
    side=st.integers(60, 300),
    ratio=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    shift=st.tuples(st.floats(-400, 400), st.floats(-400, 400)),
    share=st.sampled_from([1.0, 0.5, 0.75]),
)
@example(side=252, ratio=2.0, shift=(0.0, -331.0), share=1.0)
def test_every_tile_is_in_each_region_that_holds_its_centre_and_in_no_other(
    side: int, ratio: float, shift: tuple[float, float], share: float
) -> None:
    """By brute force over all pairs, for any origin, ratio of sides and overlap of the coarse tiles."""
    coarse, stride = side * ratio, side * ratio * share
    corners = grid_of(coarse, 4, 3, stride=stride) + 1000
    tiles = grid_of(side, 9, 7, origin=(700 + shift[0], 700 + shift[1]))
    grids = {
        2.0: lay_grid(foreign_file(corners, coarse, stride=stride), 0.5),
        0.5: lay_grid(foreign_file(tiles, side), 0.5),
    }

    joined = join_tiles(grids, 1, 1.0)
    # Places of one lattice that the coarse tiles leave free are regions too, where most fine tiles lie under those.
    assert set(map(tuple, corners * 0.5)) <= set(map(tuple, joined.region_xy_um))
    if len(joined.region_xy_um) > len(corners):
        assert share == 1
        # A place that would begin before the slide does is none, and its tiles are left out.
        begin = [corners[0] + coarse * np.floor((tiles + side / 2 + on - corners[0]) / coarse) for on in (-0.01, 0.01)]
        outside = [(one < edge).any(axis=1).sum() for one in begin for edge in (-0.01 * coarse, 0.01 * coarse)]
        assert min(outside) <= joined.n_left_out[0.5] <= max(outside)
    corners = joined.region_xy_um / 0.5

    offset = (tiles[:, None] + side / 2 - corners - coarse / 2) * 0.5
    near = np.abs(np.abs(offset) - coarse / 4) < 1e-4  # on an edge either neighbour may have it
    held = ((offset >= -coarse / 4) & (offset < coarse / 4)).all(axis=2)
    found = np.zeros_like(held)
    found[joined.row[0.5], joined.region[0.5]] = True
    decided = ~near.any(axis=2)
    assert np.array_equal(found[decided], held[decided])
    assert len(joined.row[0.5]) == found.sum()  # no pair twice
    center = (tiles[joined.row[0.5]] + side / 2 - corners[joined.region[0.5]] - coarse / 2) * 0.5
    np.testing.assert_allclose(joined.center_um[0.5], center, atol=1e-3)
    assert (np.diff(joined.region[0.5]) >= 0).all()


def test_an_overlap_is_measured_where_the_file_does_not_say_it_and_compared_where_it_does() -> None:
    half = grid_of(100, 12, 9, stride=50)

    assert lay_grid(foreign_file(half, 100), 0.5).stride_um == 25
    assert lay_grid(foreign_file(half, 100, stride=50), 0.5).overlaps
    with pytest.raises(StoreError, match="lie 50 level-0 pixels apart, and by their side and overlap it should be 100"):
        lay_grid(foreign_file(half, 100, stride=100), 0.5)
    # Tiles that stand apart may do so by chance; a lattice of every second place is another lattice.
    apart = np.random.default_rng(0).permutation(grid_of(100, 30, 30))[:40]
    assert lay_grid(foreign_file(apart, 100, stride=100), 0.5).stride_um == 50
    with pytest.raises(StoreError, match=r"lie 200 .* apart"):
        lay_grid(foreign_file(grid_of(100, 6, 5, stride=200), 100, stride=100), 0.5)


def test_grids_of_several_pieces_of_tissue_are_lattices_and_places_by_chance_are_none() -> None:
    pieces = np.concatenate(
        [grid_of(100, 6, 5), grid_of(100, 7, 4, origin=(1037, 211)), grid_of(100, 5, 5, origin=(31, 913))]
    )

    assert lay_grid(foreign_file(pieces, 100), 1.0).stride_um == 100
    with pytest.raises(StoreError, match="80 tiles lie on no lattice"):
        lay_grid(foreign_file(np.random.default_rng(0).uniform(0, 1e4, (80, 2)), 100), 1.0)
    with pytest.raises(StoreError, match="2 tiles lie where another one does"):
        lay_grid(foreign_file(np.concatenate([pieces, pieces[:1]]), 100), 1.0)


def test_lattices_of_pieces_whose_boxes_overlap_are_not_taken_for_one() -> None:
    """As CLAM and AtlasPatch lay them: most tiles are nearest to one of another piece."""
    pieces = np.concatenate([grid_of(100, 9, 7, origin=origin) for origin in ((0, 0), (337, 261), (421, 488))])

    assert lay_grid(foreign_file(pieces, 100), 1.0).stride_um == 100
    assert not lay_grid(foreign_file(pieces, 100, stride=100), 1.0).overlaps


def test_why_grids_do_not_nest_is_said(tmp_path: Path) -> None:
    trident(tmp_path / "job", "5x", grid_of(800, 3, 2), 800)
    trident(tmp_path / "job", "10x", grid_of(400, 5, 4, origin=(90, 40)), 400)
    trident(tmp_path / "job", "20x", grid_of(200, 20, 14, stride=150), 200, overlap_px=56)

    found = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.5).slides[0]

    assert max(found.misalignment_um.values()) == found.largest_misalignment_um > 30
    says = " ".join(found.remarks)
    assert "their grid starts +45.0, +20.0 um from that of the regions" in says
    assert "5.33 of their steps of 75.0 um fill a region of 400.0 um" in says
    assert "they overlap by 25%" in says


@given(
    shift=st.sampled_from([0.0, 50.0, 49.0, -50.0, 30.0]),
    jitter=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_no_tile_is_said_to_lie_further_off_than_the_furthest_does(shift: float, jitter: int, seed: int) -> None:
    """Half a step off, rounding sends some tiles to one side and some to the other."""
    fine = grid_of(100, 12, 8, origin=(shift, 0)) + 1000
    fine = fine + np.random.default_rng(seed).integers(-jitter, jitter + 1, fine.shape)
    coarse = lay_grid(foreign_file(grid_of(400, 4, 3) + 1000, 400), 1.0)
    joined = join_tiles({2.0: coarse, 0.5: TileGrid("fine", fine, 100.0, 100.0)}, 1, 1.0)

    said = joined.reasons.get(0.5, "")
    spread = re.search(r"they lie up to ([0-9.]+) um off it", said)
    starts = re.search(r"their grid starts ([-+0-9.]+), ([-+0-9.]+) um", said)
    wide = 2 * jitter + 2  # places at random about a shift: at most so far from it, whichever way round
    assert spread is None or float(spread[1]) <= min(wide, 50.05)
    assert starts is None or all(abs(float(one)) <= 50.05 for one in starts.groups())
    if jitter == 0:
        assert spread is None
        assert (starts is None) == (shift == 0)


def test_tiles_of_other_sides_are_indexed_and_a_region_encoder_says_that_it_takes_one(tmp_path: Path) -> None:
    trident(tmp_path / "job", "5x", grid_of(896, 3, 2), 896)
    trident(tmp_path / "job", "20x", grid_of(256, 10, 7), 256, tile_px=256)

    tiles = index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.5).embeddings

    assert tiles.tile_um == {2.0: 448.0, 0.5: 128.0}
    assert tiles.region_um == 448
    assert tiles.tile_um_of(tiles.read("s")) == {2.0: 448.0, 0.5: 128.0}
    with pytest.raises(MismatchError, match=r"256 px at 0\.5 mpp, 224 px at 2 mpp"):
        tiles.refuse_several_sides()


def test_a_copy_of_the_slide_with_another_level_0_is_scaled_by_its_size(tmp_path: Path, make_slide) -> None:
    slide = make_slide("s.tif")  # 1,900 x 1,130 px
    trident(tmp_path / "job", "5x", grid_of(896, 2, 1), 896, size=(1900, 1130))
    trident(tmp_path / "job", "20x", grid_of(448, 8, 4), 448, size=(3800, 2260))
    with pytest.raises(MismatchError, match=r"1900 x 1130 and 3800 x 2260 px. Name the slide's file"):
        index_features([tmp_path / "job"], tmp_path / "unknown", slide_mpp=0.5)

    tokens = index_features([tmp_path / "job"], tmp_path / "store", slides=[slide]).embeddings.read("s")

    assert tokens.mpps == (2.0, 0.5)
    assert [len(tokens.region[mpp]) for mpp in tokens.mpps] == [2, 32]
    # 4 x 4 tiles fill a region exactly.
    assert np.allclose(np.unique(tokens.center_um[0.5]) / tokens.region_um, [-0.375, -0.125, 0.125, 0.375], atol=1e-4)


def test_a_copy_that_does_not_say_its_size_is_told_by_where_its_tiles_lie(tmp_path: Path) -> None:
    trident(tmp_path / "job", "5x", grid_of(896, 12, 8, origin=(8960, 8960)), 896, size=(0, 0))
    trident(tmp_path / "job", "20x", grid_of(224, 40, 30, origin=(8960, 8960)) * 2, 448, size=(0, 0))

    with pytest.raises(MismatchError, match=r"most would if its places were 0\.5 times as far apart"):
        index_features([tmp_path / "job"], tmp_path / "store", slide_mpp=0.5)
