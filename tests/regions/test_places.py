"""Places inside slides: how they are read, and the regions that are laid on them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parfocal.config import GridConfig
from parfocal.errors import CalibrationError, ConfigError, SlideError
from parfocal.regions import RegionPlan, TissueMask, plan_places, read_places
from parfocal.regions.places import places_digest
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import Slide, open_slide

GRID = GridConfig(region_um=128.0, tile_px=64, tissue="none")


def table(tmp_path: Path, text: str, name: str = "spots.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_table_has_places_in_micrometres_or_in_pixels(tmp_path: Path) -> None:
    um = read_places(table(tmp_path, "slide,x_um,y_um,gene,kind\na,10,20.5,3,tumour\nb,1,2,,stroma\n"), ["gene"])
    px = read_places(table(tmp_path, "slide;x_px;y_px\na;20;41\n", "px.csv"))

    assert um.slide == ("a", "b")
    assert um.names == ("gene", "kind")
    assert um.targets["gene"].tolist() == ["3", ""]
    assert set(um.targets) == {"gene"}
    np.testing.assert_array_equal(um.on_slide("a", 0.25), [[10, 20.5]])
    np.testing.assert_array_equal(px.on_slide("a", 0.5), [[10, 20.5]])
    assert read_places(um.path, None).targets.keys() == {"gene", "kind"}
    # A slide that was indexed from micrometres alone has no known pixel.
    np.testing.assert_array_equal(um.on_slide("a", np.nan), [[10, 20.5]])
    with pytest.raises(CalibrationError, match=r"px\.csv has its places in pixels, .* not known, .* \(x_um, y_um\)"):
        px.on_slide("a", np.nan)


def test_places_are_found_under_the_id_or_the_name_and_each_once(tmp_path: Path) -> None:
    places = read_places(table(tmp_path, "slide,x_um,y_um\na,5,1\na,3,1\na,5.001,1\nb,0,0\n"))

    np.testing.assert_allclose(places.on_slide("folder/a", 1.0), [[3, 1], [5, 1]], atol=0.01)
    assert places_digest(places.on_slide("a", 1.0)) == places_digest(places.on_slide("a", 1.0)[::-1])
    with pytest.raises(SlideError, match="no place on the slide c"):
        places.on_slide("c", 1.0)


def test_places_that_two_slides_would_share_are_refused(tmp_path: Path) -> None:
    bare = read_places(table(tmp_path, "slide,x_um,y_um\na,5,1\nc,3,1\n"))
    whole = read_places(table(tmp_path, "slide,x_um,y_um\nx/a,5,1\na,3,1\n", "whole.csv"))

    bare.check_names(["x/a", "b", "c"])
    whole.check_names(["x/a", "y/a"])
    assert whole.of("x/a").tolist() == [0]
    assert whole.of("y/a").tolist() == [1]
    with pytest.raises(ConfigError, match="places of a, and both x/a and y/a are called so"):
        bare.check_names(["x/a", "y/a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide,x_um,y_px\na,1,2\n", "x_um and y_um"),
        ("slide,x_um,y_um,x_px,y_px\na,1,2,3,4\n", "one of the two"),
        ("slide,x_um,y_um\na,1,two\n", "line 2 is no number"),
        ("slide,x_um,y_um\n,1,2\n", "names no slide in line 2"),
        ("slide,x_um,y_um\na,1,inf\n", "not finite"),
        ("name,x_um,y_um\na,1,2\n", "no column 'slide'"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_places(table(tmp_path, text))


def test_a_target_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no target 'ERBB2'; it has gene"):
        read_places(table(tmp_path, "slide,x_um,y_um,gene\na,1,2,3\n"), ["ERBB2"])


def test_targets_that_a_file_may_lack_are_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, "slide,x_um,y_um,gene,grade\na,1,2,3,4\n")
    places = read_places(path, ["ERBB2", "grade"], may_lack=True)
    assert list(places.targets) == ["grade"]
    assert places.names == ("gene", "grade")


def test_anndata_gives_genes_and_columns_by_slide(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    counts = np.array([[0.0, 2.0], [1.0, 0.0], [5.0, 4.0]])
    data = anndata.AnnData(sparse.csr_matrix(counts))
    data.obs_names, data.var_names = ["p", "q", "r"], ["GENE1", "GENE2"]
    data.obs["library_id"], data.obs["region"] = ["s1", "s1", "s2"], ["in", "out", "in"]
    data.obsm["spatial"] = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    path = tmp_path / "spots.h5ad"
    data.write_h5ad(path)

    places = read_places(path, ["GENE2", "region"])

    assert places.slide == ("s1", "s1", "s2")
    assert places.unit == "px"
    assert places.names == ("GENE1", "GENE2", "region")
    np.testing.assert_array_equal(places.targets["GENE2"], [2, 0, 4])
    assert places.targets["region"].tolist() == ["in", "out", "in"]
    np.testing.assert_array_equal(places.on_slide("s2", 0.5), [[25, 30]])


def test_geojson_areas_are_places_with_a_class(tmp_path: Path) -> None:
    # An L of three unit squares; by hand its middle is (5/6, 5/6).
    corner = [[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 0]]
    square = [[10, 10], [12, 10], [12, 12], [10, 12], [10, 10]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corner]},
         "properties": {"classification": {"name": "Tumor"}}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[square], [[[0, 0], [1, 0], [0, 1]]]]},
         "properties": {}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [7, 8]},
         "properties": {"classification": {"names": ["Immune cells", "CD3"]}}},
    ]  # fmt: skip
    folder = tmp_path / "areas"
    folder.mkdir()
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    places = read_places(folder, None)

    assert places.slide == ("a",) * 3
    np.testing.assert_allclose(places.xy, [[5 / 6, 5 / 6], [11, 11], [7, 8]])
    assert places.targets["class"].tolist() == ["Tumor", "", "Immune cells: CD3"]


@pytest.mark.parametrize(
    "content", ["{", '{"features": 3}', '{"features": [{"geometry": {"type": "LineString"}}]}', "[]"]
)
def test_geojson_without_areas_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"GeoJSON|no area"):
        read_places(table(tmp_path, content, "a.geojson"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(5).integers(0, 255, (611, 903, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("places") / "noise.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def planned(slide: Slide, places_um: np.ndarray, grid: GridConfig = GRID) -> RegionPlan:
    mask = TissueMask(np.ones((3, 5), bool), slide.width_px * slide.mpp / 5, slide.height_px * slide.mpp / 3)
    return plan_places(slide, grid, places_um, tissue=mask)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 451), st.integers(0, 305)), min_size=1, max_size=6, unique=True))
def test_every_magnification_has_a_tile_with_the_place_in_its_middle(
    picture: tuple[Path, np.ndarray], places: list[tuple[int, int]]
) -> None:
    places_um = np.array(places, np.float64)
    with open_slide(picture[0], slide_mpp=0.5) as slide:
        plan = planned(slide, places_um)
        middles = plan.region_xy_um() + 64

        assert sorted(map(tuple, np.rint(middles).astype(int).tolist())) == sorted(places)
        for mpp, side in ((2.0, 1), (1.0, 2), (0.5, 4)):
            tiles = plan.tiles(mpp)
            assert len(tiles) == plan.n_tiles(mpp)
            assert (np.diff(tiles.region) >= 0).all()
            at_middle = np.abs(tiles.center_um).max(axis=1) < 1e-6
            inside = np.minimum(middles + 32 * mpp, [451.5, 305.5]) - np.maximum(middles - 32 * mpp, 0)
            enough = inside.prod(axis=1) >= (64 * mpp) ** 2 / 2
            assert sorted(tiles.region[at_middle].tolist()) == np.flatnonzero(enough).tolist()
            # The others are slots of the region, none twice; the exact top left of each follows from its centre.
            slots = np.column_stack([tiles.region, tiles.slot])[~at_middle | (side == 1)]
            assert len(np.unique(slots, axis=0)) == len(slots)
            exact = middles[tiles.region] + tiles.center_um - 32 * mpp
            np.testing.assert_allclose(tiles.xy_um, exact, atol=1e-4)


def test_the_tile_in_the_middle_shows_what_lies_around_the_place(picture: tuple[Path, np.ndarray]) -> None:
    path, pixels = picture
    places_um = np.array([[200.0, 150.0], [130.0, 100.0]])  # pixels 400, 300 and 260, 200: whole ones
    with open_slide(path, slide_mpp=0.5) as slide:
        plan = planned(slide, places_um)
        read = {
            tuple(np.rint(plan.region_xy_um()[one.region] + 64).astype(int)): one for one in iter_tiles(slide, plan)
        }

    for x, y in ((400, 300), (260, 200)):
        tiles = read[x // 2, y // 2].tiles
        assert {mpp: len(rows) for mpp, rows in tiles.items()} == {2.0: 1, 1.0: 5, 0.5: 17}
        np.testing.assert_array_equal(tiles[0.5][-1], pixels[y - 32 : y + 32, x - 32 : x + 32])
        # Means of 2 x 2 pixels, rounded: within one grey level of the exact mean.
        window = pixels[y - 64 : y + 64, x - 64 : x + 64].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(tiles[1.0][-1] - window).max() <= 1
        np.testing.assert_array_equal(tiles[0.5][0], pixels[y - 128 : y - 64, x - 128 : x - 64])


def test_places_beside_the_slide_are_refused(picture: tuple[Path, np.ndarray]) -> None:
    with open_slide(picture[0], slide_mpp=0.5) as slide:
        with pytest.raises(SlideError, match=r"1 of 2 places lie beside noise\.png.*another unit"):
            planned(slide, np.array([[10.0, 10.0], [300.0, 400.0]]))
        with pytest.raises(ConfigError, match="even --tile-px"):
            planned(slide, np.array([[10.0, 10.0]]), GridConfig(region_um=130.0, tile_px=65, mpps=(2.0, 1.0)))
