"""The files of an evaluation: its tables, all of it as JSON, and the page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.cohort import Cohort, write_splits
from parfocal.evaluate.page import evaluation_page
from parfocal.evaluate.primary import across_targets
from parfocal.evaluate.result import AcrossTargets, ArmRun, Calibration, EvaluateResult, TargetComparison, TargetResult
from parfocal.report import Field, Section, interval_fields, make_report, pick, write_json, write_table
from parfocal.version import __version__

__all__ = ["write_evaluation"]

Row = Mapping[str, Any]
"""What a row of a table is about, by name: a target, its result, an arm, and the like."""

_ARM = (Field("target"), Field("id", "arm.id"), Field("arm", "arm.name"), Field("pooling", "arm.pooling"))
_METRIC = Field("metric", "result.metric.name")


def _second(of: str) -> list[Field]:
    """The second numbers of all kinds of outcome."""
    names = ("balanced accuracy", "quadratic kappa", "R2", "Spearman")
    return [Field(name.lower().replace(" ", "_"), f"{of}.beside.{name}") for name in names]


def _calibration(of: str) -> list[Field]:
    parts = {"slope": "slope", "intercept": "intercept", "error": "expected_error"}
    fields = [Field(f"calibration_{name}", f"{of}.calibration.{part}") for name, part in parts.items()]
    return [*fields, Field("brier", f"{of}.calibration.brier")]


_RESULTS = (
    Field("target"),
    Field("outcome", "result.cohort.outcome.kind"),
    *_ARM[1:],
    Field("family", "arm.family"),
    Field("kind", "arm.kind"),
    _METRIC,
    *interval_fields("run.interval", "value"),
    Field("level", "run.interval.level"),
    Field("method", "run.interval.method"),
    Field("folds", "run.n_measured"),
    *interval_fields("run.against_best_single.difference", "gain", "gain_"),
    Field("p", "run.against_best_single.p_value"),
    Field("p_holm"),
    *_second("run"),
    *_calibration("run"),
    Field("seed_sd", "run.seed_sd"),
    Field("encodings_per_slide", "run.encodings_per_slide"),
    Field("instances_per_slide", "run.instances_per_slide"),
    Field("seconds", lambda row: row["run"] and round(row["run"].seconds, 3)),
    Field(
        "chosen",
        lambda row: row["run"] and "; ".join(f"{name} ({count})" for name, count in row["run"].chosen.items()),
    ),
    Field("failed"),
)
_PREDICTIONS = (
    *_ARM,
    *map(Field, ("repeat", "fold", "slide", "label", "event", "column", "score")),
)
_SUMMARY = (
    Field("comparison"),
    Field("target"),
    _METRIC,
    Field("single"),
    *interval_fields("of_single", "single_value", "single_"),
    Field("mixed"),
    *interval_fields("of_mixed", "mixed_value", "mixed_"),
    *interval_fields("difference", "difference", "difference_"),
    Field("p"),
    Field("p_holm"),
    Field("detectable_difference", "detectable"),
    Field("failed"),
)
_SUBGROUPS = (
    Field("target"),
    *(Field(name, f"group.{name}") for name in ("column", "value", "slides", "patients", "folds")),
    *_ARM[1:],
    _METRIC,
    *interval_fields("interval", "estimate"),
    Field("method", "interval.method"),
    Field("note"),
)
_CLASSES = (
    *_ARM,
    Field("class", "of.name"),
    Field("patients", "of.patients"),
    Field("folds", "of.folds"),
    *interval_fields("of.interval", "auc"),
    Field("method", "of.interval.method"),
)
_CONFUSION = (*_ARM, Field("class"), Field("called"), Field("patients"))
_EXTERNAL = (
    *_ARM,
    _METRIC,
    *interval_fields("external.interval", "value"),
    Field("level", "external.interval.level"),
    Field("method", "external.interval.method"),
    *interval_fields("external.against_best_single.difference", "gain", "gain_"),
    Field("gain_method", "external.against_best_single.difference.method"),
    Field("p", "external.against_best_single.p_value"),
    Field("p_holm"),
    *interval_fields("external.against_best_single.bootstrap", "", "bootstrap_")[1:],
    *_second("external"),
    *_calibration("external"),
)


def write_evaluation(
    results: Mapping[str, TargetResult],
    out: Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    sections: Sequence[Section] = (),
) -> EvaluateResult:
    """Write everything into `out`, each file whole or not at all, the page last.

    A table that this evaluation does not have is not left from an earlier one with other settings.
    """
    primary = across_targets(results, lambda result: result.primary)
    picked = across_targets(results, lambda result: result.picked)
    across = {name: one for name, one in (("primary", primary), ("picked", picked)) if one is not None}
    write_table(out / "results.csv", _RESULTS, _result_rows(results))
    write_table(out / "summary.csv", _SUMMARY, _summary_rows(results, across))
    write_table(out / "predictions.csv", _PREDICTIONS, _prediction_rows(results))
    write_table(out / "subgroups.csv", _SUBGROUPS, _subgroup_rows(results), keep_empty=False)
    write_table(out / "external.csv", _EXTERNAL, _external_rows(results), keep_empty=False)
    write_table(out / "classes.csv", _CLASSES, _class_rows(results), keep_empty=False)
    write_table(out / "confusion.csv", _CONFUSION, _confusion_rows(results), keep_empty=False)
    write_splits(out / "splits.csv", {target: result.splits for target, result in results.items()})
    content = {
        "parfocal_version": __version__,
        "settings": settings,
        "inputs": inputs,
        "targets": {target: _target_json(result) for target, result in results.items()},
        "across_targets": {name: _across_json(one) for name, one in across.items()},
    }
    write_json(out / "results.json", content)
    page = evaluation_page(
        results, primary=primary, picked=picked, settings=settings, seed=seed, inputs=inputs, sections=sections
    )
    report = make_report(page, out / "report.html")
    return EvaluateResult(results, report, out, inputs, settings, primary, picked)


def _arm_rows(results: Mapping[str, TargetResult]) -> Iterator[tuple[TargetResult, ArmRun, Row]]:
    """Every arm that has numbers, and what its rows in all tables have in common."""
    for target, result in results.items():
        for run in result.runs:
            yield result, run, {"target": target, "result": result, "arm": run.arm, "run": run}


def _result_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each arm and target; that of a failed one has no numbers, and the reason in its last column."""
    for target, result in results.items():
        head = {"target": target, "result": result}
        for run, p_holm in zip(result.runs, result.p_holm, strict=True):
            yield {**head, "arm": run.arm, "run": run, "p_holm": p_holm}
        for one in result.failed:
            yield {**head, "arm": one.arm, "run": None, "failed": one.reason}


