"""Positions and pairs of tiles, against boxes and against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parfocal.geometry import Box
from parfocal.region_encoder.position import fourier_features, pair_features

from .toy import raster

coordinates = st.integers(-8000, 8000).map(lambda n: n / 16)
magnifications = st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0])


def pair(a: tuple[float, float, float], b: tuple[float, float, float], tile_px: int = 224) -> list[float]:
    xy, mpp = torch.tensor([a[:2], b[:2]], dtype=torch.float64), torch.tensor([a[2], b[2]], dtype=torch.float64)
    return pair_features(xy, mpp, xy, mpp, tile_px=tile_px, unit_um=112.0)[0, 1].tolist()


@given(st.tuples(coordinates, coordinates, magnifications), st.tuples(coordinates, coordinates, magnifications))
def test_containment_is_the_overlap_of_the_footprints(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> None:
    boxes = [Box(x - 112 * mpp, y - 112 * mpp, 224 * mpp, 224 * mpp) for x, y, mpp in (a, b)]

    assert pair(a, b)[3] == pytest.approx(boxes[0].overlap(boxes[1]) / min(box.area for box in boxes), abs=1e-9)


def test_a_child_lies_wholly_in_its_parent_and_neighbours_do_not_overlap() -> None:
    xy, mpp = raster()
    containment = pair_features(xy, mpp, xy, mpp, tile_px=224, unit_um=112.0)[..., 3]

    assert containment[0].tolist() == [1.0] * 21  # everything lies in the 2 mpp tile
    # The first 1 mpp tile (place 1) holds the 0.5 mpp tiles of rows 0, 1 and columns 0, 1.
    assert containment[1, 5:].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert torch.equal(containment[5:, 5:], torch.eye(16))


def test_offsets_are_signed_logarithms_from_the_query_to_the_key() -> None:
    # One unit (112 um) to the right is log2(1 + 1) = 1; three units up is -log2(4) = -2; 2 mpp to 0.5 mpp is 2 octaves.
    assert pair((10.0, 50.0, 2.0), (122.0, 50.0 - 336.0, 0.5))[:3] == pytest.approx([1.0, -2.0, 2.0])


@given(st.tuples(coordinates, coordinates, magnifications), st.tuples(coordinates, coordinates, magnifications))
def test_the_other_way_round_offsets_change_sign_and_containment_stays(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> None:
    there, back = pair(a, b), pair(b, a)

    assert there[:3] == pytest.approx([-value for value in back[:3]])
    assert there[3] == pytest.approx(back[3])


def test_places_a_longest_wavelength_apart_look_the_same_and_half_of_it_does_not() -> None:
    here = torch.tensor([[3.0, -7.0]], dtype=torch.float64)
    mpp = torch.tensor([0.7], dtype=torch.float64)
    features = fourier_features(here, mpp)

    torch.testing.assert_close(fourier_features(here + torch.tensor([1792.0, 0.0]), mpp), features)
    torch.testing.assert_close(fourier_features(here, mpp * 2**8), features)
    assert (fourier_features(here + torch.tensor([896.0, 0.0]), mpp) - features).abs().max() > 0.5
    assert (fourier_features(here, mpp * 2**4) - features).abs().max() > 0.5
