"""`parfocal explore`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_table
from parfocal.cli.lines import tell
from parfocal.lab.explore.page import show
from parfocal.lab.explore.run import ExploreResult, ExploreSettings
from parfocal.lab.explore.run import explore_designs as run_explore
from parfocal.run.progress import Bars

__all__ = ["explore", "run"]

_SETTINGS = ExploreSettings()


def explore(
    design: Positional[Path],
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    target: str | None = None,
    slide_column: str = "slide",
    patient_of: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None,
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    not_missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    group: str | None = None,
    positive: str | None = None,
    settings: ExploreSettings = _SETTINGS,
) -> int:
    """Pretrain every cell of DESIGN on STORE, score all by one protocol, and rank them.

    DESIGN is a YAML file with axes, their values and seeds. Each cell is scored by how well hidden tiles of held-out
    slides are predicted from it and, with labels, by what slide classifiers get out of it. What is done is kept, a
    cell that fails is recorded and the rest goes on, and the same call continues a run that was stopped.

    Example:
        parfocal explore studies/design-quick.yaml store -o explored

    Args:
        design: a YAML file: mode, seeds, base, axes, cells (see docs/explore.md).
        store: a store, or the folder of one of its sets.
        output: the folder of cells, tables and report.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide and the target.
        target: a column with two classes.
        slide_column: column of the slide's id.
        patient_of: a regular expression whose match in a slide's id is its patient, such as TCGA-..-....; then a row of
            the labels may be a patient.
        missing: words that stand for a missing value beside the usual ones, such as NA, unknown and Not Reported.
        not_missing: words that are values, such as none, although they are usual for a missing one.
        group: column of what must stay in one fold, such as patient.
        positive: the class that counts as positive, where it is not the later of two.
        settings: how.
    """
    with Bars() as bars:
        result = run_explore(
            design,
            store,
            output,
            settings,
            labels=labels,
            target=target,
            group=group,
            positive=positive,
            slide=slide_column,
            patient_of=patient_of,
            missing=missing,
            not_missing=not_missing,
            on_event=bars,
        )
    print_table(_table(result))
    tell(f"report: {result.report}")
    return result.exit_status


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("explore", explore, argv)


def _table(result: ExploreResult) -> Table:
    found = result.exploration
    table = Table()
    table.add_column("cell", overflow="fold")
    table.add_column("held-out R2", justify="right")
    if found.has_auc:
        table.add_column("AUC, mean", justify="right")
    table.add_column("training, s", justify="right")
    for one in (*found.cells, *found.controls):
        cells = [one.cell.name, show(one.r2)]
        if found.has_auc:
            cells.append(show(one.auc) if one.cell.kind != "tiles" else "–")
        table.add_row(*cells, f"{one.training_seconds.mean:,.0f}")
    for failure in result.failures:
        table.add_row(f"{failure.cell}, seed {failure.seed}", "failed", *[""] * (len(table.columns) - 2))
    return table
