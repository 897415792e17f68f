"""Where there are more than two classes: how well each is told from the rest, and which are taken for which."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, Fold, Outcome, Units
from parfocal.evaluate.metric import called_classes, join_folds
from parfocal.evaluate.result import ClassResult
from parfocal.heads import FoldPrediction
from parfocal.stats import PairTally, auc_interval, tally_classes

__all__ = ["confusion_matrix", "measure_classes"]


def measure_classes(
    cohort: Cohort,
    folds: Sequence[Fold],
    joined: Sequence[Units],
    predictions: Sequence[FoldPrediction],
    test_over_train: float,
) -> tuple[ClassResult, ...]:
    """The AUC of each class's own score against all others, fold by fold; none where classes are not several.

    Ordered classes have no score of their own: theirs say whether a patient lies above a class.

    Args:
        cohort: labels and groups.
        folds: all of them.
        joined: the units of each fold.
        predictions: of one arm, one for each fold.
        test_over_train: size of a test fold over its training set.
    """
    outcome = cohort.outcome
    if outcome.kind != "multiclass":
        return ()
    groups = np.array(cohort.groups)
    found = []
    for number, name in enumerate(outcome.classes):
        usable = [
            place
            for place, one in enumerate(joined)
            if 0 < int((outcome.value[one.slides] == number).sum()) < len(one.slides)
        ]
        n_class = len(np.unique(groups[outcome.value == number]))
        n_rest = len(np.unique(groups[outcome.value != number]))
        interval = None
        if len(usable) > 1:
            over_folds = join_folds(
                cohort, folds, joined, predictions, usable, test_over_train, tally_fold=partial(_one_class, number)
            )
            interval = auc_interval(over_folds, n_positive=n_class, n_negative=n_rest)
        found.append(ClassResult(name, n_class, len(usable), interval))
    return tuple(found)


def _one_class(number: int, outcome: Outcome, score: Float64[np.ndarray, "unit column"]) -> tuple[PairTally, ...]:
    return (tally_classes(outcome.value == number, score[:, number]),)


def confusion_matrix(
    cohort: Cohort, folds: Sequence[Fold], joined: Sequence[Units], predictions: Sequence[FoldPrediction]
) -> Float64[np.ndarray, "label called"] | None:
    """How many patients of each class are called which, by fits that had not seen them; None for other outcomes.

    In every repeat each patient is tested once (twice where its slides have two labels); the counts are means over
    the repeats, so that a row adds up to the patients of its class.
    """
    outcome = cohort.outcome
    if outcome.kind not in ("multiclass", "ordinal"):
        return None
    counts = np.zeros((len(outcome.classes), len(outcome.classes)))
    for one, prediction in zip(joined, predictions, strict=True):
        called = called_classes(outcome, one.mean(prediction.score))
        np.add.at(counts, (outcome.value[one.slides].astype(np.int64), called), 1)
    return counts / len({fold.repeat for fold in folds})
