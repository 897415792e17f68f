"""Heatmaps lie over the slide: every pixel of a region carries its value, in both readers, at every level."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.explain import RegionParts, SlideExplanation, SlideParts
from parfocal.explain.files import write_slide
from parfocal.explain.heatmaps import part_maps, pictures, write_heatmaps
from parfocal.store import EmbeddingSet, open_set, write_tokens
from parfocal.version import __version__

MPPS = (8.0, 4.0)
KEYS = ("contribution", "shapley_8", "shapley_4", "interaction_8_4")
ENCODER = "def quick(tiles):\n    return tiles.mean((1, 2)).astype('float32') / 255\n"


def explained(tiles: EmbeddingSet, columns: int = 1) -> SlideExplanation:
    """The regions of the set's slide with values of chance."""
    tokens, rng = tiles.read(tiles.slides[0]), np.random.default_rng(0)
    shapley = rng.normal(size=(2, tokens.n_regions, columns))
    of = RegionParts(shapley.sum(axis=0), shapley, rng.normal(size=(1, tokens.n_regions, columns)))
    none = np.zeros((2, columns))
    parts = SlideParts(tokens.slide, none[0], none[0], none, none, none[:1], {})
    return SlideExplanation(parts, tokens.region_xy_um, tokens.region_um, tokens.slide_mpp, of, {})


@pytest.fixture(scope="module")
def section(colon: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    """The colon section in regions of 448 um, whose places the lattice chose."""
    folder = tmp_path_factory.mktemp("section")
    (folder / "quick.py").write_text(ENCODER)
    encoder = f"python:{folder / 'quick.py'}:quick,tile_px=56"
    grid = GridConfig(region_um=448.0, mpps=MPPS, tile_px=56)
    settings = EmbedSettings(encoder=encoder, grid=grid, dtype="float32", coarse="native")
    return open_set(embed_slides([colon], folder / "store", settings).set_path)


@pytest.fixture(scope="module")
def written(section: EmbeddingSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideExplanation, Path]:
    folder, one = tmp_path_factory.mktemp("heatmaps"), explained(section)
    # Off the raster, so that the edges of regions fall inside pixels.
    one = replace(one, xy_um=one.xy_um + np.array([101.3, 57.9]))
    maps = part_maps(one, ["1"], MPPS)
    write_heatmaps(one, maps, pictures(one, maps, section), section, folder)
    return one, folder


def test_without_a_resolution_the_map_is_the_same_in_micrometres(section: EmbeddingSet, tmp_path: Path) -> None:
    """As of a slide that was indexed from files in micrometres, which say nothing of its pixels."""
    store = tmp_path / section.name
    store.mkdir()
    shutil.copy(section.path / "settings.json", store)
    write_tokens(store, replace(section.read(section.slides[0]), slide_mpp=float("nan")))
    unknown = open_set(store)
    one = explained(unknown)
    maps = part_maps(one, ["1"], MPPS)

    write_heatmaps(one, maps, pictures(one, maps, unknown), unknown, tmp_path / "maps")
    write_slide(one, ["1"], MPPS, tmp_path / "tables")

    with tifffile.TiffFile(tmp_path / "maps" / "values.ome.tif") as file:
        values, pixel_um = file.asarray()[0], 448.0 / 16
    x, y = (one.xy_um[7] / pixel_um + 8).astype(int)
    assert one.regions is not None
    assert values[y, x] == np.float32(one.regions.contribution[7, 0])
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"regions"}  # QuPath counts in pixels


def colour_of(value: float, scale: float) -> np.ndarray:
    """Light grey at 0 to full orange or blue at the scale, in a straight line."""
    full = np.array([225, 95, 10] if value > 0 else [20, 90, 200])
    return np.rint(235 + (full - 235) * min(abs(value) / scale, 1)).astype(int)


def middles(one: SlideExplanation, mpp: float) -> list[tuple[int, int]]:
    """The pixel that the middle of each region lies in."""
    return [(int(x), int(y)) for x, y in ((one.xy_um + one.side_um / 2) / mpp).tolist()]


def test_values_are_those_of_the_region_at_every_level(written: tuple[SlideExplanation, Path]) -> None:
    one, folder = written
    assert one.regions is not None
    expected = np.concatenate([one.regions.contribution[None], one.regions.shapley, one.regions.interaction])[..., 0]

    with tifffile.TiffFile(folder / "values.ome.tif") as file:
        (series,) = file.series
        levels = [level.asarray() for level in series.levels]
        names = [channel.split('Name="')[1].split('"')[0] for channel in str(file.ome_metadata).split("<Channel ")[1:]]

    assert tuple(names) == KEYS
    assert len(levels) == 3
    for number, level in enumerate(levels):
        assert level.shape == (4, *(side >> number for side in levels[0].shape[1:]))
        for region, (x, y) in enumerate(middles(one, 28 * 2**number)):
            assert np.array_equal(level[:, y, x], expected[:, region].astype(np.float32))
    # What lies beyond the slide's edge is cut off; else every region has its 16 x 16 pixels, and no pixel is doubled.
    inside = np.minimum(one.xy_um + one.side_um, [15360 * 0.5, 30976 * 0.5]) - one.xy_um
    area = np.count_nonzero(np.isfinite(levels[0][0])) * 28.0**2
    assert area == pytest.approx(inside.prod(axis=1).sum(), rel=0.01)


