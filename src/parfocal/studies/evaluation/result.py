"""What an evaluation found: for each target, the arms with their folds, intervals and differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, Fold, Splits
from parfocal.errors import ConfigError
from parfocal.probes import FoldPrediction
from parfocal.report import Reference
from parfocal.report.statistics import FoldTest, Interval, auc, auc_interval, detectable_difference, nadeau_bengio_test
from parfocal.studies.arms import Arm

__all__ = ["ArmRun", "EvaluateResult", "TargetResult", "compare_arms"]


@dataclass(frozen=True, eq=False)
class ArmRun:
    """One arm on one target.

    Attributes:
        arm: what was run.
        predictions: one for each fold.
        fold_auc: the AUC of each fold; NaN where the fold tests one class only.
        interval: the mean over folds that have an AUC, with an interval for repeated cross-validation.
        against_best_single: this arm minus the best single magnification; None for that one, or without any.
        instances_per_slide: the mean number of vectors that are pooled.
        seconds: how long its fits took.
    """

    arm: Arm
    predictions: tuple[FoldPrediction, ...]
    fold_auc: Float64[np.ndarray, " fold"]
    interval: Interval
    against_best_single: FoldTest | None
    instances_per_slide: float
    seconds: float

    @property
    def chosen(self) -> dict[str, int]:
        """In how many folds each candidate was chosen, the most frequent first."""
        return dict(Counter(one.chosen for one in self.predictions).most_common())


@dataclass(frozen=True, eq=False)
class TargetResult:
    """All arms on one target.

    Attributes:
        cohort: slides and labels.
        splits: who was tested when.
        folds: the same with the inner folds.
        runs: the arms, in the order of the table.
        best_single: place in `runs` of the single magnification with the highest AUC; None without any.
        detectable: the difference between the best arm that reads several magnifications and the best single one that
            this cohort would have shown with 80 % power; NaN where that is not known.
        test_over_train: size of a test fold over its training set.
        references: numbers to print beside arms, by their kind.
        notes: what was dropped or is remarkable.
    """

    cohort: Cohort
    splits: Splits
    folds: tuple[Fold, ...]
    runs: tuple[ArmRun, ...]
    best_single: int | None
    detectable: float
    test_over_train: float
    references: Mapping[str, Sequence[Reference]]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class EvaluateResult:
    """What `evaluate` found and where it wrote it.

    Attributes:
        targets: the results by target.
        report: the HTML page.
        out: the folder with results.csv, results.json, predictions.csv and splits.csv.
        inputs: the digests of sets and labels, by name.
        settings: everything that made the results.
    """

    targets: Mapping[str, TargetResult]
    report: Path
    out: Path
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]


def compare_arms(
    arms: Sequence[Arm],
    predictions: Sequence[Sequence[FoldPrediction]],
    cohort: Cohort,
    folds: Sequence[Fold],
    *,
    instances: Sequence[float],
    seconds: Sequence[float],
) -> tuple[tuple[ArmRun, ...], int | None, float, float]:
    """The runs of all arms, the place of the best single magnification, the detectable difference, and n_test/n_train.

    Raises:
        ConfigError: fewer than two folds test both classes.
    """
    usable = np.array([len(np.unique(cohort.is_positive[fold.test])) == 2 for fold in folds])
    if usable.sum() < 2:
        raise ConfigError(
            f"only {int(usable.sum())} of {len(folds)} folds of {cohort.target!r} test slides of both classes; "
            "an interval needs two. Use fewer folds."
        )
    ratio = float(np.mean([len(fold.test) / len(fold.train) for fold in folds]))
    n_positive, n_negative = cohort.count_groups(positive=True), cohort.count_groups(positive=False)
    fold_auc = [
        np.array(
            [
                auc(cohort.is_positive[fold.test], one.score[:, 0]) if ok else np.nan
                for fold, one, ok in zip(folds, of_arm, usable, strict=True)
            ]
        )
        for of_arm in predictions
    ]
    intervals = [
        auc_interval(values[usable], ratio, n_positive=n_positive, n_negative=n_negative) for values in fold_auc
    ]
    singles = [place for place, arm in enumerate(arms) if arm.kind == "single"]
    best = max(singles, key=lambda place: intervals[place].estimate) if singles else None
    runs = []
    for place, arm in enumerate(arms):
        test = None
        if best is not None and place != best:
            test = nadeau_bengio_test(
                fold_auc[place][usable], fold_auc[best][usable], ratio, n_patients=min(n_positive, n_negative)
            )
        runs.append(
            ArmRun(
                arm,
                tuple(predictions[place]),
                fold_auc[place],
                intervals[place],
                test,
                instances[place],
                seconds[place],
            )
        )
    others = [place for place, arm in enumerate(arms) if arm.kind != "single"]
    detectable = float("nan")
    if best is not None and others:
        other = max(others, key=lambda place: intervals[place].estimate)
        detectable = detectable_difference(fold_auc[other][usable] - fold_auc[best][usable], ratio)
    return tuple(runs), best, detectable, ratio
