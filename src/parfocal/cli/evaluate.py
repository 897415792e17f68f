"""`parfocal evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.cli.lines import tell
from parfocal.cohort import CohortColumns, Target, TargetSettings
from parfocal.errors import ConfigError
from parfocal.evaluate import EvaluateResult, EvaluateSettings, evaluate_arms
from parfocal.report import Field, show_interval, terminal_table
from parfocal.run.progress import Bars

_TARGET, _COLUMNS, _SETTINGS = TargetSettings(), CohortColumns(), EvaluateSettings()


def evaluate(
    stores: Positional[tuple[Path, ...]],
    labels: Path,
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")],
    output: Output,
    holds: TargetSettings = _TARGET,
    columns: CohortColumns = _COLUMNS,
    models: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER...")] = (),
    splits: Path | None = None,
    test: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="STORE...")] = (),
    test_labels: Path | None = None,
    settings: EvaluateSettings = _SETTINGS,
) -> Answer:
    """Compare magnifications, mixtures and poolings on a labelled cohort.

    STORES hold tile embeddings, region embeddings, or both. Every arm is fitted on the same patient-grouped folds and
    chooses inside them; the table has each arm's AUC (concordance for numbers, ordered classes and times) with a 95 %
    interval for what such fits reach on new patients. It counts other patients to be scored and to be fitted on. For
    two classes and linear models it held in 95 to 99 % of drawn cohorts of 40 and 100 patients; for other targets and
    networks that was not measured (docs/evaluate.md). An arm that fails is in the table with its reason, and the exit
    status is 3.

    Example:
        parfocal evaluate store regions --labels labels.csv --target msi --group patient -o report

    Args:
        stores: stores, or folders of single sets.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the targets and the group.
        target: columns to predict: classes, ordered classes, numbers, or times with --event.
        output: the folder of the report and its tables.
        holds: what the targets hold.
        columns: the other columns of the labels.
        models: region encoders that are trained on in every fold, from tile embeddings; slow.
        splits: folds of an earlier run, to use again (its splits.csv).
        test: stores of an external cohort, made as STORES; arms are tested on it after a fit on all slides of STORES.
        test_labels: the labels of the external cohort, in the same columns.
        settings: folds, repeats, and what arms choose among.
    """
    if not stores:
        raise ConfigError(
            "no store is named: parfocal evaluate store regions --labels labels.csv --target msi -o report"
        )
    if columns.group is None and columns.patient_of is None:
        tell("no --group is named: slides are taken as independent")
    with Bars() as bars:
        result = evaluate_arms(
            stores,
            labels,
            [Target(name=name, **dict(holds)) for name in target],
            output,
            settings,
            columns=columns,
            models=models,
            splits=splits,
            test=test,
            test_labels=test_labels,
            on_event=bars,
        )
    notes = [f"{name}: {one.edge_note}" for name, one in result.targets.items() if one.edge_note]
    written = json.loads((result.out / "results.json").read_text(encoding="utf-8"))
    return Answer(written, (_table(result),), (*notes, f"report: {result.report}"), result.exit_status)


_SHOWN = (
    Field("target"),
    Field("arm", "arm.name"),
    Field("pooling", "arm.pooling"),
    Field("metric"),
    Field("value", "interval.estimate", show=".2f", missing="failed"),
    Field("95 % interval", lambda row: show_interval(row["interval"]) if "interval" in row else row["failed"]),
)


def _table(result: EvaluateResult) -> Table:
    rows: list[dict[str, object]] = []
    for target, one in result.targets.items():
        head = {"target": target, "metric": one.metric.name}
        rows += [{**head, "arm": run.arm, "interval": run.interval} for run in one.runs]
        rows += [{**head, "arm": failed.arm, "failed": failed.reason} for failed in one.failed]
    return terminal_table(_SHOWN, rows, by="target")
