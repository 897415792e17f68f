"""Results by a column of the labels: whether a gain is there in every cancer type, and on every scanner."""

from collections.abc import Sequence

import numpy as np

from parfocal.cohort import Cohort, Fold, Units
from parfocal.evaluate.metric import can_be_measured, interval_of, join_folds
from parfocal.evaluate.result import Subgroup
from parfocal.heads import FoldPrediction
from parfocal.stats import Interval

__all__ = ["measure_subgroups"]


def measure_subgroups(
    cohort: Cohort,
    folds: Sequence[Fold],
    joined: Sequence[Units],
    predictions: Sequence[Sequence[FoldPrediction]],
    test_over_train: float,
) -> tuple[Subgroup, ...]:
    """Every arm inside each value of each column, fold by fold; the fits are the same as for all patients.

    Args:
        cohort: its `by` has the columns.
        folds: all of them.
        joined: the units of each fold.
        predictions: of each arm, one for each fold.
        test_over_train: size of a test fold over its training set.
    """
    return tuple(
        _subgroup(cohort, folds, joined, predictions, test_over_train, column, value)
        for column, texts in cohort.by.items()
        for value in sorted(set(texts))
    )


def _subgroup(
    cohort: Cohort,
    folds: Sequence[Fold],
    joined: Sequence[Units],
    predictions: Sequence[Sequence[FoldPrediction]],
    test_over_train: float,
    column: str,
    value: str,
) -> Subgroup:
    has_it = np.array([text == value for text in cohort.by[column]], dtype=bool)
    own_slides = np.flatnonzero(has_it)
    patients = len({cohort.groups[slide] for slide in own_slides})
    inside = [np.flatnonzero(has_it[one.slides]) for one in joined]
    usable = [
        place
        for place, (one, own) in enumerate(zip(joined, inside, strict=True))
        if can_be_measured(cohort.outcome.of(one.slides[own]))
    ]
    shown = value or "(missing)"
    if len(usable) < 2:
        what = cohort.worded("no two patients whose labels can be put in order")
        note = f"too small: {len(usable)} of {len(joined)} folds could be measured, the others test {what}"
        empty: tuple[Interval | None, ...] = (None,) * len(predictions)
        return Subgroup(column, shown, len(own_slides), patients, len(usable), empty, note)
    intervals = [
        interval_of(
            cohort,
            join_folds(cohort, folds, joined, of_arm, usable, test_over_train, inside=inside),
            own_slides,
        )
        for of_arm in predictions
    ]
    return Subgroup(column, shown, len(own_slides), patients, len(usable), tuple(intervals))
