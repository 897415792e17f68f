"""What is known of a slide is checked when it is made, and never holds a fine embedding."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.zoom import Glance

from .glances import REGION_UM, glance_of


def test_centres_are_in_the_frame_of_the_slide() -> None:
    glance = glance_of(3, absent=0.0)

    # By hand: the second region begins at (4, 1) sides and 17 um; its first 112-um tile ends 112 um further.
    np.testing.assert_allclose(glance.xy_um[16], [4 * REGION_UM + 17 + 56, REGION_UM + 17 + 56])
    assert glance.n_tiles == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tissue": np.full(48, 1.5)}, "not a share between 0 and 1"),
        ({"tissue": np.full(48, np.nan)}, "not a share between 0 and 1"),
        ({"region": np.repeat([1, 0, 2], 16).astype(np.int32)}, "not in the order of its regions"),
        ({"region": np.repeat([0, 1, 3], 16).astype(np.int32)}, "not in the order of its regions"),
        ({"mpp": 1.0}, "what is looked at before tiles of 1 mpp are read is coarser"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(glance_of(3, absent=0.0), **change)


def test_random_numbers_follow_the_run_and_the_slide() -> None:
    def numbers(slide: str, run: int) -> list[int]:
        return glance_of(3, slide=slide, run=run).generator().integers(0, 10**9, 3).tolist()

    assert numbers("a", 0) == numbers("a", 0)
    assert numbers("a", 0) != numbers("b", 0)
    assert numbers("a", 0) != numbers("a", 1)


def test_a_slide_without_any_planned_tile_is_no_error() -> None:
    glance = glance_of(3)
    nothing = Glance(glance.coarse, np.zeros(0, np.int32), np.zeros((0, 2), np.float32), 0.5, np.zeros(0), 0)

    assert nothing.n_tiles == 0
    assert nothing.xy_um.shape == (0, 2)
