"""The files of an evaluation: its tables, all of it as JSON, and the page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.cohort import Cohort, write_splits
from parfocal.evaluate.compare import across_targets
from parfocal.evaluate.page import evaluation_page
from parfocal.evaluate.page_answer import answer_sentence
from parfocal.evaluate.page_split import split_sentences
from parfocal.evaluate.result import AcrossTargets, ArmRun, Calibration, EvaluateResult, TargetComparison, TargetResult
from parfocal.report import Field, Section, columns, interval_columns, make_report, pick, write_json, write_table
from parfocal.version import __version__

Row = Mapping[str, Any]
"""What a row of a table is about, by name: a target, its result, an arm, and the like."""

_ARM = columns("id", of="arm", arm="name", pooling="pooling")
_METRIC = columns(metric="result.metric.name")
_SECOND = {
    "balanced_accuracy": "balanced accuracy",
    "quadratic_kappa": "quadratic kappa",
    "r2": "R2",
    "spearman": "Spearman",
}
_CALIBRATION = {"slope": "slope", "intercept": "intercept", "error": "expected_error"}


def _measured(of: str) -> list[Field]:
    """The second numbers of all kinds of outcome, and the calibration."""
    return [
        *columns(of=f"{of}.beside", **_SECOND),
        *columns(of=f"{of}.calibration", **{f"calibration_{name}": path for name, path in _CALIBRATION.items()}),
        *columns("brier", of=f"{of}.calibration"),
    ]


_RESULTS = (
    *columns("target", outcome="result.cohort.outcome.kind"),
    *_ARM,
    *columns("family", "kind", of="arm"),
    *_METRIC,
    *interval_columns("run.interval", "value"),
    *columns("level", "method", of="run.interval"),
    *columns(folds="run.n_measured"),
    *interval_columns("run.against_best_single.difference", "gain", "gain_"),
    *columns(p="run.against_best_single.p_value", p_holm="p_holm"),
    *_measured("run"),
    *columns("seed_sd", "encodings_per_slide", "instances_per_slide", of="run"),
    Field("seconds", lambda row: row["run"] and round(row["run"].seconds, 3)),
    *columns(chosen="run.all_chosen"),
    *columns("failed"),
)
_PREDICTIONS = (
    *columns("target"),
    *_ARM,
    *columns("repeat", "fold", "slide", "label", "event", "column", "score"),
)
_SUMMARY = (
    *columns("comparison", "target"),
    *_METRIC,
    *columns("single"),
    *interval_columns("of_single", "single_value", "single_"),
    *columns("mixed"),
    *interval_columns("of_mixed", "mixed_value", "mixed_"),
    *interval_columns("difference", "difference", "difference_"),
    *columns("p", "p_holm", "detectable_difference", "failed"),
)
_SUBGROUPS = (
    *columns("target"),
    *columns("column", "value", "slides", "patients", "folds", of="group"),
    *_ARM,
    *_METRIC,
    *interval_columns("interval", "estimate"),
    *columns("method", of="interval"),
    *columns("note"),
)
_CLASSES = (
    *columns("target"),
    *_ARM,
    *columns(of="class", **{"class": "name", "patients": "patients", "folds": "folds"}),
    *interval_columns("class.interval", "auc"),
    *columns("method", of="class.interval"),
)
_CONFUSION = (*columns("target"), *_ARM, *columns("class", "called", "patients"))
_EXTERNAL = (
    *columns("target"),
    *_ARM,
    *_METRIC,
    *interval_columns("external.interval", "value"),
    *columns("level", "method", of="external.interval"),
    *interval_columns("external.against_best_single.difference", "gain", "gain_"),
    *columns(gain_method="difference.method", p="p_value", of="external.against_best_single"),
    *columns("p_holm"),
    *columns(bootstrap_low="low", bootstrap_high="high", of="external.against_best_single.bootstrap"),
    *_measured("external"),
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
    answer, sentences = answer_sentence(results, primary), split_sentences(results)
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
        "answer": answer,
        "sentences": sentences,
        "targets": {target: _target_json(result) for target, result in results.items()},
        "across_targets": {name: _across_json(one) for name, one in across.items()},
    }
    write_json(out / "results.json", content)
    page = evaluation_page(
        results,
        answer=answer,
        split=sentences,
        primary=primary,
        picked=picked,
        settings=settings,
        seed=seed,
        inputs=inputs,
        sections=sections,
    )
    report = make_report(page, out / "report.html")
    return EvaluateResult(results, report, out, inputs, settings, answer, sentences, primary, picked)


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
                "detectable_difference": pair.detectable,
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
    return ({**row, "class": one} for _, run, row in _arm_rows(results) for one in run.by_class)


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
        "gains": dict(result.gains),
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
        **pick(one, "targets", "p_holm", "shown", "ahead", "single", "mixed", "difference"),
        "wilcoxon": pick(
            one.signed_rank,
            "rank_sum",
            p="p_value",
            smallest_possible_p="smallest_p",
            targets_without_difference="n_zero",
        ),
    }
