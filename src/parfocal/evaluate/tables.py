"""The rows of the CSV files of an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.evaluate.primary import arm_label
from parfocal.evaluate.result import AcrossTargets, ArmRun, Calibration, TargetComparison, TargetResult
from parfocal.stats import Interval, holm

__all__ = [
    "CLASS_COLUMNS",
    "CONFUSION_COLUMNS",
    "EXTERNAL_COLUMNS",
    "PREDICTION_COLUMNS",
    "RESULT_COLUMNS",
    "SUBGROUP_COLUMNS",
    "SUMMARY_COLUMNS",
    "class_rows",
    "confusion_rows",
    "external_rows",
    "prediction_rows",
    "result_rows",
    "subgroup_rows",
    "summary_rows",
]

_SECOND = ("balanced accuracy", "quadratic kappa", "R2", "Spearman")
_SECOND_COLUMNS = ("balanced_accuracy", "quadratic_kappa", "r2", "spearman")
_CALIBRATION_COLUMNS = ("calibration_slope", "calibration_intercept", "calibration_error", "brier")

RESULT_COLUMNS = (
    "target", "outcome", "id", "arm", "pooling", "family", "kind", "metric", "value", "low", "high", "level", "method",
    "folds", "gain", "gain_low", "gain_high", "p", "p_holm", *_SECOND_COLUMNS, *_CALIBRATION_COLUMNS, "seed_sd",
    "encodings_per_slide", "instances_per_slide", "seconds", "chosen", "failed",
)  # fmt: skip
PREDICTION_COLUMNS = (
    "target", "id", "arm", "pooling", "repeat", "fold", "slide", "label", "event", "column", "score",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "comparison", "target", "metric", "single", "single_value", "single_low", "single_high", "mixed", "mixed_value",
    "mixed_low", "mixed_high", "difference", "difference_low", "difference_high", "p", "p_holm",
    "detectable_difference", "failed",
)  # fmt: skip
SUBGROUP_COLUMNS = (
    "target", "column", "value", "slides", "patients", "folds", "id", "arm", "pooling", "metric", "estimate", "low",
    "high", "method", "note",
)  # fmt: skip
CLASS_COLUMNS = (
    "target", "id", "arm", "pooling", "class", "patients", "folds", "auc", "low", "high", "method",
)  # fmt: skip
CONFUSION_COLUMNS = ("target", "id", "arm", "pooling", "class", "called", "patients")
EXTERNAL_COLUMNS = (
    "target", "id", "arm", "pooling", "metric", "value", "low", "high", "level", "method", "gain", "gain_low",
    "gain_high", "gain_method", "p", "p_holm", "bootstrap_low", "bootstrap_high", *_SECOND_COLUMNS,
    *_CALIBRATION_COLUMNS,
)  # fmt: skip


def result_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each arm and target; that of a failed one has no numbers, and the reason in its last column."""
    for target, result in results.items():
        tests = [run.against_best_single for run in result.runs]
        adjusted = holm(np.array([float("nan") if test is None else test.p_value for test in tests]))
        for run, test, p_holm in zip(result.runs, tests, adjusted, strict=True):
            gain: list[Any] = [""] * 5
            if test is not None:
                gain = [*_ends(test.difference), _cell(test.p_value), _cell(p_holm)]
            chosen = "; ".join(f"{name} ({count})" for name, count in run.chosen.items())
            yield [
                target, result.cohort.outcome.kind, run.arm.id, run.arm.name, run.arm.pooling, run.arm.family,
                run.arm.kind, result.metric.name, *_ends(run.interval), run.interval.level, run.interval.method,
                int(np.isfinite(run.fold_value).sum()), *gain, *_second(run.beside), *_calibration(run.calibration),
                _cell(run.seed_sd), _cell(run.encodings_per_slide), run.instances_per_slide, round(run.seconds, 3),
                chosen, "",
            ]  # fmt: skip
        for one in result.failed:
            head = [
                target, result.cohort.outcome.kind, one.arm.id, one.arm.name, one.arm.pooling, one.arm.family,
                one.arm.kind, result.metric.name,
            ]  # fmt: skip
            yield [*head, *[""] * (len(RESULT_COLUMNS) - len(head) - 1), one.reason]


