"""Where there are more than two classes: how well each is told from the rest, and which are taken for which."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, Fold, Units
from parfocal.probes import FoldPrediction
from parfocal.report.statistics import auc, auc_interval
from parfocal.studies.evaluation.metric import called_classes
from parfocal.studies.evaluation.result import ClassResult

__all__ = ["confusion_matrix", "measure_classes"]


def measure_classes(
    cohort: Cohort, joined: Sequence[Units], predictions: Sequence[FoldPrediction], test_over_train: float
) -> tuple[ClassResult, ...]:
    """The AUC of each class's own score against all others, fold by fold; none where classes are not several.

    Ordered classes have no score of their own: theirs say whether a patient lies above a class.

    Args:
        cohort: labels and groups.
        joined: the units of each fold.
        predictions: of one arm, one for each fold.
        test_over_train: size of a test fold over its training set.
    """
    outcome = cohort.outcome
    if outcome.kind != "multiclass":
        return ()
    groups = np.array(cohort.groups)
    found = []
    for place, name in enumerate(outcome.classes):
        values = []
        for one, prediction in zip(joined, predictions, strict=True):
            is_class = outcome.value[one.slides] == place
            if is_class.any() and not is_class.all():
                values.append(auc(is_class, one.mean(prediction.score)[:, place]))
        n_class = len(np.unique(groups[outcome.value == place]))
        n_rest = len(np.unique(groups[outcome.value != place]))
        interval = None
        if len(values) > 1:
            interval = auc_interval(values, test_over_train, n_positive=n_class, n_negative=n_rest)
        found.append(ClassResult(name, n_class, len(values), interval))
    return tuple(found)


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
