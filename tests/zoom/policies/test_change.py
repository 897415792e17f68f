"""A region that its surroundings do not foretell comes first."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.zoom import POLICIES, Glance
from parfocal.zoom.policies.change import change

from ..glances import REGION_UM, drawn, full, glance_of


def by_hand(glance: Glance) -> np.ndarray:
    """The same, one region and one neighbour at a time."""
    coarse = glance.coarse
    tissue = [glance.tissue[glance.region == r] for r in range(coarse.n_regions)]
    # A tile at 2 mpp is as large as sixteen fine ones, one at 1 mpp as four.
    coarse_sides = {2.0: 16, 1.0: 4}
    held = [len(one) for one in tissue]
    held += [coarse_sides[mpp] * n for mpp in coarse.mpps for n in np.bincount(coarse.region[mpp]).tolist()]
    share = np.array([one.sum() for one in tissue]) / max(1, *held)
    found = np.full((len(coarse.mpps), coarse.n_regions), np.nan)
    for level, mpp in enumerate(coarse.mpps):
        means = {
            r: coarse.features[mpp][coarse.region[mpp] == r].astype(np.float64).mean(axis=0)
            for r in np.unique(coarse.region[mpp])
        }
        if not means:
            continue
        every = np.stack(list(means.values()))
        spread = every.std(axis=0)
        scaled = {
            r: share[r] * np.where(spread > 1e-6, (x - every.mean(axis=0)) / np.where(spread > 1e-6, spread, 1), 0)
            for r, x in means.items()
        }
        for r, x in scaled.items():
            away = np.linalg.norm(coarse.region_xy_um - coarse.region_xy_um[r], axis=1)
            near = [
                scaled[other] for other in np.flatnonzero((away <= 1.5 * REGION_UM) & (away > 0)) if other in scaled
            ]
            around = np.mean(near, axis=0) if near else np.zeros_like(x)
            found[level, r] = ((x - around) ** 2).mean() / (1 + 1 / max(len(near), 1))
    known = ~np.isnan(found)
    total = np.where(known, found, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


@given(drawn())
def test_the_value_is_that_of_a_second_way(slide: dict[str, Any]) -> None:
    glance = glance_of(**slide)
    np.testing.assert_allclose(change(glance), by_hand(glance), rtol=1e-9, atol=1e-12)


def test_a_lone_region_that_looks_otherwise_is_read_first() -> None:
    glance = glance_of(25, absent=0.0)
    features = {mpp: rows.copy() for mpp, rows in glance.coarse.features.items()}
    for mpp, rows in features.items():
        rows *= 0.1
        rows[glance.coarse.region[mpp] == 12] += 5
    odd = replace(glance, coarse=replace(glance.coarse, features=features))

    assert set(odd.region[POLICIES.get("change")(odd)[:16]]) == {12}


def test_where_regions_say_nothing_of_one_another_all_are_expected_alike() -> None:
    values = np.mean([change(full(glance_of(100, seed=seed, absent=0.0, dim=40))) for seed in range(20)], axis=0)

    # Edges of the tissue have three to five neighbours and its inside eight; of 20 slides of 80 columns each mean is
    # about 1 within a few per cent.
    assert values.min() > 0.85
    assert values.max() < 1.15


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_stain_and_scale_of_a_slide_change_nothing(scale: float, shift: float) -> None:
    glance = glance_of(20)
    features = {mpp: rows.astype(np.float64) * scale + shift for mpp, rows in glance.coarse.features.items()}

    np.testing.assert_allclose(
        change(replace(glance, coarse=replace(glance.coarse, features=features))), change(glance), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("n_regions", [1, 2])
def test_a_slide_of_a_region_or_two_has_an_order(n_regions: int) -> None:
    glance = glance_of(n_regions, absent=0.0)

    assert sorted(POLICIES.get("change")(glance)) == list(range(glance.n_tiles))
