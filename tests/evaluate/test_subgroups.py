"""Results by a column."""

import numpy as np
import pytest

from parfocal.stats import auc

from .drawn import ARMS, cohort_of, drawn


def test_a_subgroup_is_measured_inside_every_fold() -> None:
    site = ["north" if number % 3 else "south" for number in range(90)]
    made = drawn(cohort_of("binary", n=90, by={"site": site}))
    result = made.result()
    inside = np.array(site) == "north"
    by_hand = []
    for fold, one in zip(made.folds, made.fits[4].predictions, strict=True):
        own = inside[fold.test]
        by_hand.append(auc(made.cohort.is_positive[fold.test][own], one.score[own, 0]))

    north, south = result.subgroups
    assert (north.column, north.value, north.patients, north.slides) == ("site", "north", 60, 60)
    assert (south.value, south.patients) == ("south", 30)
    assert north.folds == len(made.folds)
    assert len(north.intervals) == len(ARMS)
    assert north.intervals[4] is not None
    assert north.intervals[4].estimate == pytest.approx(np.mean(by_hand))


def test_a_rare_value_says_that_it_is_too_small_and_a_missing_one_has_a_name() -> None:
    made = drawn(cohort_of("continuous", n=60, by={"scanner": ["rare", *["A"] * 40, *[""] * 19]}))
    missing, common, rare = made.result().subgroups

    assert rare.value == "rare"
    assert rare.intervals == (None,) * len(ARMS)
    assert "too small: 0 of 8 folds" in rare.note
    assert missing.value == "(missing)"
    assert common.note == ""
    assert all(interval is not None for interval in common.intervals)
