"""What held-out scores become: a metric over folds, and how far each patient moves it; and its interval."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.cohort import Cohort, Fold, Outcome, Units
from parfocal.probes import FoldPrediction
from parfocal.report.statistics import (
    CrossValidated,
    Interval,
    PairTally,
    TestedFold,
    auc_interval,
    concordance_interval,
    cross_validated,
)
from parfocal.studies.evaluation.metric import tally

__all__ = ["fewest_patients", "interval_of", "join_folds"]

_Tally = Callable[[Outcome, Float64[np.ndarray, "unit column"]], tuple[PairTally, ...]]


def join_folds(
    cohort: Cohort,
    folds: Sequence[Fold],
    joined: Sequence[Units],
    predictions: Sequence[FoldPrediction],
    places: Sequence[int],
    test_over_train: float,
    *,
    inside: Sequence[Int64[np.ndarray, " _picked"]] | None = None,
    tally_fold: _Tally = tally,
) -> CrossValidated:
    """One arm over the folds that can be measured.

    Args:
        cohort: labels, groups, and sites where these are kept apart.
        folds: all of them.
        joined: the units that each fold tests.
        predictions: of the arm, one for each fold.
        places: the folds that can be measured.
        test_over_train: size of a test fold over its training set.
        inside: for each fold, which of its units count; all where None.
        tally_fold: what is counted; the metric of the outcome's kind where nothing else is named.
    """
    patient = cohort.group_numbers()
    tested = []
    for place in places:
        one, score = joined[place], joined[place].mean(predictions[place].score)
        picked = np.arange(len(one)) if inside is None else inside[place]
        slides = one.slides[picked]
        tallies = tally_fold(cohort.outcome.of(slides), score[picked])
        tested.append(TestedFold(folds[place].repeat, patient[slides], tallies))
    return cross_validated(tested, test_over_train, _sites(cohort, patient))


def _sites(cohort: Cohort, patient: Int64[np.ndarray, " slide"]) -> Int64[np.ndarray, " patient"] | None:
    """The site of each patient, all of whose slides come from one."""
    if cohort.sites is None:
        return None
    numbers = np.unique(np.array(cohort.sites), return_inverse=True)[1].reshape(-1)
    site = np.zeros(int(patient.max()) + 1, dtype=np.int64)
    site[patient] = numbers
    return site


def interval_of(cohort: Cohort, found: CrossValidated, slides: Int64[np.ndarray, " picked"] | None = None) -> Interval:
    """The interval for the cohort's kind of outcome, by the patients of some slides (all where None)."""
    picked = np.arange(len(cohort.slides)) if slides is None else slides
    fewest = fewest_patients(cohort, picked)
    if cohort.outcome.kind != "binary":
        return concordance_interval(found, n_patients=fewest)
    n_positive, n_negative = (len(one) for one in _by_class(cohort, picked))
    return auc_interval(found, n_positive=n_positive, n_negative=n_negative)


def fewest_patients(cohort: Cohort, slides: Int64[np.ndarray, " picked"]) -> int:
    """How many patients carry the evidence: of the smaller class, with an event, or all of them."""
    outcome = cohort.outcome
    if outcome.kind == "binary":
        return min(len(one) for one in _by_class(cohort, slides))
    patients = cohort.group_numbers()[slides]
    if outcome.kind == "survival":
        return max(len(np.unique(patients[outcome.event[slides]])), 1)
    return len(np.unique(patients))


def _by_class(
    cohort: Cohort, slides: Int64[np.ndarray, " picked"]
) -> tuple[Int64[np.ndarray, " positive"], Int64[np.ndarray, " negative"]]:
    patients, is_positive = cohort.group_numbers()[slides], cohort.is_positive[slides]
    return np.unique(patients[is_positive]), np.unique(patients[~is_positive])
