"""The files of an evaluation: results, predictions and splits as tables, all of it as JSON, and the page."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.cohort import write_splits
from parfocal.provenance import provenance, writing
from parfocal.report import Section, make_report
from parfocal.report.statistics import holm
from parfocal.studies.evaluation.result import ArmRun, EvaluateResult, TargetResult
from parfocal.studies.evaluation.page import evaluation_page

__all__ = ["write_evaluation"]

_RESULT_COLUMNS = (
    "target", "arm", "pooling", "family", "kind", "auc", "low", "high", "level", "method", "folds",
    "gain", "gain_low", "gain_high", "p", "p_holm", "instances_per_slide", "seconds", "chosen",
)  # fmt: skip


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
    _write_table(out / "results.csv", _RESULT_COLUMNS, _result_rows(results))
    _write_table(
        out / "predictions.csv",
        ("target", "arm", "pooling", "repeat", "fold", "slide", "is_positive", "logit"),
        _prediction_rows(results),
    )
    write_splits(out / "splits.csv", {target: result.splits for target, result in results.items()})
    with writing(out / "results.json") as temporary:
        content = {
            **provenance(dict(settings)),
            "settings": dict(settings),
            "inputs": dict(inputs),
            "targets": {target: _target_json(result) for target, result in results.items()},
        }
        del content["parfocal_settings"]  # `settings` holds the same, readable
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page = evaluation_page(results, settings=settings, seed=seed, inputs=inputs, sections=sections)
    return EvaluateResult(results, make_report(page, out / "report.html"), out, inputs, settings)


def _write_table(path: Path, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


def _result_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    for target, result in results.items():
        compared = [run for run in result.runs if run.against_best_single is not None]
        adjusted = holm(np.array([_p_value(run) for run in compared]))
        by_arm = {run.arm.label: float(value) for run, value in zip(compared, adjusted, strict=True)}
        for run in result.runs:
            test, auc = run.against_best_single, run.interval
            gain: list[Any] = [""] * 5
            if test is not None:
                difference = test.difference
                gain = [difference.estimate, difference.low, difference.high, test.p_value, by_arm[run.arm.label]]
            chosen = "; ".join(f"{name} ({count})" for name, count in run.chosen.items())
            yield [
                target, run.arm.name, run.arm.pooling, run.arm.family, run.arm.kind,
                auc.estimate, auc.low, auc.high, auc.level, auc.method, int(np.isfinite(run.fold_auc).sum()),
                *gain, run.instances_per_slide, round(run.seconds, 3), chosen,
            ]  # fmt: skip


def _prediction_rows(results: Mapping[str, TargetResult]) -> Iterator[Sequence[Any]]:
    for target, result in results.items():
        cohort = result.cohort
        for run in result.runs:
            for fold, prediction in zip(result.folds, run.predictions, strict=True):
                for slide, logit in zip(fold.test, prediction.score[:, 0], strict=True):
                    yield [
                        target, run.arm.name, run.arm.pooling, fold.repeat, fold.number,
                        cohort.slides[slide], int(cohort.is_positive[slide]), f"{logit:.6g}",
                    ]  # fmt: skip


def _target_json(result: TargetResult) -> dict[str, Any]:
    cohort = result.cohort
    best = result.best_single
    return {
        "positive": cohort.positive,
        "negative": cohort.negative,
        "slides": len(cohort.slides),
        "positive_slides": int(cohort.is_positive.sum()),
        "groups": len(set(cohort.groups)),
        "test_over_train": result.test_over_train,
        "best_single": None if best is None else result.runs[best].arm.label,
        "detectable_difference": _number(result.detectable),
        "references": {
            kind: [{"label": one.label, "value": float(one.value), "is_ceiling": one.is_ceiling} for one in several]
            for kind, several in result.references.items()
        },
        "notes": list(result.notes),
        "arms": [_run_json(run) for run in result.runs],
    }


def _run_json(run: ArmRun) -> dict[str, Any]:
    test = run.against_best_single
    return {
        "arm": run.arm.name,
        "pooling": run.arm.pooling,
        "family": run.arm.family,
        "kind": run.arm.kind,
        "auc": run.interval.to_dict(),
        "fold_auc": [_number(value) for value in run.fold_auc],
        "against_best_single": None
        if test is None
        else {
            "difference": test.difference.to_dict(),
            "t": _number(test.t),
            "degrees_of_freedom": test.degrees_of_freedom,
            "p": _number(test.p_value),
        },
        "instances_per_slide": run.instances_per_slide,
        "chosen": run.chosen,
        "seconds": run.seconds,
    }


def _p_value(run: ArmRun) -> float:
    return float("nan") if run.against_best_single is None else run.against_best_single.p_value


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
