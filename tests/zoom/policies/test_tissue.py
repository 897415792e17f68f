"""More tissue comes first, and among equals what is spread evenly."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given

from parfocal.zoom import POLICIES
from parfocal.zoom.policies.stride import stride_order

from ..glances import drawn, glance_of

TISSUE = POLICIES.get("tissue")


@given(drawn())
def test_tissue_never_rises_along_the_order(slide: dict[str, Any]) -> None:
    glance = glance_of(**slide)
    assert (np.diff(glance.tissue[TISSUE(glance)]) <= 0).all()


def test_where_all_tiles_are_full_it_is_the_stride() -> None:
    glance = glance_of(20)
    full = replace(glance, tissue=np.ones(glance.n_tiles))

    assert np.array_equal(TISSUE(full), stride_order(full))
