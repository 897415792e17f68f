"""Tissue as a lab has outlined it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parfocal.config import GridConfig
from parfocal.errors import ConfigError, ParfocalWarning, SlideError
from parfocal.regions import find_tissue, plan_regions
from parfocal.slides import Calibration, Slide
from parfocal.slides.reader import PixelReader, Window

WIDTH, HEIGHT = 3100, 2300
POLYGON = [[400, 300], [1200, 300], [1200, 1900], [400, 1900], [400, 300]]
HOLE = [[600, 500], [1000, 500], [1000, 900], [600, 900], [600, 500]]


class PlainReader(PixelReader):
    """A slide of one colour."""

    def __init__(self, colour: tuple[int, int, int]) -> None:
        self.path = Path("plain.tif")
        self.format = "plain"
        self.level_sizes = ((WIDTH, HEIGHT), (WIDTH // 4, HEIGHT // 4))
        self.mpp_claim = None
        self.objective_power = None
        self.colour = colour

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        return Window(np.full((height, width, 3), self.colour, np.uint8))

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def slide() -> Slide:
    return plain()


def plain(colour: tuple[int, int, int] = (243, 243, 243)) -> Slide:
    reader = PlainReader(colour)
    return Slide(reader, lambda: reader, Calibration(0.5, "test"), "plain.tif")


def written(folder: Path, content: Any, name: str = "plain.geojson") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@settings(max_examples=20)
@given(
    mask_width=st.integers(90, 1000),
    box=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.floats(0.5, 0.95), st.floats(0.5, 0.95)),
    mode=st.sampled_from(["1", "L", "RGB", "P", "RGBA", "I;16"]),
)
def test_a_mask_picture_of_any_size_and_kind_is_laid_over_the_slide(
    tmp_path_factory: pytest.TempPathFactory, mask_width: int, box: tuple[float, float, float, float], mode: str
) -> None:
    size = mask_width, round(mask_width * HEIGHT / WIDTH)
    left, top, right, bottom = (round(part * size[n % 2]) for n, part in enumerate(box))
    marked = np.zeros(size[::-1], np.uint8)
    marked[top:bottom, left:right] = 1
    picture = (
        Image.fromarray(marked.astype(np.uint16)) if mode == "I;16" else Image.fromarray(marked * 255).convert(mode)
    )
    path = tmp_path_factory.mktemp("mask") / "m.png"
    picture.save(path)

    mask = find_tissue(plain(), str(path))

    assert mask.tissue_share == pytest.approx(marked.mean())
    x_um, y_um = WIDTH * 0.5 / size[0], HEIGHT * 0.5 / size[1]
    edges = np.array([[left * x_um, top * y_um, right * x_um, bottom * y_um]])
    assert mask.shares(edges)[0] == pytest.approx(1)
    assert mask.mask_file is not None
    assert mask.mask_file.startswith("m.png ")


def test_transparent_is_not_tissue(tmp_path: Path, slide: Slide) -> None:
    pixels = np.full((230, 310, 4), 255, np.uint8)
    pixels[:, 100:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "m.png")

    assert find_tissue(slide, str(tmp_path / "m.png")).tissue_share == pytest.approx(100 / 310)


@settings(max_examples=30)
@given(
    colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=5, unique=True),
    transparent=st.integers(0, 5),
)
def test_a_palette_is_read_where_its_numbers_and_colours_agree_and_refused_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, colours: list[tuple[int, int, int]], transparent: int
) -> None:
    numbers = (np.arange(23 * 31).reshape(23, 31) // 80 % len(colours)).astype(np.uint8)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([value for colour in colours for value in colour])
    path = tmp_path_factory.mktemp("mask") / "m.png"
    picture.save(path, **({"transparency": transparent} if transparent < len(colours) else {}))
    shown = numbers != transparent
    by_number, by_colour = (numbers > 0) & shown, np.array([any(one) for one in colours])[numbers] & shown

    if (by_number != by_colour).any():
        with pytest.raises(SlideError, match="its palette has another colour than black for 0"):
            find_tissue(plain(), str(path))
    else:
        assert find_tissue(plain(), str(path)).tissue_share == pytest.approx(by_number.mean())


def test_a_picture_that_is_no_png_is_told_that_masks_are(tmp_path: Path, slide: Slide) -> None:
    Image.new("L", (310, 230), 255).save(tmp_path / "m.jpg")

    with pytest.raises(SlideError, match=r"m\.jpg for plain\.tif: it is no text.* has to be a PNG"):
        find_tissue(slide, str(tmp_path / "m.jpg"))


GEOMETRY = {"type": "Polygon", "coordinates": [POLYGON, HOLE]}
FEATURE = {"type": "Feature", "geometry": GEOMETRY, "properties": {"objectType": "annotation"}}
AREA = (800 * 1600 - 400 * 400) / (WIDTH * HEIGHT)


@pytest.mark.parametrize(
    "content",
    [
        GEOMETRY,
        FEATURE,
        [FEATURE],
        {"type": "FeatureCollection", "features": [FEATURE]},
        {"type": "MultiPolygon", "coordinates": [[POLYGON, HOLE]]},
        {"type": "GeometryCollection", "geometries": [GEOMETRY, {"type": "Point", "coordinates": [5, 5]}]},
    ],
)
def test_polygons_with_holes_in_level_0_pixels_are_tissue(tmp_path: Path, slide: Slide, content: Any) -> None:
    mask = find_tissue(slide, written(tmp_path, content))

    # An outline of 6,400 px is drawn on raster pixels of 16 px.
    assert mask.tissue_share == pytest.approx(AREA, abs=6400 * 16 / (WIDTH * HEIGHT))
    edges = np.array([[310.0, 260, 490, 440], [215, 165, 285, 240], [700, 200, 1500, 1100]])
    assert mask.shares(edges).round(2).tolist() == [0, 1, 0]


def classified(geometry: dict[str, Any], classification: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": classification}}


@pytest.mark.parametrize(
    "classification", [{"name": "Ignore*"}, {"names": ["Ignore*"]}, {"name": "Tumor: Ignore*"}, "Ignore*"]
)
def test_what_qupath_calls_ignored_is_cut_out_and_counted(tmp_path: Path, slide: Slide, classification: Any) -> None:
    ignored = classified({"type": "Polygon", "coordinates": [HOLE]}, classification)
    tumour = classified({"type": "Polygon", "coordinates": [POLYGON]}, {"name": "Tumor"})
    for features in ([ignored, tumour], [tumour, ignored]):
        path = written(tmp_path, {"type": "FeatureCollection", "features": features})
        with pytest.warns(ParfocalWarning, match=r"1 of 2 polygons of plain\.geojson are of the class Ignore\*"):
            mask = find_tissue(slide, path)
        assert mask.tissue_share == pytest.approx(AREA, abs=6400 * 16 / (WIDTH * HEIGHT))
    with pytest.warns(ParfocalWarning, match="1 of 1 polygons"):
        assert find_tissue(slide, written(tmp_path, ignored)).tissue_share == 0


def test_no_feature_is_no_tissue(tmp_path: Path, slide: Slide) -> None:
    path = written(tmp_path, {"type": "FeatureCollection", "features": []})

    assert find_tissue(slide, path).tissue_share == 0


def far(factor: float) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[[x * factor, y * factor] for x, y in POLYGON]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no GeoJSON"),
        ("[1, 2]", "no GeoJSON"),
        ({"a": 1}, "no GeoJSON"),
        ({"type": "Point", "coordinates": [1, 2]}, "no polygon"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}, "fewer than three points"),
        ({"type": "Polygon", "coordinates": [[[1, "a"], [3, 4], [5, 6]]]}, "no pairs of numbers"),
        ({"type": "Polygon", "coordinates": None}, "no pairs of numbers"),
        ({"type": "MultiPolygon", "coordinates": 3}, "no coordinates"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, NaN], [5, 6]]]}', "not finite"),
        (far(4.0), "is it another slide's"),
        ("[" * 100_000, "no GeoJSON"),
    ],
)
def test_geojson_that_cannot_be_this_slides_is_one_line(
    tmp_path: Path, slide: Slide, content: Any, message: str
) -> None:
    path = written(tmp_path, content)

    with pytest.raises(SlideError, match=message) as caught:
        find_tissue(slide, path)
    assert "plain.geojson for plain.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def bad_shape(path: Path) -> None:
    Image.new("L", (230, 310)).save(path)


def cut_off(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (230, 310), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def text(path: Path) -> None:
    path.write_text("mask")


@pytest.mark.parametrize(
    ("make", "message"), [(bad_shape, "another shape"), (cut_off, "cannot be read"), (text, "cannot be read")]
)
def test_a_picture_that_cannot_be_this_slides_is_one_line(
    tmp_path: Path, slide: Slide, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "m.png")

    with pytest.raises(SlideError, match=message):
        find_tissue(slide, str(tmp_path / "m.png"))


def test_a_folder_holds_a_mask_for_each_slide_by_its_id(tmp_path: Path, slide: Slide) -> None:
    (tmp_path / "batch").mkdir()
    written(tmp_path / "batch", GEOMETRY, "a.1.geojson")
    Image.new("L", (310, 230), 255).save(tmp_path / "plain.png")

    assert find_tissue(slide, str(tmp_path), slide_id="batch/a.1").tissue_share == pytest.approx(AREA, abs=0.02)
    assert find_tissue(slide, str(tmp_path)).tissue_share == 1
    assert find_tissue(slide, str(tmp_path), slide_id="elsewhere/plain").tissue_share == 1
    with pytest.raises(SlideError, match=r"neither b\.png nor b\.geojson"):
        find_tissue(slide, str(tmp_path), slide_id="b")
    written(tmp_path, GEOMETRY)
    with pytest.raises(SlideError, match="cannot tell which"):
        find_tissue(slide, str(tmp_path))


def test_a_mask_that_is_absent_is_told_by_the_settings_and_by_the_slide(slide: Slide) -> None:
    with pytest.raises(SlideError, match=r"there is no mask elsewhere\.png"):
        find_tissue(slide, "elsewhere.png")
    with pytest.raises(ConfigError, match=r"there is no mask elsewhere\.png"):
        GridConfig(tissue="elsewhere.png").describe()


def test_only_what_changes_rows_is_in_the_description(tmp_path: Path) -> None:
    plain_grid = GridConfig().describe()
    first = GridConfig(tissue=written(tmp_path, GEOMETRY, "one.geojson")).describe()
    moved = GridConfig(tissue=written(tmp_path, GEOMETRY, "two.geojson")).describe()
    other = GridConfig(tissue=written(tmp_path, far(0.5), "three.geojson")).describe()

    assert "tissue" not in plain_grid
    assert GridConfig.model_validate(plain_grid) == GridConfig()
    assert first == moved
    assert len({first["tissue"], other["tissue"], GridConfig(tissue="otsu").describe()["tissue"]}) == 3
    assert GridConfig(tissue=str(tmp_path)).describe()["tissue"] == "masks"


def test_none_keeps_every_region_and_takes_a_dark_slide() -> None:
    grid = GridConfig(tissue="none")
    glass, dark = plan_regions(plain(), grid), plan_regions(plain((9, 9, 40)), grid)

    assert glass.n_regions == dark.n_regions == 4 * 3
    assert glass.n_tiles(0.5) == dark.n_tiles(0.5) == 14 * 10
    assert plan_regions(plain(), GridConfig()).n_regions == 0
    with pytest.raises(SlideError, match="fluorescence"):
        plan_regions(plain((9, 9, 40)), GridConfig())


def test_otsu_splits_the_saturation() -> None:
    class Halves(PlainReader):
        def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
            window = super().read(level, x, y, width, height).pixels
            window[:, max(1000 // 4**level - x, 0) :] = (240, 225, 236)
            return Window(window)

    reader = Halves((243, 243, 243))
    found = find_tissue(Slide(reader, lambda: reader, Calibration(0.5, "test"), "halves.tif"), "otsu")

    assert found.tissue_share == pytest.approx(2100 / WIDTH, abs=0.02)
