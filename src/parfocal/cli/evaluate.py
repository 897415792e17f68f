"""`parfocal evaluate`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_table
from parfocal.errors import ConfigError
from parfocal.report import show_interval
from parfocal.studies import EvaluateResult, EvaluateSettings
from parfocal.studies import evaluate as run_evaluate

__all__ = ["evaluate", "run"]

_SETTINGS = EvaluateSettings()


def evaluate(
    stores: Positional[tuple[Path, ...]],
    labels: Path,
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")],
    output: Output,
    group: str | None = None,
    positive: str | None = None,
    splits: Path | None = None,
    settings: EvaluateSettings = _SETTINGS,
) -> int:
    """Compare magnifications, mixtures and poolings on a labelled cohort.

    STORES hold tile embeddings, region embeddings, or both. Every arm is fitted on the same patient-grouped folds with
    the same choices; the table has each arm's AUC with an interval that is right for repeated cross-validation.

    Example:
        parfocal evaluate store regions --labels labels.csv --target msi --group patient -o report

    Args:
        stores: stores, or folders of single sets.
        labels: a CSV with a column slide, the targets and the group.
        target: columns with two classes.
        output: the folder of the report and its tables.
        group: column of what must stay in one fold, such as patient; without it slides count as independent.
        positive: the class that counts as positive, where it is not the later of two.
        splits: folds of an earlier run, to use again (its splits.csv).
        settings: folds, repeats, and what arms choose among.
    """
    if not stores:
        raise ConfigError(
            "no store is named: parfocal evaluate store regions --labels labels.csv --target msi -o report"
        )
    if group is None:
        print("no --group is named: slides count as independent patients", file=sys.stderr)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("arms", total=None)
        result = run_evaluate(
            stores,
            labels,
            target,
            output,
            settings,
            group=group,
            positive=positive,
            splits=splits,
            progress=lambda done, total, arm: bars.update(task, completed=done, total=total, description=arm),
        )
    print_table(_table(result))
    print(f"report: {result.report}", file=sys.stderr)
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("evaluate", evaluate, argv)


def _table(result: EvaluateResult) -> Table:
    table = Table()
    table.add_column("target")
    table.add_column("arm", overflow="fold")
    table.add_column("pooling", overflow="fold")
    table.add_column("AUC", justify="right")
    table.add_column("95 % interval", justify="right")
    for target, one in result.targets.items():
        for arm in one.runs:
            interval = arm.interval
            table.add_row(target, arm.arm.name, arm.arm.pooling, f"{interval.estimate:.2f}", show_interval(interval))
        table.add_section()
    return table
