"""What was read, drawn from coordinates: the colours of known places."""

import numpy as np

from parfocal.budget.pictures import draw_read, pictured_slides
from parfocal.store import SlideTokens

SIDE_UM, TILE_UM = 448.0, 224.0


def tokens_of(corners: list[tuple[float, float]]) -> SlideTokens:
    """A slide of regions with four fine tiles each, whose embeddings nobody looks at."""
    n = len(corners)
    four = np.array([[-112, -112], [112, -112], [-112, 112], [112, 112]], dtype=np.float32)
    return SlideTokens(
        "case",
        SIDE_UM,
        0.5,
        np.array(corners, dtype=np.float64),
        {2.0: np.zeros((n, 1)), 1.0: np.zeros((4 * n, 1))},
        {2.0: np.arange(n, dtype=np.int32), 1.0: np.repeat(np.arange(n), 4).astype(np.int32)},
        {2.0: np.zeros((n, 2), dtype=np.float32), 1.0: np.tile(four, (n, 1))},
    )


def colour_at(picture: np.ndarray, x_um: float, y_um: float, low: tuple[float, float], um_per_px: float) -> list[int]:
    """The pixel at a place of the slide."""
    found: list[int] = picture[int((y_um - low[1]) / um_per_px), int((x_um - low[0]) / um_per_px)].tolist()
    return found


def test_tiles_of_the_first_budget_are_dark_those_of_the_next_light_and_the_rest_is_as_it_was() -> None:
    # Three regions in a row and one below the first, far from the slide's corner: wider than high.
    corners = [(1000.0, 5000.0), (1448.0, 5000.0), (1896.0, 5000.0), (1000.0, 5448.0)]
    tokens, low = tokens_of(corners), (1000.0, 5000.0)
    first, second = np.zeros(16, dtype=bool), np.zeros(16, dtype=bool)
    first[1] = True  # the upper right tile of the first region
    second[[1, 14]] = True  # and the lower left one of the fourth

    picture = draw_read(tokens, TILE_UM, [first, second], None)

    height, width = picture.shape[:2]
    um = 3 * SIDE_UM / width
    assert (width, height) == (300, 200)
    dark, light = colour_at(picture, 1336, 5112, low, um), colour_at(picture, 1112, 5784, low, um)
    assert dark[0] < light[0]
    assert dark[1] < light[1]
    assert colour_at(picture, 1112, 5112, low, um) == [255, 255, 255]
    assert colour_at(picture, 1700, 5112, low, um) == [255, 255, 255]
    assert colour_at(picture, 1000 + um / 2, 5200, low, um) == [30, 60, 200]  # the edge of a region
    assert colour_at(picture, 2000, 5700, low, um) == [255, 255, 255]  # no region


def test_the_slide_lies_below_at_its_own_place() -> None:
    tokens = tokens_of([(448.0, 896.0), (896.0, 896.0)])
    thumbnail = np.full((200, 300, 3), 255, np.uint8)
    thumbnail[101:107, 80:86] = (
        0  # at 16 um per pixel: 1280 to 1376 um from the left, 1616 to 1712 from the top: outside
    )
    thumbnail[70:76, 60:66] = 0  # 960 to 1056 and 1120 to 1216

    picture = draw_read(tokens, TILE_UM, [np.zeros(8, dtype=bool)], (thumbnail, 16.0))

    um, low = 2 * SIDE_UM / picture.shape[1], (448.0, 896.0)
    dark = (picture.max(axis=2) < 120).nonzero()
    assert picture.shape[0] * 2 == picture.shape[1]
    np.testing.assert_allclose(low[0] + (dark[1].min() + 0.5) * um, 960, atol=16)
    np.testing.assert_allclose(low[0] + (dark[1].max() + 0.5) * um, 1056, atol=16)
    np.testing.assert_allclose(low[1] + (dark[0].min() + 0.5) * um, 1120, atol=16)
    np.testing.assert_allclose(low[1] + (dark[0].max() + 0.5) * um, 1216, atol=16)


def test_the_smallest_the_middle_and_the_largest_slide_are_shown_each_once() -> None:
    assert pictured_slides([30, 10, 20, 50, 40]) == [1, 0, 3]
    assert pictured_slides([7]) == [0]
    assert pictured_slides([9, 3]) == [1, 0]
