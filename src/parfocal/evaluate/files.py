"""The files of an evaluation: its tables, all of it as JSON, and the page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.cohort import Cohort, write_splits
from parfocal.evaluate.page import evaluation_page
from parfocal.evaluate.primary import across_targets, arm_label
from parfocal.evaluate.result import (
    AcrossTargets,
    ArmRun,
    Calibration,
    EvaluateResult,
    ExternalRun,
    Subgroup,
    TargetComparison,
    TargetResult,
)
from parfocal.evaluate.tables import (
    CLASS_COLUMNS,
    CONFUSION_COLUMNS,
    EXTERNAL_COLUMNS,
    PREDICTION_COLUMNS,
    RESULT_COLUMNS,
    SUBGROUP_COLUMNS,
    SUMMARY_COLUMNS,
    class_rows,
    confusion_rows,
    external_rows,
    prediction_rows,
    result_rows,
    subgroup_rows,
    summary_rows,
)
from parfocal.files import provenance, write_csv, writing
from parfocal.report import Section, make_report

__all__ = ["write_evaluation"]


def write_evaluation(
    results: Mapping[str, TargetResult],
    out: Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    sections: Sequence[Section] = (),
) -> EvaluateResult:
    """Write everything into `out`, each file whole or not at all, the page last."""
    primary = across_targets(results, lambda result: result.primary)
    picked = across_targets(results, lambda result: result.picked)
    across = {name: one for name, one in (("primary", primary), ("picked", picked)) if one is not None}
    write_csv(out / "results.csv", RESULT_COLUMNS, result_rows(results))
    write_csv(out / "summary.csv", SUMMARY_COLUMNS, summary_rows(results, across))
    write_csv(out / "predictions.csv", PREDICTION_COLUMNS, prediction_rows(results))
    _write_optional(out / "subgroups.csv", SUBGROUP_COLUMNS, subgroup_rows(results))
    _write_optional(out / "external.csv", EXTERNAL_COLUMNS, external_rows(results))
    _write_optional(out / "classes.csv", CLASS_COLUMNS, class_rows(results))
    _write_optional(out / "confusion.csv", CONFUSION_COLUMNS, confusion_rows(results))
    write_splits(out / "splits.csv", {target: result.splits for target, result in results.items()})
    with writing(out / "results.json") as temporary:
        content = {
            **provenance(dict(settings)),
            "settings": dict(settings),
            "inputs": dict(inputs),
            "targets": {target: _target_json(result) for target, result in results.items()},
            "across_targets": {name: _across_json(one) for name, one in across.items()},
        }
        del content["parfocal_settings"]  # `settings` holds the same, readable
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page = evaluation_page(
        results, primary=primary, picked=picked, settings=settings, seed=seed, inputs=inputs, sections=sections
    )
    report = make_report(page, out / "report.html")
    return EvaluateResult(results, report, out, inputs, settings, primary, picked)


def _write_optional(path: Path, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    """A table that not every evaluation has; one of an earlier run with other settings does not stay."""
    found = list(rows)
    path.unlink(missing_ok=True)
    if found:
        write_csv(path, columns, found)


def _target_json(result: TargetResult) -> dict[str, Any]:
    best = result.best_single
    return {
        "metric": result.metric.name,
        **_cohort_json(result.cohort),
        "notes": list(result.notes),
        "most_steps_chosen": result.edge_note or None,
        "test_over_train": result.test_over_train,
        "best_single": None if best is None else _label(result, best),
        "primary": _comparison_json(result, result.primary),
        "missing_primary": result.missing_primary or None,
        "picked": _comparison_json(result, result.picked),
        "detectable_difference": _number(result.detectable),
        "references": {
            kind: [{"label": one.label, "value": float(one.value), "is_ceiling": one.is_ceiling} for one in several]
            for kind, several in result.references.items()
        },
        "external_cohort": None if result.external_cohort is None else _cohort_json(result.external_cohort),
        "subgroups": [_subgroup_json(result, one) for one in result.subgroups],
        "arms": [_run_json(run) for run in result.runs],
        "failed": [
            {"arm": one.arm.name, "id": one.arm.id, "pooling": one.arm.pooling, "reason": one.reason}
            for one in result.failed
        ],
    }


def _cohort_json(cohort: Cohort) -> dict[str, Any]:
    outcome = cohort.outcome
    found: dict[str, Any] = {
        "outcome": outcome.kind,
        "slides": len(cohort.slides),
        "groups": cohort.n_groups,
        "is_grouped": cohort.is_grouped,
        "notes": list(cohort.notes),
    }
    if outcome.classes:
        found["classes"] = {name: int((outcome.value == place).sum()) for place, name in enumerate(outcome.classes)}
    if outcome.kind == "binary":
        found.update(positive=cohort.positive, negative=cohort.negative, positive_slides=int(cohort.is_positive.sum()))
    if outcome.kind == "survival":
        found["events"] = int(outcome.event.sum())
    return found


def _run_json(run: ArmRun) -> dict[str, Any]:
    test = run.against_best_single
    return {
        "arm": run.arm.name,
        "id": run.arm.id,
        "pooling": run.arm.pooling,
        "family": run.arm.family,
        "kind": run.arm.kind,
        "value": run.interval.to_dict(),
        "fold_value": [_number(value) for value in run.fold_value],
        "beside": {name: _number(value) for name, value in run.beside.items()},
        "against_best_single": None
        if test is None
        else {
            "difference": test.difference.to_dict(),
            "t": _number(test.t),
            "degrees_of_freedom": test.degrees_of_freedom,
            "p": _number(test.p_value),
        },
        "seed_sd": _number(run.seed_sd),
        "calibration": _calibration_json(run.calibration),
        "external": _external_json(run.external),
        "by_class": {
            one.name: {
                "patients": one.patients,
                "folds": one.folds,
                "auc": None if one.interval is None else one.interval.to_dict(),
            }
            for one in run.by_class
        },
        "confusion": None if run.confusion is None else run.confusion.tolist(),
        "encodings_per_slide": _number(run.encodings_per_slide),
        "instances_per_slide": run.instances_per_slide,
        "chosen": run.chosen,
        "folds_with_most_steps": run.at_edge,
        "seconds": run.seconds,
    }


def _external_json(one: ExternalRun | None) -> dict[str, Any] | None:
    if one is None:
        return None
    test = one.against_best_single
    return {
        "value": one.interval.to_dict(),
        "beside": {name: _number(value) for name, value in one.beside.items()},
        "against_best_single": None
        if test is None
        else {
            "difference": test.difference.to_dict(),
            "p": _number(test.p_value),
            "bootstrap": test.bootstrap.to_dict(),
        },
        "calibration": _calibration_json(one.calibration),
    }


def _calibration_json(one: Calibration | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "slope": _number(one.slope),
        "intercept": _number(one.intercept),
        "expected_error": one.expected_error,
        "brier": one.brier,
        "bins": [
            {"low": bin.low, "high": bin.high, "n": bin.n, "mean": bin.mean_prediction, "share": bin.observed.to_dict()}
            for bin in one.bins
        ],
    }


def _subgroup_json(result: TargetResult, one: Subgroup) -> dict[str, Any]:
    return {
        "column": one.column,
        "value": one.value,
        "slides": one.slides,
        "groups": one.patients,
        "folds": one.folds,
        "note": one.note,
        "arms": {
            _label(result, place): None if interval is None else interval.to_dict()
            for place, interval in enumerate(one.intervals)
        },
    }


def _comparison_json(result: TargetResult, one: TargetComparison | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "mixed": _label(result, one.mixed),
        "single": _label(result, one.single),
        "difference": one.test.difference.to_dict(),
        "p": _number(one.test.p_value),
        "detectable_difference": _number(one.detectable),
    }


def _across_json(one: AcrossTargets) -> dict[str, Any]:
    return {
        "targets": list(one.targets),
        "p_holm": {target: _number(value) for target, value in one.p_holm.items()},
        "single": None if one.single is None else one.single.to_dict(),
        "mixed": None if one.mixed is None else one.mixed.to_dict(),
        "difference": None if one.difference is None else one.difference.to_dict(),
        "wilcoxon": {
            "rank_sum": one.signed_rank.rank_sum,
            "p": one.signed_rank.p_value,
            "smallest_possible_p": one.signed_rank.smallest_p,
            "targets_without_difference": one.signed_rank.n_zero,
        },
    }


def _label(result: TargetResult, place: int) -> str:
    return arm_label([run.arm for run in result.runs], place)


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
