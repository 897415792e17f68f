"""At random is at random, by tile or by region, and another seed or slide gives another order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parfocal.zoom import POLICIES

from ..glances import glance_of


@given(st.sampled_from(["random", "random-regions"]), st.integers(0, 1000))
def test_the_seed_and_the_slide_decide(name: str, seed: int) -> None:
    policy = POLICIES.get(name)
    first = policy(glance_of(30, run=seed))

    assert np.array_equal(first, policy(glance_of(30, run=seed)))
    assert not np.array_equal(first, policy(glance_of(30, run=seed + 1)))
    assert not np.array_equal(first, policy(glance_of(30, run=seed, slide="s2")))


def test_regions_are_read_whole() -> None:
    glance = glance_of(30, absent=0.0)

    regions = glance.region[POLICIES.get("random-regions")(glance)].reshape(30, 16)

    assert (regions == regions[:, :1]).all()


def test_every_place_in_the_order_is_alike() -> None:
    glance = [glance_of(2, run=run, absent=0.0) for run in range(600)]

    first = np.bincount([POLICIES.get("random")(one)[0] for one in glance], minlength=32)

    # 600 draws among 32 tiles: chi-square with 31 degrees of freedom is below 61 but for one seed in a thousand.
    assert ((first - 600 / 32) ** 2 / (600 / 32)).sum() < 61
