"""What an evaluation found: for each target, the arms with their folds, intervals and differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, Fold, Splits
from parfocal.evaluate.arm import Arm, arm_label
from parfocal.evaluate.metric import Metric
from parfocal.evaluate.split import SplitGain
from parfocal.heads import FoldPrediction, is_at_edge
from parfocal.report import Reference
from parfocal.stats import FoldTest, Interval, ReliabilityBin, SignedRankTest, Verdict, holm, verdict


@dataclass(frozen=True, eq=False)
class ArmFits:
    """What the fits of one arm on one target said and cost, before anything is measured.

    Attributes:
        predictions: one for each outer fold; with several seeds their average.
        instances_per_slide: the mean number of vectors that are pooled.
        seconds: how long its fits took.
        encodings_per_slide: the mean number of tiles that must be embedded for it; None where that is not known.
        external: scores of all slides of the external cohort, in its order, by a fit on all training slides.
        by_seed: the same folds for each single seed of the fit, where there are several.
    """

    predictions: tuple[FoldPrediction, ...]
    instances_per_slide: float
    seconds: float
    encodings_per_slide: float | None = None
    external: FoldPrediction | None = None
    by_seed: tuple[tuple[FoldPrediction, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class FailedArm:
    """An arm without a number, because a fit of it raised, gave scores that are not finite, or could not be made.

    Attributes:
        arm: which.
        reason: why, in one line.
    """

    arm: Arm
    reason: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether the probabilities of a binary arm mean what they say.

    Attributes:
        slope: of the outcome on the log odds; 1 is right, below 1 overfitted; NaN where it has no finite value.
        intercept: what the log odds lack at slope 1; 0 is right.
        expected_error: the mean distance between probability and observed share over ten bins.
        brier: the mean squared error of the probability.
        bins: the curve, each patient once.
    """

    slope: float
    intercept: float
    expected_error: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, eq=False)
