from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parfocal.config import GridConfig
from parfocal.errors import ParfocalWarning, ResolutionError, SlideError
from parfocal.geometry import whole_ratio
from parfocal.regions import RegionPlan, TissueMask, find_tissue, plan_regions
from parfocal.slides import Calibration, Slide, open_slide
from parfocal.slides.reader import PixelReader, Window


class SizedReader(PixelReader):
    """A slide that has a size and no pixels: planning with a given mask must not read any."""

    def __init__(self, width: int, height: int) -> None:
        self.path = Path("sized.tif")
        self.format = "sized"
        self.level_sizes = ((width, height),)
        self.mpp_claim = None
        self.objective_power = None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        raise AssertionError("planning read pixels")

    def close(self) -> None:
        """Nothing is open."""


def sized(width: int, height: int, mpp: float) -> Slide:
    reader = SizedReader(width, height)
    return Slide(reader, lambda: reader, Calibration(mpp, "test"), "sized.tif")


def plan_on(is_tissue: np.ndarray, grid: GridConfig, *, raster_mpp: float = 8.0) -> RegionPlan:
    height, width = (round(side * raster_mpp / 0.5) for side in is_tissue.shape)
    return plan_regions(sized(width, height, 0.5), grid, tissue=TissueMask(is_tissue, raster_mpp, raster_mpp))


@dataclass(frozen=True)
class Drawn:
    """A slide and a grid of whole tiles."""

    slide_mpp: float
    width: int
    height: int
    mpps: tuple[float, ...]
    tile_px: int
    region_um: float

    def plan(self, stride_um: float | None = None) -> RegionPlan:
        """Every region of it: there is tissue everywhere and none is asked for."""
        grid = GridConfig(
            region_um=self.region_um,
            mpps=self.mpps,
            tile_px=self.tile_px,
            stride_um=stride_um,
            min_tissue=0.0,
            min_inside=0.0,
        )
        mask = TissueMask(np.ones((3, 5), bool), self.width * self.slide_mpp / 5, self.height * self.slide_mpp / 3)
        return plan_regions(sized(self.width, self.height, self.slide_mpp), grid, tissue=mask)


