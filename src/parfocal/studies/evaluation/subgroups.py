"""Results by a column of the labels: whether a gain is there in every cancer type, and on every scanner."""

from collections.abc import Sequence

import numpy as np

from parfocal.cohort import Cohort, Units
from parfocal.probes import FoldPrediction
from parfocal.report.statistics import Interval, auc_interval, concordance_interval
from parfocal.studies.evaluation.metric import can_be_measured, measure
from parfocal.studies.evaluation.result import Subgroup

__all__ = ["measure_subgroups"]


def measure_subgroups(
    cohort: Cohort, joined: Sequence[Units], predictions: Sequence[Sequence[FoldPrediction]], test_over_train: float
) -> tuple[Subgroup, ...]:
    """Every arm inside each value of each column, fold by fold; the fits are the same as for all patients.

    Args:
        cohort: its `by` has the columns.
        joined: the units of each fold.
        predictions: of each arm, one for each fold.
        test_over_train: size of a test fold over its training set.
    """
    return tuple(
        _subgroup(cohort, joined, predictions, test_over_train, column, value)
        for column, texts in cohort.by.items()
        for value in sorted(set(texts))
    )


def _subgroup(
    cohort: Cohort,
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
        what = "no two patients whose labels can be put in order"
        note = f"too small: {len(usable)} of {len(joined)} folds could be measured, the others test {what}"
        empty: tuple[Interval | None, ...] = (None,) * len(predictions)
        return Subgroup(column, shown, len(own_slides), patients, len(usable), empty, note)
    intervals = []
    for of_arm in predictions:
        values = np.array(
            [
                measure(
                    cohort.outcome.of(joined[place].slides[inside[place]]),
                    joined[place].mean(of_arm[place].score)[inside[place]],
                )
                for place in usable
            ]
        )
        intervals.append(_interval(cohort, own_slides.tolist(), values.tolist(), test_over_train))
    return Subgroup(column, shown, len(own_slides), patients, len(usable), tuple(intervals))


def _interval(cohort: Cohort, slides: Sequence[int], values: Sequence[float], ratio: float) -> Interval:
    outcome = cohort.outcome
    if outcome.kind == "binary":
        n_positive = len({cohort.groups[slide] for slide in slides if cohort.is_positive[slide]})
        n_negative = len({cohort.groups[slide] for slide in slides if not cohort.is_positive[slide]})
        return auc_interval(values, ratio, n_positive=n_positive, n_negative=n_negative)
    seen = {cohort.groups[slide] for slide in slides if outcome.event[slide]}
    return concordance_interval(values, ratio, n_patients=max(len(seen), 1))
