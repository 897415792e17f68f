from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.config import GridConfig
from parfocal.errors import ParfocalWarning, UnreadableSlideError
from parfocal.geometry import Box
from parfocal.regions import RegionPlan, TissueMask, plan_regions
from parfocal.regions.tiles import iter_tiles, read_region, read_tile
from parfocal.slides import Calibration, Slide, open_slide
from parfocal.slides.reader import PixelReader, Window


class WavyReader(PixelReader):
    """A slide of smooth waves, computed where it is read, so that it can be of any size and any level is exact."""

    def __init__(self, width: int, height: int, downsamples: tuple[int, ...] = (1,)) -> None:
        self.path = Path("wavy.tif")
        self.format = "wavy"
        self.level_sizes = tuple((width // down, height // down) for down in downsamples)
        self.downsamples = downsamples
        self.mpp_claim = None
        self.objective_power = None
        self.read_px = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        self.read_px += width * height
        down = self.downsamples[level]
        return Window(waves((np.arange(x, x + width) + 0.5) * down, (np.arange(y, y + height) + 0.5) * down))

    def close(self) -> None:
        """Nothing is open."""


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey levels 40 to 210 at level-0 positions; periods of 400 px and more, so that averaging changes little."""
    horizontal = np.sin(x / 70.0)[None, :, None] * np.array([60, 40, 10])
    vertical = np.sin(y / 90.0)[:, None, None] * np.array([20, 40, 70])
    return np.rint(125 + horizontal + vertical).astype(np.uint8)


def wavy(width: int, height: int, mpp: float, downsamples: tuple[int, ...] = (1,)) -> Slide:
    reader = WavyReader(width, height, downsamples)
    return Slide(reader, lambda: reader, Calibration(mpp, "test"), "wavy.tif")


def plan_all(slide: Slide, grid: GridConfig) -> RegionPlan:
    mask = TissueMask(np.ones((3, 5), bool), slide.width_px * slide.mpp / 5, slide.height_px * slide.mpp / 3)
    return plan_regions(slide, grid, tissue=mask)


def small_grid(min_tissue: float = 0.0) -> GridConfig:
    return GridConfig(region_um=64.0, mpps=(2.0, 1.0, 0.5), tile_px=32, min_tissue=min_tissue, min_inside=0.0)


@settings(max_examples=40)
@given(slide_mpp=st.floats(0.2, 0.5), column=st.integers(0, 1500), row=st.integers(0, 1500))
def test_tiles_show_what_lies_at_their_place_however_far_out(slide_mpp: float, column: int, row: int) -> None:
    """Against the waves at the tile's own micrometres, up to 480,000 px from the origin."""
    slide = wavy(500_000, 490_000, slide_mpp)
    grid = small_grid()
    kept = {mpp: np.ones((1, side, side), bool) for mpp in grid.mpps for side in [grid.tiles_per_side(mpp)]}
    plan = RegionPlan(
        grid, slide_mpp, np.array([[column, row]], float), kept, np.ones(1), TissueMask(np.ones((3, 5), bool), 8.0, 8.0)
    )

    (region,) = iter_tiles(slide, plan)

    for mpp, tiles in region.tiles.items():
        for tile, (x_um, y_um) in zip(tiles, plan.tiles(mpp).xy_um, strict=True):
            at = (np.arange(32) + 0.5) * mpp
            expected = waves((x_um + at) / slide_mpp, (y_um + at) / slide_mpp).astype(float)
            # Half a pixel of place is worth 70 / 90 * .5 = .4 to .5 grey levels; rounding twice adds 1, averaging 1.
            assert np.abs(tile - expected).max() <= 2.5


def test_derived_tiles_are_area_averages_of_the_finest_pixels() -> None:
    slide = wavy(700, 500, 0.5)
    plan = plan_all(slide, small_grid())

    for region in iter_tiles(slide, plan):
        left, top, right, bottom = plan.window_l0px(region.region)
        window = slide.read_level(0, left, top, right - left, bottom - top).astype(float)
        for mpp, factor in ((2.0, 4), (1.0, 2), (0.5, 1)):
            side = 128 // factor
            expected = window.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
            n = side // 32
            slots = expected.reshape(n, 32, n, 32, 3).swapaxes(1, 2)[plan.kept[mpp][region.region]]
            # Rounded once per halving: half a grey level each.
            assert np.abs(region.tiles[mpp] - slots).max() <= 1.0


def test_each_region_is_read_once() -> None:
    slide = wavy(1024, 768, 0.5)
    plan = plan_all(slide, small_grid())

    count = sum(1 for _ in iter_tiles(slide, plan))

    reader = slide._reader
    assert isinstance(reader, WavyReader)
    assert count == 8 * 6
    assert reader.read_px == 1024 * 768


def test_a_region_over_the_edge_is_white_outside() -> None:
    slide = wavy(700, 500, 0.5)  # regions of 128 px: the last column has 60 px, the last row 116
    plan = plan_all(slide, small_grid())
    corner = plan.n_regions - 1
    assert plan.lattice[corner].tolist() == [5, 3]

    for coarse in ("derived", "native"):
        for mpp, raster in read_region(slide, plan, corner, coarse=coarse).items():
            inside_x, inside_y = round(30.0 / mpp), round(58.0 / mpp)
            assert (raster[inside_y:] == 255).all()
            assert (raster[:, inside_x:] == 255).all()
            assert raster[:inside_y, :inside_x].max() < 230
    *_, last = iter_tiles(slide, plan)
    assert len(last.tiles[0.5]) == plan.kept[0.5][corner].sum() == 2 * 4


def test_only_kept_tiles_come_in_slot_order() -> None:
    slide = wavy(700, 500, 0.5)
    plan = plan_all(slide, small_grid())
    random = np.random.default_rng(1)
    some = {mpp: mask & (random.random(mask.shape) < 0.5) for mpp, mask in plan.kept.items()}

    whole = list(iter_tiles(slide, plan))
    for region, part in enumerate(iter_tiles(slide, replace(plan, kept=some))):
        for mpp in plan.grid.mpps:
            chosen = some[mpp][region][plan.kept[mpp][region]]
            np.testing.assert_array_equal(part.tiles[mpp], whole[region].tiles[mpp][chosen])


def test_starting_later_gives_the_same_tiles() -> None:
    slide = wavy(700, 500, 0.5)
    plan = plan_all(slide, small_grid())
    whole = list(iter_tiles(slide, plan))

    later = list(iter_tiles(slide, plan, start=5))

    assert [region.region for region in later] == list(range(5, plan.n_regions))
    for one, other in zip(whole[5:], later, strict=True):
        assert all(np.array_equal(one.tiles[mpp], other.tiles[mpp]) for mpp in plan.grid.mpps)


def test_native_tiles_come_from_the_slides_own_levels() -> None:
    slide = wavy(1400, 1100, 0.5, downsamples=(1, 4))
    plan = plan_all(slide, small_grid())

    native = read_region(slide, plan, 7, coarse="native")
    x_um, y_um = plan.region_xy_um()[7].tolist()

    np.testing.assert_array_equal(native[2.0], read_tile(slide, Box(x_um, y_um, 64.0, 64.0), mpp=2.0))
    np.testing.assert_array_equal(native[2.0], slide.read_level(1, round(x_um / 2), round(y_um / 2), 32, 32))
    derived = read_region(slide, plan, 7)
    assert np.abs(native[2.0].astype(int) - derived[2.0]).max() <= 2


@pytest.mark.parametrize("shift", [0, 3, 60])
def test_a_level_of_its_own_that_shows_something_else_is_refused(shift: int) -> None:
    slide = wavy(1400, 1100, 0.5, downsamples=(1, 4))
    reader = slide._reader
    assert isinstance(reader, WavyReader)
    honest = reader.read
    reader.read = lambda level, x, *rest: honest(level, x + shift * (level > 0), *rest)  # type: ignore[method-assign]
    plan = plan_all(slide, small_grid())

    if shift < 60:  # some scanners' levels lie a pixel or two beside each other
        assert sum(1 for _ in iter_tiles(slide, plan, coarse="native")) == plan.n_regions
        return
    with pytest.raises(UnreadableSlideError, match=r"level 1 of wavy\.tif: it shows something else.*--coarse derived"):
        list(iter_tiles(slide, plan, coarse="native"))
    assert sum(1 for _ in iter_tiles(slide, plan)) == plan.n_regions


@pytest.mark.parametrize("mpps", [(1.5, 0.75, 0.5), (2.0, 0.8)])
def test_magnifications_need_no_common_factor(mpps: tuple[float, ...]) -> None:
    grid = GridConfig(region_um=96.0 if 1.5 in mpps else 128.0, mpps=mpps, tile_px=32)
    slide = wavy(3000, 2600, 0.25)
    plan = plan_all(slide, grid)
    (x_um, y_um) = plan.region_xy_um()[4]

    for mpp, raster in read_region(slide, plan, 4).items():
        at = (np.arange(raster.shape[0]) + 0.5) * mpp
        expected = waves((x_um + at) / 0.25, (y_um + at) / 0.25).astype(float)
        assert np.abs(raster - expected).max() <= 2.5


def test_a_slightly_coarser_slide_still_gives_whole_tiles() -> None:
    slide = wavy(1400, 1100, 0.5015)
    with pytest.warns(ParfocalWarning, match="enlarged"):
        plan = plan_all(slide, small_grid())

    region = next(iter_tiles(slide, plan, start=8))

    assert [tiles.shape[1:] for tiles in region.tiles.values()] == [(32, 32, 3)] * 3
    x_um, y_um = plan.region_xy_um()[8]
    at = np.arange(32) * 2.0 + 1.0
    expected = waves((x_um + at) / 0.5015, (y_um + at) / 0.5015)
    assert np.abs(region.tiles[2.0][0].astype(int) - expected).max() <= 3


def test_the_plan_of_another_resolution_is_refused() -> None:
    plan = plan_all(wavy(700, 500, 0.5), small_grid())

    with pytest.raises(ValueError, match=r"made for 0\.5 mpp.*plan it again"):
        next(iter_tiles(wavy(700, 500, 0.25), plan))


def test_broken_data_say_in_which_region(real_data: Path) -> None:
    with open_slide(real_data / "odd-slides" / "unreadable.svs", slide_mpp=0.499) as slide:
        plan = plan_all(slide, small_grid())
        with pytest.raises(UnreadableSlideError, match=r"region 0 \(column 0, row 0\) of unreadable\.svs"):
            read_region(slide, plan, 0)
        regions = list(iter_tiles(slide, plan))

    # Not one of its tiles can be decoded.
    assert {len(tiles) for region in regions for tiles in region.tiles.values()} == {0}
    assert sum(len(absent) for region in regions for absent in region.absent.values()) == sum(
        plan.n_tiles(mpp) for mpp in plan.grid.mpps
    )


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised correlation of brightness. Colour is left out: JPEG keeps it at half the resolution on each level."""
    return float(np.corrcoef(one.mean(axis=-1).ravel(), other.mean(axis=-1).ravel())[0, 1])


def averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in pixels.shape[:2])
    return pixels.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


def test_tiles_of_a_real_region_join_to_its_coarse_tile(colon: Path) -> None:
    """4 x 4 tiles at 0.5, averaged and joined, against the slide's own level at 2.0."""
    joined, own = [], []
    with open_slide(colon) as slide:
        plan = plan_regions(slide, GridConfig())
        full = np.flatnonzero((plan.tissue_share > 0.9) & plan.kept[0.5].all(axis=(1, 2)))
        for region in full[:: max(len(full) // 12, 1)].tolist():
            tiles = next(iter_tiles(slide, plan, start=region)).tiles
            rows = tiles[0.5].reshape(4, 4, 224, 224, 3).swapaxes(1, 2).reshape(896, 896, 3)
            joined.append(averaged(rows, 4))
            left, top, _, _ = plan.window_l0px(region)
            own.append(slide.read_level(2, left // 4, top // 4, 224, 224))
            assert np.abs(joined[-1] - tiles[2.0][0]).max() <= 1.0

    assert len(own) >= 10
    assert correlation(np.stack(joined), np.stack(own)) > 0.99


@pytest.mark.parametrize(("name", "level"), [("colon-he-section.tif", 2), ("tcga-cr-7395-01a-01-ts1.svs", 1)])
def test_no_other_place_fits_the_slides_own_level_better(real_data: Path, name: str, level: int) -> None:
    """A shift by one level-0 pixel, a quarter or a half of the coarse one, is already seen."""
    with open_slide(real_data / "slides" / name, slide_mpp=0.5) as slide:
        plan = plan_regions(slide, GridConfig())
        factor = int(slide.levels[level].downsample)
        left, top, right, bottom = plan.window_l0px(int(plan.tissue_share.argmax()))
        own = slide.read_level(level, left // factor, top // factor, 896 // factor, 896 // factor)
        width, height = right - left, bottom - top
        around = slide.read_level(0, left - 1, top - 1, width + 2, height + 2)
        fits = {
            (dx, dy): correlation(averaged(around[1 + dy :, 1 + dx :][:height, :width], factor), own)
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        }

    assert max(fits, key=lambda shift: fits[shift]) == (0, 0)
    assert fits[0, 0] > 0.97