def prediction_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each arm, repeat, slide and column of the outcome: the score of the fit that had not seen it."""
    for target, result in results.items():
        cohort, outcome = result.cohort, result.cohort.outcome
        names = [column.name for column in outcome.columns]
        for run in result.runs:
            for fold, prediction in zip(result.folds, run.predictions, strict=True):
                for slide, scores in zip(fold.test, prediction.score, strict=True):
                    value = float(outcome.value[slide])
                    label = outcome.classes[int(value)] if outcome.classes else f"{value:g}"
                    event = int(outcome.event[slide]) if outcome.kind == "survival" else ""
                    for name, score in zip(names, scores, strict=True):
                        yield [
                            target, run.arm.id, run.arm.name, run.arm.pooling, fold.repeat, fold.number,
                            cohort.slides[slide], label, event, name, f"{score:.6g}",
                        ]  # fmt: skip


def summary_rows(results: Mapping[str, TargetResult], across: Mapping[str, AcrossTargets]) -> Iterator[Sequence[Any]]:
    """One row for each comparison and target, and one for the mean over targets where there are several.

    A target whose primary comparison is missing has a row without numbers, with the reason in its last column.
    """
    for name, one in across.items():
        for target in one.targets:
            result = results[target]
            found = _comparison(result, name)
            single, mixed = result.runs[found.single], result.runs[found.mixed]
            arms = [run.arm for run in result.runs]
            yield [
                name, target, result.metric.name, arm_label(arms, found.single), *_ends(single.interval),
                arm_label(arms, found.mixed), *_ends(mixed.interval), *_ends(found.test.difference),
                _cell(found.test.p_value), _cell(one.p_holm[target]), _cell(found.detectable), "",
            ]  # fmt: skip
        if one.single is not None and one.mixed is not None and one.difference is not None:
            yield [
                name, "mean over targets", "", "", *_ends(one.single), "", *_ends(one.mixed), *_ends(one.difference),
                one.signed_rank.p_value, "", "", "",
            ]  # fmt: skip
    for target, result in results.items():
        if result.missing_primary:
            head = ["primary", target, result.metric.name]
            yield [*head, *[""] * (len(SUMMARY_COLUMNS) - len(head) - 1), result.missing_primary]


def subgroup_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each value of each column and arm; one with a note where a value is too rare."""
    for target, result in results.items():
        for group in result.subgroups:
            head = [target, group.column, group.value, group.slides, group.patients, group.folds]
            if group.note:
                yield [*head, "", "", "", result.metric.name, "", "", "", "", group.note]
            for run, interval in zip(result.runs, group.intervals, strict=True):
                if interval is not None:
                    numbers = [*_ends(interval), interval.method, ""]
                    yield [*head, run.arm.id, run.arm.name, run.arm.pooling, result.metric.name, *numbers]


def class_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each arm and class, where there are several without order."""
    for target, result in results.items():
        for run in result.runs:
            for one in run.by_class:
                numbers = ["", "", "", ""] if one.interval is None else [*_ends(one.interval), one.interval.method]
                yield [target, run.arm.id, run.arm.name, run.arm.pooling, one.name, one.patients, one.folds, *numbers]


def confusion_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each arm, class, and class that is called."""
    for target, result in results.items():
        classes = result.cohort.outcome.classes
        for run in result.runs:
            if run.confusion is not None:
                for label, row in zip(classes, run.confusion, strict=True):
                    for called, count in zip(classes, row, strict=True):
                        yield [target, run.arm.id, run.arm.name, run.arm.pooling, label, called, float(count)]


def external_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    """One row for each arm that was scored on the external cohort."""
    for target, result in results.items():
        adjusted = external_holm(result.runs)
        for run, p_holm in zip(result.runs, adjusted, strict=True):
            if run.external is None:
                continue
            own, test = run.external, run.external.against_best_single
            gain: list[Any] = [""] * 8
            if test is not None:
                gain = [
                    *_ends(test.difference), test.difference.method, _cell(test.p_value), _cell(p_holm),
                    test.bootstrap.low, test.bootstrap.high,
                ]  # fmt: skip
            yield [
                target, run.arm.id, run.arm.name, run.arm.pooling, result.metric.name, *_ends(own.interval),
                own.interval.level, own.interval.method, *gain, *_second(own.beside), *_calibration(own.calibration),
            ]  # fmt: skip


def external_holm(runs: Sequence[ArmRun]) -> list[float]:
    """The corrected p-value of each arm on the external cohort; NaN where there is none."""
    tests = [None if run.external is None else run.external.against_best_single for run in runs]
    adjusted = holm(np.array([float("nan") if test is None else test.p_value for test in tests]))
    return [float(one) for one in adjusted]


def _comparison(result: TargetResult, name: str) -> TargetComparison:
    found = result.primary if name == "primary" else result.picked
    if found is None:
        raise ValueError(f"{result.cohort.target!r} has no {name} comparison")
    return found


def _ends(interval: Interval) -> list[float | int]:
    return [interval.estimate, interval.low, interval.high]


def _second(beside: Mapping[str, float]) -> list[Any]:
    return [_cell(beside.get(name)) for name in _SECOND]


def _calibration(one: Calibration | None) -> list[Any]:
    if one is None:
        return [""] * 4
    return [_cell(one.slope), _cell(one.intercept), one.expected_error, one.brier]


def _cell(value: float | None) -> float | str:
    """A number, or nothing where it has no value."""
    return "" if value is None or not np.isfinite(value) else float(value)
