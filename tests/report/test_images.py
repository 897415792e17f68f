"""Strips of tiles and maps on slides, read back pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from parfocal.report import slide_map_figure, tile_gallery, tile_strip


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))


def test_a_strip_keeps_every_grey_level_and_leaves_clear_gaps() -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (5, width, 3), dtype=np.uint8) for width in (4, 7)]
    strip = pixels(tile_strip(tiles, gap_px=3))

    assert strip.shape == (5, 14, 4)
    assert np.array_equal(strip[:, :4, :3], tiles[0])
    assert np.array_equal(strip[:, 7:, :3], tiles[1])
    assert strip[:, 4:7, 3].max() == 0


def test_tiles_of_two_heights_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of one height"):
        tile_strip([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)])


def test_a_gallery_has_a_labelled_strip_for_each_row() -> None:
    figure = tile_gallery(
        {"low": [np.zeros((4, 4, 3), np.uint8)] * 3, "high": [np.zeros((4, 4, 3), np.uint8)]}, "Ends."
    )

    assert [panel.label for panel in figure.panels] == ["low", "high"]
    assert figure.panels[0].alt == "3 tiles: low"


def test_a_map_colours_each_region_where_it_lies() -> None:
    """A thumbnail of 30 x 50 px at 10 um/px; regions of 100 um at columns 0 and 3 of row 1."""
    thumbnail = np.full((30, 50, 3), 100, dtype=np.uint8)
    xy = np.array([[0.0, 100.0], [300.0, 100.0], [400.0, 0.0], [100.0, 0.0]])
    values = np.array([1.0, -1.0, np.nan, 0.0])
    figure = slide_map_figure(thumbnail, 10.0, xy, 100.0, {"product": values}, "Map.", slide="case 1")
    slide, product = (pixels(panel.image).astype(int) for panel in figure.panels)
    plain = product[25, 25]

    assert np.array_equal(slide, thumbnail)
    assert (product[10:20, 0:10, 0] > product[10:20, 0:10, 2] + 60).all()  # orange: red above blue
    assert (product[10:20, 30:40, 2] > product[10:20, 30:40, 0] + 60).all()  # blue
    assert np.array_equal(product[5, 45], plain)  # not finite: clear
    assert np.array_equal(product[5, 15], plain)  # zero: clear
    coloured = (product != plain).any(axis=2)
    assert coloured.sum() == 200
    assert [panel.label for panel in figure.panels] == ["case 1", "product"]


def test_what_adds_nothing_over_a_white_ground_is_white() -> None:
    white, xy = np.full((20, 20, 3), 255, dtype=np.uint8), np.array([[0.0, 0.0], [100.0, 100.0]])
    panel = slide_map_figure(white, 10.0, xy, 100.0, {"u": np.array([0.0, 1.0])}, "Map.", slide="s").panels[1]

    assert (pixels(panel.image)[:10] == 255).all()


def test_a_region_over_the_edge_is_cut_and_a_flat_map_is_clear() -> None:
    thumbnail = np.full((20, 20, 3), 100, dtype=np.uint8)
    xy = np.array([[150.0, 150.0]])
    over = slide_map_figure(thumbnail, 10.0, xy, 100.0, {"u": np.array([2.0])}, "Map.", slide="s").panels[1]
    flat = slide_map_figure(thumbnail, 10.0, xy, 100.0, {"u": np.array([0.0])}, "Map.", slide="s").panels[1]

    assert (pixels(over.image)[15:, 15:, 0] > pixels(over.image)[0, 0, 0]).all()
    assert len(np.unique(pixels(flat.image))) == 1