class ClassResult:
    """One of several classes against all others.

    Attributes:
        name: the class.
        patients: how many groups (patients) have it.
        folds: in how many folds both it and another class are tested.
        interval: the AUC of its own score, the mean over these folds; None where they are fewer than two.
    """

    name: str
    patients: int
    folds: int
    interval: Interval | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The difference of two arms on one fixed test set: first minus second.

    Attributes:
        difference: with DeLong's paired interval, or that of the bootstrap where the outcome has more than two values.
        p_value: DeLong's, two-sided; NaN without it.
        bootstrap: the paired interval that draws patients.
    """

    difference: Interval
    p_value: float
    bootstrap: Interval


@dataclass(frozen=True, eq=False)
class ExternalRun:
    """One arm, fitted on all training slides, on the external cohort.

    Attributes:
        interval: the metric with DeLong's or the bootstrap's interval.
        beside: the second numbers.
        against_best_single: against the best single magnification of the training cohort; None for that one.
        calibration: where there are two classes.
    """

    interval: Interval
    beside: Mapping[str, float]
    against_best_single: Comparison | None
    calibration: Calibration | None


@dataclass(frozen=True, eq=False)
class ArmRun:
    """One arm on one target.

    Attributes:
        arm: what was run.
        predictions: one for each fold.
        fold_value: the metric of each fold; NaN where the fold's labels cannot be put in order.
        interval: the mean over folds that have a value, with an interval for repeated cross-validation.
        beside: the second numbers of the outcome's kind, the mean over these folds.
        against_best_single: this arm minus the best single magnification; None for that one, or without any.
        instances_per_slide: the mean number of vectors that are pooled.
        seconds: how long its fits took.
        encodings_per_slide: the mean number of tiles that must be embedded for it.
        seed_sd: the sd of the metric over seeds of the fit, patients and folds the same; None with one seed.
        calibration: of the probabilities, where there are two classes.
        external: on the external cohort, where there is one.
        by_class: each class against the rest, where there are several without order.
        confusion: patients by their class (rows) and the class they are called, where there are several.
    """

    arm: Arm
    predictions: tuple[FoldPrediction, ...]
    fold_value: Float64[np.ndarray, " fold"]
    interval: Interval
    beside: Mapping[str, float]
    against_best_single: FoldTest | None
    instances_per_slide: float
    seconds: float
    encodings_per_slide: float | None = None
    seed_sd: float | None = None
    calibration: Calibration | None = None
    external: ExternalRun | None = None
    by_class: tuple[ClassResult, ...] = ()
    confusion: Float64[np.ndarray, "label called"] | None = None

    @property
    def chosen(self) -> dict[str, int]:
        """In how many folds each candidate was chosen, the most frequent first."""
        return dict(Counter(one.chosen for one in self.predictions).most_common())

    @property
    def all_chosen(self) -> str:
        """The same in one line."""
        return self.most_chosen(len(self.predictions))

    def most_chosen(self, most: int) -> str:
        """The first of them in one line."""
        return "; ".join(f"{name} ({count})" for name, count in list(self.chosen.items())[:most])

    @property
    def n_measured(self) -> int:
        """How many folds have a value."""
        return int(np.isfinite(self.fold_value).sum())

    @property
    def at_edge(self) -> int:
        """In how many folds a network trained best with the most steps it was offered."""
        return sum(is_at_edge(one.chosen) for one in self.predictions)


@dataclass(frozen=True, eq=False)
class Subgroup:
    """The arms among the patients that have one value of a column, such as one cancer type or scanner.

    Attributes:
        column: its name.
        value: the value.
        slides: how many slides have it.
        patients: how many groups (patients).
        folds: in how many folds the metric could be measured.
        intervals: of each arm, in the order of the table; None where fewer than two folds could be measured.
        note: why there is no number; empty where there is.
    """

    column: str
    value: str
    slides: int
    patients: int
    folds: int
    intervals: tuple[Interval | None, ...]
    note: str = ""


@dataclass(frozen=True, eq=False)
class TargetComparison:
    """A mixed arm against a single magnification on one target.

    Attributes:
        mixed: its place among the arms.
        single: the place of the single magnification.
        test: mixed minus single over the folds.
        detectable: the difference that this cohort would have shown with 80 % power; NaN where that is not known.
    """

    mixed: int
    single: int
    test: FoldTest
    detectable: float


@dataclass(frozen=True, eq=False)
class TargetResult:
    """All arms on one target.

    Attributes:
        cohort: slides and labels.
        splits: who was tested when.
        folds: the same with the inner folds.
        metric: what compares arms.
        runs: the arms that have a number, in the order of the table.
        best_single: place in `runs` of the single magnification with the highest metric; None without any.
        primary: the comparison that was named before looking; None where there is no mixed arm or no single one.
        picked: the best arm that mixes against the best single magnification, both picked after looking.
        detectable: the difference between the best arm that reads several magnifications and the best single one that
            this cohort would have shown with 80 % power; NaN where that is not known.
        test_over_train: size of a test fold over its training set.
        subgroups: results by a column.
        external_cohort: slides and labels that no fit has seen.
        references: numbers to print beside arms, by their kind.
        notes: what was dropped or is remarkable.
        failed: the arms that have no number; they take part in no comparison.
        missing_primary: why there is no primary comparison although one was named, in a sentence; else empty.
        gains: how the gain over the finest magnification is split, by the name of the set of tiles (empty where there
            is one); empty where the arms were not asked for, or one failed.
    """

    cohort: Cohort
    splits: Splits
    folds: tuple[Fold, ...]
    metric: Metric
    runs: tuple[ArmRun, ...]
    best_single: int | None
    primary: TargetComparison | None
    picked: TargetComparison | None
    detectable: float
    test_over_train: float
    subgroups: tuple[Subgroup, ...] = ()
    external_cohort: Cohort | None = None
    references: Mapping[str, Sequence[Reference]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failed: tuple[FailedArm, ...] = ()
    missing_primary: str = ""
    gains: Mapping[str, SplitGain] = field(default_factory=dict)

    def label(self, place: int) -> str:
        """What an arm is called in the table of this target."""
        return arm_label([run.arm for run in self.runs], place)

    @property
    def p_holm(self) -> list[float]:
        """The p-value of each arm against the best single magnification, corrected for all; NaN without a test."""
        return _corrected([run.against_best_single for run in self.runs])

    @property
    def external_p_holm(self) -> list[float]:
        """The same on the external cohort."""
        return _corrected([None if run.external is None else run.external.against_best_single for run in self.runs])

    @property
    def edge_note(self) -> str:
        """Which networks might have done better with more training than they were offered; empty where none."""
        edges = [
            f"{run.arm.name}: {run.arm.pooling} ({run.at_edge} of {len(run.predictions)} folds)"
            for run in self.runs
            if run.at_edge
        ]
        if not edges:
            return ""
        return (
            "Chose the most training steps that were offered, so that more might have done better: "
            f"{'; '.join(edges)}. Raise growth (--growth, probes.growth) or the steps of these networks."
        )


def _corrected(tests: Sequence[FoldTest | Comparison | None]) -> list[float]:
    adjusted = holm(np.array([float("nan") if test is None else test.p_value for test in tests]))
    return [float(p_value) for p_value in adjusted]


@dataclass(frozen=True, eq=False)
class AcrossTargets:
    """One comparison over all targets that have it.

    Attributes:
        targets: their names.
        p_holm: the p-value of each after Holm's correction for the number of targets.
        shown: what each shows of the mixed arm, by its interval and that p-value.
        ahead: for how many targets the mixed arm has the higher number, shown or not.
        single: the mean of the single magnification's metric; the interval takes targets as drawn, and has no ends with
            few of them; None with one.
        mixed: the same for the mixed arm.
        difference: the same for their difference.
        signed_rank: Wilcoxon's test of the differences; its p-value is NaN with few targets.
    """

    targets: tuple[str, ...]
    p_holm: Mapping[str, float]
    shown: Mapping[str, Verdict]
    ahead: int
    single: Interval | None
    mixed: Interval | None
    difference: Interval | None
    signed_rank: SignedRankTest

    @property
    def shown_on_average(self) -> Verdict:
        """What the mean over targets shows; open with few of them."""
        return "open" if self.difference is None else verdict(self.difference, self.signed_rank.p_value)


@dataclass(frozen=True, eq=False)
class EvaluateResult:
    """What `evaluate` found and where it wrote it.

    Attributes:
        targets: the results by target.
        report: the HTML page.
        out: the folder with the tables, results.json, predictions.csv and splits.csv.
        inputs: the digests of sets and labels, by name.
        settings: everything that made the results.
        answer: what was asked, in one sentence.
        sentences: how the gain is split into context and magnification; none where that was not measured.
        primary: the comparison named before looking, over all targets; None where no target has it.
        picked: the best against the best, picked after looking, over all targets.
    """

    targets: Mapping[str, TargetResult]
    report: Path
    out: Path
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    answer: str
    sentences: tuple[str, ...] = ()
    primary: AcrossTargets | None = None
    picked: AcrossTargets | None = None

    @property
    def exit_status(self) -> int:
        """0 when all arms have a number for every target, 3 when some do not."""
        return 3 if any(one.failed for one in self.targets.values()) else 0
