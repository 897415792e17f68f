"""The distance between tiles, from their places alone."""

import numpy as np
import pytest

from parfocal.store.formats.lattice import step_of


def test_pieces_of_tissue_with_lattices_of_their_own_have_one_distance() -> None:
    piece = np.stack(np.meshgrid(np.arange(5), np.arange(3)), axis=-1).reshape(-1, 2) * 300.0
    places = np.concatenate([piece, piece + np.array([1537, 0]), piece[::2] + np.array([17, 931])])

    assert step_of(places) == 300
    assert step_of(places[np.random.default_rng(0).permutation(len(places))]) == 300


def test_the_distance_of_overlapping_tiles_is_no_side() -> None:
    assert step_of(np.array([[0, 0], [100, 0], [200, 0]], float)) == 100


@pytest.mark.parametrize("places", [[], [[3, 4]], [[0, 0], [50, 70]], [[0, 0], [50, 0], [130, 0], [230, 0]]])
def test_places_that_have_no_common_distance_have_none(places: list[list[int]]) -> None:
    assert step_of(np.array(places, float).reshape(-1, 2)) is None
