"""`parfocal evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_table
from parfocal.cli.lines import tell
from parfocal.cohort import AskedKind, CountedBy, Target
from parfocal.errors import ConfigError
from parfocal.evaluate import EvaluateResult, EvaluateSettings
from parfocal.evaluate import evaluate_arms as run_evaluate
from parfocal.report import show_interval
from parfocal.run.progress import Bars

__all__ = ["evaluate", "run"]

_SETTINGS = EvaluateSettings()


def evaluate(
    stores: Positional[tuple[Path, ...]],
    labels: Path,
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")],
    output: Output,
    slide_column: str = "slide",
    patient_of: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None,
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    not_missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    group: str | None = None,
    site: str | None = None,
    by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")] = (),
    kind: AskedKind = "auto",
    positive: str | None = None,
    event: str | None = None,
    order: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS...")] = (),
    count: CountedBy = "group",
    models: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER...")] = (),
    splits: Path | None = None,
    test: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="STORE...")] = (),
    test_labels: Path | None = None,
    settings: EvaluateSettings = _SETTINGS,
) -> int:
    """Compare magnifications, mixtures and poolings on a labelled cohort.

    STORES hold tile embeddings, region embeddings, or both. Every arm is fitted on the same patient-grouped folds and
    chooses inside them; the table has each arm's AUC (concordance for numbers, ordered classes and times) with a 95 %
    interval for what such fits reach on new patients. It counts other patients to be scored and to be fitted on, and
    held in 95 to 99 % of drawn cohorts of 40 and 100 patients (docs/evaluate.md). An arm that fails is in the table
    with its reason, and the exit status is 3.

    Example:
        parfocal evaluate store regions --labels labels.csv --target msi --group patient -o report

    Args:
        stores: stores, or folders of single sets.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the targets and the group.
        target: columns to predict: classes, ordered classes, numbers, or times with --event.
        output: the folder of the report and its tables.
        slide_column: column of the slide's id.
        patient_of: a regular expression whose match in a slide's id is its patient, such as TCGA-..-....; then a row of
            the labels may be a patient.
        missing: words that stand for a missing value beside the usual ones, such as NA, unknown and Not Reported.
        not_missing: words that are values, such as none, although they are usual for a missing one.
        group: column of what must stay in one fold, such as patient; without it slides are taken as independent.
        site: column of the site a slide comes from, for --scheme site-preserved and leave-one-site-out.
        by: columns by which results are shown too, such as cancer_type or scanner.
        kind: what the targets are; auto sees it from the values, and takes classes for unordered.
        positive: the class that counts as positive, against all others, where it is not the later of two.
        event: column that is 1 where the target is the time of an event, 0 where that of censoring: survival.
        order: classes of an ordinal target from low to high; numbers need none.
        count: what a metric counts once: a group's slides with the same label, or every slide.
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
    if group is None and patient_of is None:
        tell("no --group is named: slides are taken as independent")
    with Bars() as bars:
        result = run_evaluate(
            stores,
            labels,
            [Target(one, kind, positive, event, order) for one in target],
            output,
            settings,
            group=group,
            site=site,
            by=by,
            slide=slide_column,
            patient_of=patient_of,
            missing=missing,
            not_missing=not_missing,
            count=count,
            models=models,
            splits=splits,
            test=test,
            test_labels=test_labels,
            on_event=bars,
        )
    print_table(_table(result))
    for name, one in result.targets.items():
        if one.edge_note:
            tell(f"{name}: {one.edge_note}")
    tell(f"report: {result.report}")
    return result.exit_status


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("evaluate", evaluate, argv)


def _table(result: EvaluateResult) -> Table:
    table = Table()
    table.add_column("target")
    table.add_column("arm", overflow="fold")
    table.add_column("pooling", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for target, one in result.targets.items():
        for arm in one.runs:
            interval = arm.interval
            value, shown = f"{interval.estimate:.2f}", show_interval(interval)
            table.add_row(target, arm.arm.name, arm.arm.pooling, one.metric.name, value, shown)
        for failed in one.failed:
            table.add_row(target, failed.arm.name, failed.arm.pooling, one.metric.name, "failed", failed.reason)
        table.add_section()
    return table
