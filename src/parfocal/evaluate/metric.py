"""What held-out scores become: a metric over folds, and how far each patient moves it; and its interval.

The number that compares arms, for every kind of outcome: 0.5 is nothing, 1 is perfect; and what stands beside it.

What is measured here are units, mostly patients: their slides' scores are averaged before (`parfocal.cohort.units`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from parfocal.cohort import Cohort, Fold, Outcome, OutcomeKind, Units
from parfocal.heads import FoldPrediction
from parfocal.stats import (
    CrossValidated,
    Interval,
    PairTally,
    RankedPairs,
    TestedFold,
    auc,
    auc_interval,
    balanced_accuracy,
    concordance,
    concordance_interval,
    cross_validated,
    explained_variance,
    harrell_concordance,
    one_against_rest_auc,
    ordered_pairs,
    quadratic_kappa,
    spearman,
    tally_classes,
    tally_order,
    tally_times,
    time_pairs,
    weighted_auc,
)

__all__ = [
    "METRICS",
    "SECOND",
    "Metric",
    "called_classes",
    "can_be_measured",
    "fewest_patients",
    "interval_of",
    "join_folds",
    "measure",
    "measure_beside",
    "measure_weighted",
    "tally",
]


@dataclass(frozen=True)
class Metric:
    """What the number of a kind of outcome is called, and what it says in one sentence."""

    name: str
    meaning: str


METRICS: Mapping[OutcomeKind, Metric] = {
    "binary": Metric(
        "AUC", "The share of pairs of a positive and a negative patient in which the positive one scores higher."
    ),
    "multiclass": Metric(
        "mean AUC", "For each class the AUC of its own score against all other patients; the mean over classes."
    ),
    "ordinal": Metric(
        "concordance", "The share of pairs of patients of different classes in which the higher class scores higher."
    ),
    "continuous": Metric(
        "concordance", "The share of pairs of patients with different values in which the higher value scores higher."
    ),
    "survival": Metric(
        "Harrell's concordance",
        "The share of pairs of patients, one known to have had the event first, in which that one scores higher.",
    ),
}

SECOND: Mapping[OutcomeKind, tuple[str, ...]] = {
    "binary": ("balanced accuracy",),
    "multiclass": ("balanced accuracy",),
    "ordinal": ("quadratic kappa",),
    "continuous": ("R2", "Spearman"),
    "survival": (),
}
"""The second numbers of a kind, which do not compare arms but say how near a prediction comes to the label."""


def can_be_measured(outcome: Outcome) -> bool:
    """Whether some two of these labels can be put in order at all."""
    if outcome.kind == "survival":
        return bool(time_pairs(outcome.value, outcome.event).any())
    return len(np.unique(outcome.value)) > 1


def measure(outcome: Outcome, score: Float64[np.ndarray, "unit column"]) -> float:
    """The metric of the outcome's kind.

    Raises:
        ValueError: no two cases can be put in order by their labels.
    """
    if outcome.kind == "multiclass":
        return one_against_rest_auc(outcome.value.astype(np.int64), score)
    ranked = outcome.rank_score(score)
    if outcome.kind == "binary":
        return auc(outcome.value, ranked)
    if outcome.kind == "survival":
        return harrell_concordance(outcome.value, outcome.event, ranked)
    return concordance(outcome.value, ranked)


def measure_beside(outcome: Outcome, score: Float64[np.ndarray, "unit column"], baseline: float) -> dict[str, float]:
    """The second numbers of the outcome's kind; NaN where one has no value.

    Args:
        outcome: the labels.
        score: one score for each column.
        baseline: the mean value of the training slides, for R2.
    """
    if outcome.kind == "survival":
        return {}
    if outcome.classes:
        called, label = called_classes(outcome, score), outcome.value.astype(np.int64)
        if outcome.kind == "ordinal":
            return {"quadratic kappa": quadratic_kappa(label, called, len(outcome.classes))}
        return {"balanced accuracy": balanced_accuracy(label, called)}
    ranked = outcome.rank_score(score)
    return {
        "R2": explained_variance(outcome.value, ranked, baseline),
        "Spearman": spearman(outcome.value, ranked),
    }


def called_classes(outcome: Outcome, score: Float64[np.ndarray, "unit column"]) -> Int64[np.ndarray, " unit"]:
    """The class that scores call: the one with the highest log odds (of two: where these are above 0).

    Of ordered classes it is the one nearest to the expected class.
    """
    if outcome.kind == "multiclass":
        return np.asarray(score.argmax(axis=1), dtype=np.int64)
    ranked = outcome.rank_score(score)
    if outcome.kind == "ordinal":
        return np.asarray(np.rint(ranked), dtype=np.int64)
    return np.asarray(ranked > 0, dtype=np.int64)


def measure_weighted(
    outcome: Outcome, score: Float64[np.ndarray, "unit column"]
) -> Callable[[Float32[np.ndarray, "draw unit"]], Float64[np.ndarray, " draw"]]:
    """The metric as a function of how often each unit counts, for a bootstrap; 0.5 where nothing is left to compare."""
    if outcome.kind == "multiclass":
        there = [outcome.value == number for number in range(len(outcome.classes))]
        classes = [number for number, own in enumerate(there) if own.any() and not own.all()]
        return lambda weight: np.asarray(
            np.mean([weighted_auc(there[number], score[:, number], weight) for number in classes], axis=0)
        )
    ranked = outcome.rank_score(score)
    if outcome.kind == "binary":
        return lambda weight: weighted_auc(outcome.value, ranked, weight)
    by_time = outcome.kind == "survival"
    pairs = time_pairs(outcome.value, outcome.event) if by_time else ordered_pairs(outcome.value)
    return RankedPairs.of(pairs, ranked).share


def tally(outcome: Outcome, score: Float64[np.ndarray, "unit column"]) -> tuple[PairTally, ...]:
    """The pairs behind the metric, whose mean share is `measure`: one tally, or one for each of several classes."""
    if outcome.kind == "multiclass":
        return tuple(tally_classes(outcome.value == one, score[:, one]) for one in range(len(outcome.classes)))
    ranked = outcome.rank_score(score)
    if outcome.kind == "binary":
        return (tally_classes(outcome.value > 0.5, ranked),)
    if outcome.kind == "survival":
        return (tally_times(outcome.value, outcome.event, ranked),)
    return (tally_order(outcome.value, ranked),)


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
