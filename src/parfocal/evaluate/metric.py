"""The number that compares arms, for every kind of outcome: 0.5 is nothing, 1 is perfect; and what stands beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from parfocal.cohort import Outcome, OutcomeKind
from parfocal.stats import (
    PairTally,
    RankedPairs,
    balanced_accuracy,
    explained_variance,
    ordered_pairs,
    quadratic_kappa,
    spearman,
    tally_classes,
    tally_order,
    tally_times,
    time_pairs,
    weighted_auc,
)


@dataclass(frozen=True)
class Metric:
    """The number of a kind of outcome: what it is called, what it says in one sentence, and what stands beside it.

    The second numbers do not compare arms but say how near a prediction comes to the label.
    """

    name: str
    meaning: str
    second: tuple[str, ...] = ()


METRICS: Mapping[OutcomeKind, Metric] = {
    "binary": Metric(
        "AUC",
        "The share of pairs of a positive and a negative patient in which the positive one scores higher.",
        ("balanced accuracy",),
    ),
    "multiclass": Metric(
        "mean AUC",
        "For each class the AUC of its own score against all other patients; the mean over classes.",
        ("balanced accuracy",),
    ),
    "ordinal": Metric(
        "concordance",
        "The share of pairs of patients of different classes in which the higher class scores higher.",
        ("quadratic kappa",),
    ),
    "continuous": Metric(
        "concordance",
        "The share of pairs of patients with different values in which the higher value scores higher.",
        ("R2", "Spearman"),
    ),
    "survival": Metric(
        "Harrell's concordance",
        "The share of pairs of patients, one known to have had the event first, in which that one scores higher.",
    ),
}


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
    if not can_be_measured(outcome):
        raise ValueError(f"no two of these {len(outcome)} cases can be put in order by their labels")
    return float(np.nanmean([one.share for one in tally(outcome, score)]))


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