@st.composite
def grids(draw: st.DrawFn, longest: int = 400) -> Drawn:
    """Any magnifications, slides up to 10^5 px and `longest` regions along a side."""
    slide_mpp = draw(st.floats(0.1, 2.0))
    mpps = [slide_mpp * draw(st.floats(1.0, 8.0))]
    tile_px = draw(st.integers(16, 512))
    for factor in draw(st.lists(st.integers(2, 4), max_size=2)):
        mpps.append(mpps[-1] * factor)
    region_um = mpps[-1] * tile_px * draw(st.integers(1, 3))
    # At most 400 regions along a side keep the test quick; that still is 10^5 px of the smallest ones.
    longest_px = min(100_000, int(longest * region_um / slide_mpp))
    width, height = draw(st.integers(1, longest_px)), draw(st.integers(1, max(longest_px // (longest // 2), 1)))
    if draw(st.booleans()):
        width, height = height, width
    return Drawn(slide_mpp, width, height, tuple(mpps), tile_px, region_um)


@settings(max_examples=40)
@given(grids(longest=12), st.data())
def test_regions_that_overlap_hold_every_tile_once_and_keep_the_others(drawn: Drawn, data: st.DataObject) -> None:
    plain = drawn.plan()
    grid = plain.grid
    per_side = grid.tiles_per_side(min(grid.mpps))
    # Whole tiles, other whole parts of a region, and what is neither.
    strides = [k * grid.region_um / per_side for k in range(1, per_side)] + [grid.region_um / 1.7, grid.region_um]
    plan = drawn.plan(data.draw(st.sampled_from([one for one in strides if one >= grid.tile_um(min(grid.mpps))])))
    step_um, exact = plan.grid.step_um, 1e-6 * plan.slide_mpp

    corners, first, last = plan.region_xy_um(), plain.region_xy_um().min(axis=0), plain.region_xy_um().max(axis=0)
    # At every multiple of the stride from the first region, as far as there is one without a stride, and once.
    steps = (corners - first) / step_um
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    size_um = np.array([drawn.width, drawn.height]) * drawn.slide_mpp
    needed = np.ceil((last - first) / step_um - 1e-6)
    on_slide = [np.count_nonzero(first[a] + np.arange(needed[a] + 1) * step_um < size_um[a] - exact) for a in (0, 1)]
    assert len(np.unique(np.rint(steps), axis=0)) == plan.n_regions == np.prod(on_slide)
    divides = whole_ratio(grid.region_um, step_um) is not None
    for mpp in grid.mpps:
        tiles, alone = plan.tiles(mpp), plain.tiles(mpp)
        at = np.rint(tiles.xy_um / (1e-4 * grid.tile_um(mpp))).astype(np.int64)
        distinct = np.unique(at, axis=0)
        read = tiles.only_read()
        assert len(distinct) == len(read) == plan.n_tiles(mpp)
        assert len(distinct) <= len(tiles) == plan.n_places(mpp)
        # The row of a tile is that of the tile that is read at its place.
        np.testing.assert_allclose(read.xy_um[tiles.row], tiles.xy_um, atol=exact, rtol=0)
        # What lies side by side is read with the region that has it without a stride, where there is one.
        owner = {tuple(xy): tuple(corner) for xy, corner in zip(read.xy_um, corners[read.region], strict=True)}
        for xy, region in zip(alone.xy_um, alone.region, strict=True):
            corner = tuple(plain.region_xy_um()[region])
            assert not divides or owner[tuple(xy)] == corner


@settings(max_examples=60)
@given(grids())
def test_tiles_cover_their_region_exactly_and_nothing_drifts(drawn: Drawn) -> None:
    plan, width, height = drawn.plan(), drawn.width, drawn.height
    grid = plan.grid
    corners = plan.region_xy_um()
    # Far corners must be right to a millionth of a pixel, whatever the size: float64 has 10^-16 of 10^5 px.
    exact = 1e-6 * plan.slide_mpp
    for mpp in grid.mpps:
        tiles = plan.tiles(mpp)
        side = grid.tiles_per_side(mpp)
        offset = tiles.xy_um - corners[tiles.region]
        # In the region, at its slot, and no slot twice: with the equal sides that is an exact cover.
        np.testing.assert_allclose(offset, tiles.slot[:, ::-1] * grid.tile_um(mpp), atol=exact, rtol=0)
        assert side * grid.tile_um(mpp) == pytest.approx(grid.region_um, rel=1e-6)
        places = np.column_stack([tiles.region, tiles.slot])
        assert len(np.unique(places, axis=0)) == len(places)
        # Level-0 coordinates are the nearest pixel, at the last tile as at the first.
        assert np.abs(tiles.coords_l0px * plan.slide_mpp - tiles.xy_um).max() <= plan.slide_mpp / 2 + exact
        # Every pixel of the slide lies in a tile of every magnification.
        far = (tiles.xy_um + grid.tile_um(mpp)).max(axis=0)
        assert far[0] >= width * plan.slide_mpp * (1 - 2e-6)
        assert far[1] >= height * plan.slide_mpp * (1 - 2e-6)
        first, size = tiles.xy_um.min(axis=0), np.array([width, height]) * plan.slide_mpp
        assert (first[size >= grid.region_um] == 0).all()
        assert (first <= exact).all()
        center = tiles.xy_um + grid.tile_um(mpp) / 2 - corners[tiles.region] - grid.region_um / 2
        np.testing.assert_allclose(tiles.center_um, center, atol=1e-6 * grid.region_um, rtol=0)


@settings(max_examples=30)
@given(grids())
def test_the_windows_of_neighbours_share_their_edges(drawn: Drawn) -> None:
    plan = drawn.plan()
    windows = {tuple(plan.lattice[n].tolist()): plan.window_l0px(n) for n in range(min(plan.n_regions, 300))}

    for (column, row), (left, top, right, bottom) in windows.items():
        assert (right - left) * plan.slide_mpp == pytest.approx(plan.grid.region_um, abs=plan.slide_mpp * 1.001)
        if (column + 1, row) in windows:
            assert windows[column + 1, row][0] == right
        if (column, row + 1) in windows:
            assert windows[column, row + 1][1] == bottom
        assert (left, top) == (round(left), round(top))


def test_regions_come_band_by_band_and_row_by_row() -> None:
    plan = plan_on(np.ones((56 * 3, 56 * 40), bool), GridConfig())

    order = [(column // 16, row, column) for column, row in plan.lattice.tolist()]
    assert order == sorted(order)
    assert len(order) == 3 * 40
    assert (plan.region_xy_um()[0] == 0).all()


def test_a_region_is_kept_by_its_tissue_and_a_finer_tile_by_its_own() -> None:
    """56 raster pixels make a region, 14 a tile at 0.5 mpp, 28 one at 1."""
    is_tissue = np.zeros((56 * 2, 56 * 3), bool)
    is_tissue[0:14, 0:28] = True  # region (0, 0): 2 of 16 tiles, a share of .125
    is_tissue[56:63, 56:75] = True  # region (1, 1): a share of .042
    plan = plan_on(is_tissue, GridConfig(min_tissue=0.1))

    assert plan.lattice.tolist() == [[0, 0]]
    assert plan.tissue_share.tolist() == [0.125]
    assert plan.kept[2.0].tolist() == [[[True]]]
    assert plan.kept[1.0][0].tolist() == [[True, False], [False, False]]
    assert np.argwhere(plan.kept[0.5][0]).tolist() == [[0, 0], [0, 1]]
    assert [plan.n_tiles(mpp) for mpp in (2.0, 1.0, 0.5)] == [1, 1, 2]
    tiles = plan.tiles(0.5)
    assert tiles.slot.tolist() == [[0, 0], [0, 1]]
    assert tiles.xy_um.tolist() == [[0.0, 0.0], [112.0, 0.0]]
    assert tiles.coords_l0px.tolist() == [[0, 0], [224, 0]]
    assert tiles.center_um.tolist() == [[-168.0, -168.0], [-56.0, -168.0]]


def test_what_lies_mostly_beyond_the_slide_is_absent_and_tissue_is_a_share_of_the_rest() -> None:
    is_tissue = np.zeros((56, 56 + 21), bool)
    is_tissue[:14, 56:] = True  # 21 raster pixels reach into the second region: a tile at 0.5 mpp and a half of one
    plan = plan_on(is_tissue, GridConfig())

    assert plan.lattice.tolist() == [[1, 0]]
    assert plan.tissue_share.tolist() == [0.25]
    assert np.argwhere(plan.kept[0.5][0]).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(plan.kept[1.0][0]).tolist() == [[0, 0]]
    assert not plan.kept[2.0].any()
    stricter = plan_on(is_tissue, GridConfig(min_inside=0.51))
    assert np.argwhere(stricter.kept[0.5][0]).tolist() == [[0, 0]]
    # Three raster pixels of tissue all along the edge are .05 of a region, and no tile lies on them for its half.
    assert plan_on(np.ones((56, 59), bool), GridConfig()).lattice.tolist() == [[0, 0]]
    assert plan_on(np.ones((56, 59), bool), GridConfig(min_inside=0)).lattice.tolist() == [[0, 0], [1, 0]]


SIZES = st.integers(20, 1300)


@settings(max_examples=80)
@given(width=SIZES, height=SIZES, mpps=st.sampled_from([(2.0, 1.0, 0.5), (1.5, 0.5), (0.5,), (4.0, 1.0)]))
@example(width=56, height=383, mpps=(2.0, 1.0, 0.5))
@example(width=56, height=159, mpps=(2.0, 1.0, 0.5))
@example(width=159, height=61, mpps=(2.0, 1.0, 0.5))
def test_a_small_picture_fills_as_many_tiles_as_fit(width: int, height: int, mpps: tuple[float, ...]) -> None:
    """Pure tissue of any size: counted in whole tiles along each side, none is lost and nothing is mostly white."""
    grid = GridConfig(region_um=max(mpps) * 112 * 2, tile_px=112, mpps=mpps)
    finest_px = round(grid.tile_um(min(mpps)) / 0.5)
    slide = sized(width, height, 0.5)
    tissue = TissueMask(np.ones((height, width), bool), 0.5, 0.5)
    largest = min(width / finest_px, 1) * min(height / finest_px, 1)  # as much of a tile as can be filled
    if largest < 0.5:
        with pytest.raises(SlideError, match=r"sized\.tif: it is smaller than a tile"):
            plan_regions(slide, grid, tissue=tissue)
        return
    plan = plan_regions(slide, grid, tissue=tissue)

    assert plan.n_tiles(min(mpps)) >= max(width // finest_px, 1) * max(height // finest_px, 1)
    for mpp in mpps:
        tiles = plan.tiles(mpp)
        side = grid.tile_um(mpp)
        low = np.maximum(tiles.xy_um, 0)
        high = np.minimum(tiles.xy_um + side, [width * 0.5, height * 0.5])
        assert ((high - low).prod(axis=1) >= 0.5 * side**2 * (1 - 1e-9)).all()
    for axis, size in enumerate((width * 0.5, height * 0.5)):
        if size >= grid.region_um:
            assert plan.origin_um[axis] == 0
        else:
            assert size - grid.region_um - 1 <= plan.origin_um[axis] <= 0
            assert plan.origin_um[axis] / 0.5 == pytest.approx(round(plan.origin_um[axis] / 0.5), abs=1e-9)


@pytest.mark.parametrize(
    ("side", "origin", "counts"),
    [
        (224, -112.0, (0, 0, 1)),  # one tile in the second of four places
        (220, -113.0, (0, 0, 1)),  # in the middle of that place
        (448, 0.0, (0, 1, 4)),  # on the tiles at 1 mpp too, which the middle would cut
        (512, 0.0, (0, 1, 4)),  # what is left over lies beside them; none of it is half a tile
        (700, 0.0, (1, 3, 9)),  # three tiles and 28 px
        (896, 0.0, (1, 4, 16)),
    ],
)
def test_a_square_patch_lies_on_whole_tiles_near_the_middle(side: int, origin: float, counts: tuple[int, ...]) -> None:
    plan = plan_regions(
        sized(side, side, 0.5), GridConfig(), tissue=TissueMask(np.ones((4, 4), bool), side / 8, side / 8)
    )

    assert plan.origin_um == (origin, origin)
    assert tuple(plan.n_tiles(mpp) for mpp in (2.0, 1.0, 0.5)) == counts


def test_keeping_all_keeps_what_touches_the_slide_and_no_more() -> None:
    plan = plan_on(np.zeros((70, 59), bool), GridConfig(min_tissue=0.0, min_inside=0.0))

    assert plan.lattice.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert plan.kept[0.5][0].all()
    assert np.argwhere(plan.kept[0.5][1]).tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    assert np.argwhere(plan.kept[0.5][3]).tolist() == [[0, 0]]


def test_a_slide_without_tissue_has_an_empty_plan() -> None:
    plan = plan_on(np.zeros((112, 168), bool), GridConfig())

    assert plan.n_regions == 0
    assert plan.tiles(0.5).xy_um.shape == (0, 2)
    assert len(plan.tiles(2.0)) == 0


def test_a_magnification_that_the_slide_lacks_is_refused_and_a_near_one_said() -> None:
    mask = TissueMask(np.ones((10, 12), bool), 8.0, 8.0)
    with pytest.raises(ResolutionError, match=r"at 0\.5 mpp: its finest level has 1 mpp"):
        plan_regions(sized(3000, 2000, 1.0), GridConfig(), tissue=mask)
    with pytest.warns(ParfocalWarning, match=r"0\.5 mpp is 0\.3% finer"):
        plan_regions(sized(3000, 2000, 0.5015), GridConfig(), tissue=mask)


def test_larger_thresholds_keep_less(colon: Path) -> None:
    with open_slide(colon) as slide:
        tissue = find_tissue(slide)
        plans = [plan_regions(slide, GridConfig(min_tissue=share), tissue=tissue) for share in (0.0, 0.1, 0.5, 1.0)]

    for looser, stricter in pairwise(plans):
        assert looser.n_regions > stricter.n_regions
        assert looser.n_tiles(0.5) > stricter.n_tiles(0.5)
        assert {tuple(place) for place in stricter.lattice.tolist()} < {tuple(p) for p in looser.lattice.tolist()}
    assert plans[0].n_regions == 18 * 35  # 7,680 x 15,488 um in regions of 448 um
