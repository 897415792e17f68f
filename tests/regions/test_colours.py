import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parfocal.regions.colours import strongest, weakest


@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 5), st.just(3))))
def test_the_weakest_and_the_strongest_colour_are_those_that_numpy_finds(rgb: np.ndarray) -> None:
    assert np.array_equal(weakest(rgb), rgb.min(axis=2))
    assert np.array_equal(strongest(rgb), rgb.max(axis=2))
    assert np.array_equal(weakest(rgb[:, ::2]), rgb[:, ::2].min(axis=2))
