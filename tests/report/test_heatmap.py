"""Values of regions as pixels."""

import numpy as np
import pytest

from parfocal.report import raster_of_regions, scale_bar_um, signed_colours, signed_scale

NAN = float("nan")


def test_a_pixel_has_the_value_of_the_region_under_its_middle_and_the_mean_of_several() -> None:
    xy = np.array([[0.0, 0.0], [20.0, 0.0], [10.0, 10.0], [-15.0, 10.0]])

    found = raster_of_regions(xy, 20.0, np.array([1.0, 2.0, 3.0, NAN]), mpp=10, width=5, height=3)

    expected = [[1, 1, 2, 2, NAN], [1, 2, 2.5, 2, NAN], [NAN, 3, 3, NAN, NAN]]
    assert np.array_equal(found, np.array(expected, np.float32), equal_nan=True)


def test_neighbours_share_no_pixel_and_leave_none_out_wherever_they_lie() -> None:
    """Edges at every sixteenth of a pixel, the half among them."""
    for shift in np.arange(16) / 16:
        xy = np.array([[shift + 7 * column * 1.1, shift + 7 * row * 1.1] for row in range(3) for column in range(4)])
        found = raster_of_regions(xy, 7.7, np.ones(12), mpp=1.1, width=40, height=40)
        assert np.isfinite(found).sum() == 12 * 49
        assert set(np.unique(found[np.isfinite(found)])) == {1.0}


def test_maps_are_drawn_together_as_they_are_alone() -> None:
    rng = np.random.default_rng(0)
    xy, values = rng.uniform(-10, 40, (9, 2)), rng.normal(size=(9, 3))

    both = raster_of_regions(xy, 13.0, values, mpp=3, width=15, height=11)

    for number in range(3):
        alone = raster_of_regions(xy, 13.0, values[:, number], mpp=3, width=15, height=11)
        assert np.array_equal(both[..., number], alone, equal_nan=True)


def test_colours_are_as_strong_as_values_up_to_the_scale() -> None:
    colours = signed_colours(np.array([[0.0, NAN, 0.5, 1.0, 9.0, -1.0]]), 1.0).astype(int)[0]

    assert colours[0].tolist() == colours[1].tolist() == [255, 255, 255]
    assert colours[2].tolist() == [240, 175, 132]  # halfway from white to orange, rounded to even
    assert colours[3].tolist() == colours[4].tolist() == [225, 95, 10]
    assert colours[5].tolist() == [20, 90, 200]
    assert (signed_colours(np.array([[1.0]]), 0.0) == 255).all()


def test_one_scale_is_that_of_the_largest_map() -> None:
    assert signed_scale([np.array([1.0, -1.0]), np.array([NAN, -3.0, 3.0])]) == 3
    assert signed_scale([np.array([NAN])]) == 0


@pytest.mark.parametrize(("most", "length"), [(2999.0, 2000.0), (2000.0, 2000.0), (999.0, 500.0), (4.9, 2.0)])
def test_a_scale_bar_has_a_round_length(most: float, length: float) -> None:
    assert scale_bar_um(most) == pytest.approx(length)