def test_colours_are_those_of_the_value_at_every_level_in_openslide(written: tuple[SlideExplanation, Path]) -> None:
    one, folder = written
    assert one.regions is not None
    maps = {each.key: each for each in part_maps(one, ["1"], MPPS)}
    assert len({each.scale for each in maps.values()}) == 1  # so that they can be compared

    for key in KEYS:
        values, scale = maps[key].values, maps[key].scale
        with openslide.OpenSlide(folder / f"{key}.ome.tif") as slide:
            assert slide.level_count == 3
            assert slide.level_downsamples == (1.0, 2.0, 4.0)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(28)
            sizes = slide.level_dimensions
            for level, size in enumerate(sizes):
                seen = np.asarray(slide.read_region((0, 0), level, size))[..., :3].astype(int)
                for value, (x, y) in zip(values.tolist(), middles(one, 28 * 2**level), strict=True):
                    assert np.abs(seen[y, x] - colour_of(value, scale)).max() <= 1
        with tifffile.TiffFile(folder / f"{key}.ome.tif") as file:
            assert [level.shape[1::-1] for level in file.series[0].levels] == list(sizes)
            assert np.array_equal(file.series[0].levels[2].asarray(), seen)
            assert 'PhysicalSizeX="28.0" PhysicalSizeXUnit="\u00b5m"' in str(file.ome_metadata)
            assert file.pages.first.software == f"parfocal {__version__}"
            assert all(
                page.is_tiled and page.compression == 8 for page in (level.keyframe for level in file.series[0].levels)
            )


def test_regions_lie_where_they_do_on_the_slide_to_less_than_a_pixel(written: tuple[SlideExplanation, Path]) -> None:
    one, folder = written
    assert one.regions is not None
    with tifffile.TiffFile(folder / "values.ome.tif") as file:
        levels = [level.asarray()[0] for level in file.series[0].levels]
    for number, level in enumerate(levels):
        mpp = 28 * 2**number
        end_um = np.array(level.shape[::-1]) * mpp  # up to a region beyond the slide
        assert (end_um - [15360 * 0.5, 30976 * 0.5] >= 0).all()
        assert (end_um - [15360 * 0.5, 30976 * 0.5] < 448).all()
        for (x_um, y_um), value in zip(one.xy_um.tolist(), one.regions.contribution[:, 0].tolist(), strict=True):
            rows, columns = np.nonzero(level == np.float32(value))
            assert abs(columns.min() - x_um / mpp) < 1
            assert abs(rows.min() - y_um / mpp) < 1
            assert abs(columns.max() + 1 - min(x_um + 448, end_um[0]) / mpp) < 1
            assert abs(rows.max() + 1 - min(y_um + 448, end_um[1]) / mpp) < 1


def test_pictures_have_the_slide_below_a_scale_bar_and_a_colour_bar(
    written: tuple[SlideExplanation, Path], section: EmbeddingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = written
    maps = part_maps(one, ["1"], MPPS)[:1]
    over = np.asarray(Image.open(folder / "contribution.png")).astype(int)
    monkeypatch.setattr("parfocal.explain.heatmaps.find_thumbnail", lambda *_, **__: None)
    gone = np.asarray(Image.open(io.BytesIO(pictures(one, maps, section)[0]))).astype(int)

    for picture in (over, gone):
        height, width = picture.shape[:2]
        strip = picture[height - 46 :]
        assert (np.abs(strip - [20, 90, 200]).sum(axis=2) < 90).any()  # blue, white and orange of the colour bar
        assert (np.abs(strip - [225, 95, 10]).sum(axis=2) < 90).any()
        dark = (strip < 60).all(axis=2)
        bars = [row for row in dark[:, : width // 2 - 4] if row.sum() > 20]
        longest = max(int(row.sum()) for row in bars)
        mpp = 15360 * 0.5 / width
        assert longest * mpp == pytest.approx(2000, abs=2 * mpp)  # 2 mm is the largest round length up to 35 %
    assert over.shape[0] - 80 == pytest.approx(over.shape[1] * 30976 / 15360, abs=2)
    colours = [len(np.unique(picture[34:-46].reshape(-1, 3), axis=0)) for picture in (over, gone)]
    assert colours[0] > 10 * colours[1]  # tissue shows through
    assert (gone[34:84] == 255).all()  # no region lies so high
    region = int(np.argmax(one.regions.contribution[:, 0]))  # type: ignore[union-attr]
    x, y = ((one.xy_um[region] + one.side_um / 2) / (15360 * 0.5 / gone.shape[1])).astype(int)
    assert np.abs(gone[34 + y, x] - np.rint(255 + 0.85 * (np.array([225, 95, 10]) - 255))).max() <= 1


def test_regions_of_one_place_have_their_mean_and_several_scores_are_told_apart(section: EmbeddingSet) -> None:
    one = explained(section, columns=2)

    maps = part_maps(one, ["a", "b"], MPPS)

    assert [each.key for each in maps] == [f"score_{column}_{key}" for column in (1, 2) for key in KEYS]
    assert maps[0].label == "What each region adds to a"
    assert maps[5].label == "Shapley value of 8 mpp to b"
    assert part_maps(replace(one, regions=None), ["a", "b"], MPPS) == []
