"""Pixels that the file does not give never become a tile, and nothing else is lost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.config import GridConfig
from parfocal.errors import UnreadableSlideError
from parfocal.regions import RegionPlan, TissueMask, plan_regions
from parfocal.regions.tiles import RegionTiles, iter_tiles, read_region
from parfocal.slides import Calibration, Gap, Slide, Window
from parfocal.slides.reader import PixelReader

SIZE = (700, 500)


class GappyReader(PixelReader):
    """Noise and its averages as further levels, with gaps that are filled with whatever is asked."""

    def __init__(self, gaps: Sequence[tuple[int, Gap]], fill: int | None, downsamples: Sequence[int] = (1,)) -> None:
        self.path, self.format = Path("gappy.tif"), "gappy"
        self.level_sizes = tuple((SIZE[0] // down, SIZE[1] // down) for down in downsamples)
        self.mpp_claim, self.objective_power = None, None
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
        self.levels = [cv2.resize(noise, size, interpolation=cv2.INTER_AREA) for size in self.level_sizes]
        self.gaps = list(gaps)
        for level, gap in self.gaps:
            if fill is not None:
                self.levels[level][gap.y : gap.y + gap.height, gap.x : gap.x + gap.width] = fill

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        met = [
            gap
            for at, gap in self.gaps
            if at == level
            and gap.x < x + width
            and gap.y < y + height
            and gap.x + gap.width > x
            and gap.y + gap.height > y
        ]
        return Window(self.levels[level][y : y + height, x : x + width], tuple(met))

    def close(self) -> None:
        """Nothing is open."""


def meet(one: Gap, other: Gap) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def slide_of(reader: PixelReader, mpp: float) -> Slide:
    return Slide(reader, lambda: reader, Calibration(mpp, "test"), "gappy.tif")


def plan_of(slide: Slide, *, tissue: np.ndarray | None = None, min_tissue: float = 0.0) -> RegionPlan:
    raster = np.ones((3, 5), bool) if tissue is None else tissue
    height, width = raster.shape
    mask = TissueMask(raster, slide.width_px * slide.mpp / width, slide.height_px * slide.mpp / height)
    grid = GridConfig(region_um=64.0, mpps=(2.0, 1.0, 0.5), tile_px=32, min_tissue=min_tissue, min_inside=0.0)
    return plan_regions(slide, grid, tissue=mask)


def by_place(plan: RegionPlan, regions: Sequence[RegionTiles]) -> tuple[dict, dict]:
    """Tiles and reasons by magnification and number among the planned tiles; together they are all of them."""
    tiles, reasons = {}, {}
    for mpp in plan.grid.mpps:
        number = 0
        for region in regions:
            absent = {one.number: one.reason for one in region.absent.get(mpp, ())}
            present = iter(region.tiles[mpp])
            for place in range(len(absent) + len(region.tiles[mpp])):
                if place in absent:
                    reasons[mpp, number] = absent[place]
                else:
                    tiles[mpp, number] = next(present)
                number += 1
        assert number == plan.n_tiles(mpp)
    return tiles, reasons


@st.composite
def gaps(draw: st.DrawFn, size: tuple[int, int], tile_px: float) -> Gap:
    """A broken rectangle whose left upper or right lower corner lies about the corner of a finest tile."""
    ends = []
    for side in size:
        near = round(draw(st.integers(0, int(side / tile_px))) * tile_px) + draw(st.integers(-2, 2))
        near, length = min(max(near, 0), side - 1), draw(st.integers(1, 150))
        start = near if draw(st.booleans()) else max(near - length, 0)
        ends.append((start, min(start + length, side) - start))
    (x, width), (y, height) = ends
    return Gap(x, y, width, height, f"tile {x} is broken", True)


@settings(max_examples=50)
@given(
    data=st.data(),
    fill=st.sampled_from([0, 255]),
    mpp=st.sampled_from([0.5, 0.25, 0.4985, 0.3, 0.5162]) | st.floats(0.25, 0.52),
    coarse=st.sampled_from(["derived", "native"]),
)
@pytest.mark.filterwarnings("ignore:.*its pixels are enlarged")
def test_a_broken_pixel_is_in_no_tile_and_takes_only_the_tiles_that_it_lies_in(
    data: st.DataObject, fill: int, mpp: float, coarse: str
) -> None:
    holes = data.draw(st.lists(gaps(SIZE, 16 / mpp), min_size=1, max_size=3))
    whole = slide_of(GappyReader([], None), mpp)
    plan = plan_of(whole)
    expected, none = by_place(plan, list(iter_tiles(whole, plan, coarse=coarse)))
    assert none == {}

    slide = slide_of(GappyReader([(0, gap) for gap in holes], fill), mpp)
    tiles, reasons = by_place(plan, list(iter_tiles(slide, plan, coarse=coarse)))
    for place, tile in tiles.items():
        np.testing.assert_array_equal(tile, expected[place])
    for name, number in reasons:
        # Independently: the footprint in level-0 pixels, wider by one for interpolation and by one for rounding.
        low = plan.tiles(name).xy_um[number] / mpp
        x, y = np.floor(low - 2).astype(int).tolist()
        side = int(np.ceil(32 * name / mpp)) + 5
        meets = [gap for gap in holes if meet(gap, Gap(x, y, side, side, "", False))]
        assert reasons[name, number] in {gap.reason for gap in meets}


@settings(max_examples=20)
@given(hole=gaps((175, 125), 8.0), fill=st.sampled_from([0, 255]))
def test_native_tiles_are_absent_where_their_own_level_is_broken(hole: Gap, fill: int) -> None:
    whole = slide_of(GappyReader([], None, (1, 4)), 0.5)
    plan = plan_of(whole)
    expected, _ = by_place(plan, list(iter_tiles(whole, plan, coarse="native")))
    slide = slide_of(GappyReader([(1, hole)], fill, (1, 4)), 0.5)

    tiles, reasons = by_place(plan, list(iter_tiles(slide, plan, coarse="native")))

    assert {mpp for mpp, _ in reasons} == {2.0}
    for place, tile in tiles.items():
        np.testing.assert_array_equal(tile, expected[place])
    assert not by_place(plan, list(iter_tiles(slide, plan)))[1]


def test_a_broken_place_beside_the_planned_tiles_costs_nothing() -> None:
    # Tissue is the left half, 350 px; the columns from 3 x 128 = 384 px on are not planned.
    tissue = np.zeros((500, 700), bool)
    tissue[:, :350] = True
    slide = slide_of(GappyReader([(0, Gap(400, 0, 100, 500, "broken", True))], 0), 0.5)
    plan = plan_of(slide, tissue=tissue, min_tissue=0.2)
    regions = list(iter_tiles(slide, plan))

    assert len(regions) == plan.n_regions == 3 * 4
    assert not any(region.absent for region in regions)


def test_broken_glass_in_a_region_of_tissue_takes_the_coarse_tile_and_no_fine_one() -> None:
    tissue = np.zeros((500, 700), bool)
    tissue[:, :64] = True
    slide = slide_of(GappyReader([(0, Gap(100, 10, 20, 20, "broken", True))], 0), 0.5)
    plan = plan_of(slide, tissue=tissue, min_tissue=0.2)

    region = next(iter_tiles(slide, plan))

    assert {mpp: [one.number for one in absent] for mpp, absent in region.absent.items()} == {2.0: [0]}
    assert [len(region.tiles[mpp]) for mpp in (2.0, 1.0, 0.5)] == [0, 2, 8]


@settings(max_examples=30)
@given(x=st.integers(0, 660), y=st.integers(0, 460), width=st.integers(40, 200), height=st.integers(40, 200))
def test_a_hole_in_the_tissue_takes_every_tile_that_it_touches(x: int, y: int, width: int, height: int) -> None:
    hole = Gap(x, y, min(width, 700 - x), min(height, 500 - y), "no data", False)
    sparse, broken = (
        slide_of(GappyReader([(0, replace(hole, is_broken=is_broken))], 255), 0.5) for is_broken in (False, True)
    )
    plan = plan_of(sparse, tissue=np.ones((500, 700), bool), min_tissue=0.1)

    assert by_place(plan, list(iter_tiles(sparse, plan)))[1] == by_place(plan, list(iter_tiles(broken, plan)))[1]


@pytest.mark.parametrize(("covered_px", "is_absent"), [(12, False), (14, True)])
def test_seams_between_fields_are_white_until_they_hold_the_tissue_of_a_tile(covered_px: int, is_absent: bool) -> None:
    """Of a region of 128 px, all tissue: seams of two columns; a tenth of its area are 12.8."""
    holes = [(0, Gap(4 * number, 0, 2, 500, "no data", False)) for number in range(covered_px // 2)]
    slide = slide_of(GappyReader(holes, 255), 0.5)
    plan = plan_of(slide, tissue=np.ones((500, 700), bool), min_tissue=0.1)

    region = next(iter_tiles(slide, plan))

    assert (2.0 in region.absent) == is_absent
    # The finest tiles have 32 px: each of the first column is covered by half.
    assert {one.number for one in region.absent[0.5]} >= {0, 4, 8, 12}


@pytest.mark.parametrize(("tissue_px", "is_absent"), [(8, False), (18, False), (22, True)])
def test_what_was_not_scanned_beside_tissue_is_glass_up_to_a_quarter(tissue_px: int, is_absent: bool) -> None:
    """The mask reaches into the first 80 columns, which have no data, by some of them: a border drawn too wide."""
    tissue = np.zeros((500, 700), bool)
    tissue[:, 80 - tissue_px :] = True
    slide = slide_of(GappyReader([(0, Gap(0, 0, 80, 500, "no data", False))], 255), 0.5)
    # A fifth of the tile is 25.6 columns, so the tile's own share decides nothing here.
    plan = plan_of(slide, tissue=tissue, min_tissue=0.2)

    assert (2.0 in next(iter_tiles(slide, plan)).absent) == is_absent


@pytest.mark.parametrize("min_tissue", [0.0, 0.1])
def test_glass_without_data_stays_white(min_tissue: float) -> None:
    tissue = np.zeros((500, 700), bool)
    tissue[:, 100:] = True
    slide = slide_of(GappyReader([(0, Gap(0, 0, 90, 500, "no data", False))], 255), 0.5)
    plan = plan_of(slide, tissue=tissue, min_tissue=min_tissue)
    regions = list(iter_tiles(slide, plan))

    assert not any(region.absent for region in regions)
    assert (regions[0].tiles[2.0][0][:, :22] == 255).all()


def test_a_whole_region_is_read_or_refused() -> None:
    hole = Gap(10, 10, 5, 5, "tile 7 of level 0 is broken", True)
    slide = slide_of(GappyReader([(0, hole)], 0), 0.5)
    plan = plan_of(slide)

    with pytest.raises(UnreadableSlideError, match=r"region 0 \(column 0, row 0\) of gappy\.tif: tile 7 of level 0"):
        read_region(slide, plan, 0)
    assert read_region(slide, plan, 1)[0.5].shape == (128, 128, 3)
    sparse = slide_of(GappyReader([(0, replace(hole, is_broken=False))], 255), 0.5)
    assert read_region(sparse, plan, 0)[0.5].shape == (128, 128, 3)


@pytest.mark.filterwarnings("ignore:.*its pixels are enlarged")
def test_an_enlarged_tile_is_absent_where_a_broken_pixel_beside_it_was_interpolated() -> None:
    """At 0.5162 mpp a region has 124 px for 128: the second tile begins with pixel 31, and looks 1.5 % at pixel 30."""
    reader = GappyReader([(0, Gap(30, 0, 1, 500, "broken", True))], None)
    slide = slide_of(reader, 0.5162)
    plan = plan_of(slide)
    before = read_pixels(slide, plan)
    reader.levels[0][:, 30] = 255 - reader.levels[0][:, 30]

    assert not np.array_equal(read_pixels(slide, plan), before)
    assert [one.number for one in next(iter_tiles(slide, plan)).absent[0.5] if one.number < 4] == [0, 1]


def read_pixels(slide: Slide, plan: RegionPlan) -> np.ndarray:
    """The second finest tile of the first region, whatever its gaps."""
    reader = slide._reader
    assert isinstance(reader, GappyReader)
    held, reader.gaps = reader.gaps, []
    tile = next(iter_tiles(slide, plan)).tiles[0.5][1].copy()
    reader.gaps = held
    return tile