def _prediction_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each arm, repeat, slide and column of the outcome: the score of the fit that had not seen it."""
    for result, run, row in _arm_rows(results):
        cohort, outcome = result.cohort, result.cohort.outcome
        names = [column.name for column in outcome.columns]
        for fold, prediction in zip(result.folds, run.predictions, strict=True):
            for slide, scores in zip(fold.test, prediction.score, strict=True):
                value = float(outcome.value[slide])
                of_slide = {
                    **row,
                    "repeat": fold.repeat,
                    "fold": fold.number,
                    "slide": cohort.slides[slide],
                    "label": outcome.classes[int(value)] if outcome.classes else f"{value:g}",
                    "event": int(outcome.event[slide]) if outcome.kind == "survival" else None,
                }
                for name, score in zip(names, scores, strict=True):
                    yield {**of_slide, "column": name, "score": f"{score:.6g}"}


def _summary_rows(results: Mapping[str, TargetResult], across: Mapping[str, AcrossTargets]) -> Iterator[Row]:
    """One row for each comparison and target, and one for the mean over targets where there are several.

    A target whose primary comparison is missing has a row without numbers, with the reason in its last column.
    """
    for name, one in across.items():
        for target in one.targets:
            result = results[target]
            pair = result.primary if name == "primary" else result.picked
            assert pair is not None, f"{target!r} has no {name} comparison"
            yield {
                "comparison": name,
                "target": target,
                "result": result,
                "single": result.label(pair.single),
                "of_single": result.runs[pair.single].interval,
                "mixed": result.label(pair.mixed),
                "of_mixed": result.runs[pair.mixed].interval,
                "difference": pair.test.difference,
                "p": pair.test.p_value,
                "p_holm": one.p_holm[target],
                "detectable": pair.detectable,
            }
        if one.difference is not None:
            yield {
                "comparison": name,
                "target": "mean over targets",
                "of_single": one.single,
                "of_mixed": one.mixed,
                "difference": one.difference,
                "p": one.signed_rank.p_value,
            }
    for target, result in results.items():
        if result.missing_primary:
            yield {"comparison": "primary", "target": target, "result": result, "failed": result.missing_primary}


def _subgroup_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each value of each column and arm; one with a note where a value is too rare."""
    for target, result in results.items():
        for group in result.subgroups:
            head = {"target": target, "result": result, "group": group}
            if group.note:
                yield {**head, "note": group.note}
            for run, interval in zip(result.runs, group.intervals, strict=True):
                if interval is not None:
                    yield {**head, "arm": run.arm, "interval": interval}


