"""Settings that contradict each other are refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from parfocal.region_encoder import RegionEncoderConfig


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 100, "heads": 6}, "not a multiple of heads=6"),
        ({"mpps": (0.5, 1.0, 2.0)}, "coarsest first"),
        ({"mpps": (2.0, 1.0)}, "one width for each"),
        ({"dims": (4, 5, 5)}, "name each encoder"),
        ({"encoders": ("a", "b")}, "one digest for each"),
        ({"encoders": ("a", "b", "a"), "dims": (4, 5, 6)}, "2 mpp: 4, 0.5 mpp: 6"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_a_contradiction_is_refused_and_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RegionEncoderConfig(**({"dims": (4, 4, 4)} | settings))


def test_shared_projectors_are_shared_by_the_magnifications_of_one_encoder_only() -> None:
    dims, encoders = (5, 4, 4), ("a", "b", "b")

    assert RegionEncoderConfig(dims=dims, encoders=encoders).projector_groups == ((0,), (1, 2))
    assert RegionEncoderConfig(dims=dims, encoders=encoders, projector="separate").projector_groups == (
        (0,),
        (1,),
        (2,),
    )


def test_a_named_size_can_be_changed_in_part() -> None:
    config = RegionEncoderConfig.of_size("B", dims=(4, 4, 4), depth=2)

    assert (config.width, config.depth, config.heads) == (768, 2, 12)
