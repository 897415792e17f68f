"""Every prefix of a stride is spread evenly over the tissue."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.zoom import POLICIES, chosen
from parfocal.zoom.policies.stride import hilbert_place, stride_order

from ..glances import drawn, glance_of


def test_the_curve_goes_from_cell_to_neighbouring_cell() -> None:
    # Cells whose corners the square's raster meets exactly: 65,536 steps over the longer side, fewer one.
    side = 16
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * 1.0

    along = xy[np.argsort(hilbert_place(xy))]

    assert (np.abs(np.diff(along, axis=0)).sum(axis=1) == 1).all()
    assert len(np.unique(hilbert_place(xy))) == side**2


@given(drawn(), st.floats(0.02, 1))
def test_what_is_read_lies_at_three_distances_along_the_curve_at_most(slide: dict[str, Any], budget: float) -> None:
    glance = glance_of(**slide)
    curve = np.argsort(hilbert_place(glance.xy_um), kind="stable")
    read = np.flatnonzero(chosen(stride_order(glance), budget)[curve])

    gaps = np.unique(np.diff(read))

    # The three-distance theorem (Sos 1958): the largest is the sum of the other two.
    assert len(gaps) <= 3
    assert len(gaps) < 3 or gaps[2] == gaps[0] + gaps[1]


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.25])
def test_quarters_of_a_slide_are_read_alike(budget: float) -> None:
    glance = glance_of(400, absent=0.0, columns=20)
    read = chosen(stride_order(glance), budget)
    quarter = 2 * (glance.xy_um[:, 0] > np.median(glance.xy_um[:, 0])) + (
        glance.xy_um[:, 1] > np.median(glance.xy_um[:, 1])
    )

    share = np.bincount(quarter, read) / np.bincount(quarter)

    # A quarter of a square is a quarter of the curve: 1,600 places, of which a prefix holds its share but for a few.
    np.testing.assert_allclose(share, budget, atol=4 / 1600)


@given(st.integers(0, 50))
def test_the_seed_changes_nothing(run: int) -> None:
    assert np.array_equal(POLICIES.get("stride")(glance_of(run=run)), POLICIES.get("stride")(glance_of(run=0)))