def _class_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each arm and class, where there are several without order."""
    return ({**row, "of": one} for _, run, row in _arm_rows(results) for one in run.by_class)


def _confusion_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each arm, class, and class that is called."""
    for result, run, row in _arm_rows(results):
        classes = result.cohort.outcome.classes
        for (label, called), count in np.ndenumerate(() if run.confusion is None else run.confusion):
            yield {**row, "class": classes[label], "called": classes[called], "patients": count}


def _external_rows(results: Mapping[str, TargetResult]) -> Iterator[Row]:
    """One row for each arm that was scored on the external cohort."""
    for target, result in results.items():
        for run, p_holm in zip(result.runs, result.external_p_holm, strict=True):
            if run.external is not None:
                row = {"target": target, "result": result, "arm": run.arm}
                yield {**row, "external": run.external, "p_holm": p_holm}


def _target_json(result: TargetResult) -> dict[str, Any]:
    return {
        "metric": result.metric.name,
        **_cohort_json(result.cohort),
        "notes": result.notes,
        "most_steps_chosen": result.edge_note or None,
        "test_over_train": result.test_over_train,
        "best_single": None if result.best_single is None else result.label(result.best_single),
        "primary": _comparison_json(result, result.primary),
        "missing_primary": result.missing_primary or None,
        "picked": _comparison_json(result, result.picked),
        "detectable_difference": result.detectable,
        "references": result.references,
        "external_cohort": None if result.external_cohort is None else _cohort_json(result.external_cohort),
        "subgroups": [
            {
                **pick(group, "column", "value", "slides", "folds", "note", groups="patients"),
                "arms": {result.label(place): interval for place, interval in enumerate(group.intervals)},
            }
            for group in result.subgroups
        ],
        "arms": [_run_json(run) for run in result.runs],
        "failed": [pick(one, "reason", arm="arm.name", id="arm.id", pooling="arm.pooling") for one in result.failed],
    }


def _cohort_json(cohort: Cohort) -> dict[str, Any]:
    outcome = cohort.outcome
    content = {
        **pick(cohort, "is_grouped", "notes", outcome="outcome.kind", groups="n_groups"),
        "slides": len(cohort.slides),
    }
    if outcome.classes:
        content["classes"] = {name: int((outcome.value == place).sum()) for place, name in enumerate(outcome.classes)}
    if outcome.kind == "binary":
        content |= pick(cohort, "positive", "negative") | {"positive_slides": int(cohort.is_positive.sum())}
    if outcome.kind == "survival":
        content["events"] = int(outcome.event.sum())
    return content


def _run_json(run: ArmRun) -> dict[str, Any]:
    external = run.external
    return {
        **pick(run, *_RUN, arm="arm.name", family="arm.family", value="interval", folds_with_most_steps="at_edge"),
        **pick(run.arm, "id", "pooling", "kind"),
        "against_best_single": pick(run.against_best_single, "difference", "t", "degrees_of_freedom", p="p_value"),
        "calibration": _calibration_json(run.calibration),
        "by_class": {one.name: pick(one, "patients", "folds", auc="interval") for one in run.by_class},
        "external": external
        and {
            **pick(external, "beside", value="interval"),
            "against_best_single": pick(external.against_best_single, "difference", "bootstrap", p="p_value"),
            "calibration": _calibration_json(external.calibration),
        },
    }


_RUN = (
    "fold_value", "beside", "seed_sd", "confusion", "encodings_per_slide", "instances_per_slide", "chosen", "seconds"
)  # fmt: skip


def _calibration_json(one: Calibration | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        **pick(one, "slope", "intercept", "expected_error", "brier"),
        "bins": [pick(bin, "low", "high", "n", mean="mean_prediction", share="observed") for bin in one.bins],
    }


def _comparison_json(result: TargetResult, one: TargetComparison | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "mixed": result.label(one.mixed),
        "single": result.label(one.single),
        **pick(one, difference="test.difference", p="test.p_value", detectable_difference="detectable"),
    }


def _across_json(one: AcrossTargets) -> dict[str, Any]:
    return {
        **pick(one, "targets", "p_holm", "single", "mixed", "difference"),
        "wilcoxon": pick(
            one.signed_rank,
            "rank_sum",
            p="p_value",
            smallest_possible_p="smallest_p",
            targets_without_difference="n_zero",
        ),
    }
