"""`parfocal explore`."""

import json
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.cohort import LabelColumns
from parfocal.lab.explore.page import show
from parfocal.lab.explore.run import ExploreResult, ExploreSettings, explore_designs
from parfocal.report.writer import Field, terminal_table
from parfocal.run.progress import Bars

_COLUMNS, _SETTINGS = LabelColumns(), ExploreSettings()


def explore(
    design: Positional[Path],
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    target: str | None = None,
    positive: str | None = None,
    columns: LabelColumns = _COLUMNS,
    settings: ExploreSettings = _SETTINGS,
) -> Answer:
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
        positive: the class that counts as positive, where it is not the later of two.
        columns: the other columns of the labels.
        settings: how.
    """
    with Bars() as bars:
        result = explore_designs(
            design,
            store,
            output,
            settings,
            labels=labels,
            target=target,
            positive=positive,
            columns=columns,
            on_event=bars,
        )
    written = json.loads((result.out / "results.json").read_text(encoding="utf-8"))
    return Answer(written, (_table(result),), (f"report: {result.report}",), result.exit_status)


def _table(result: ExploreResult) -> Table:
    found = result.exploration
    columns = (
        Field("cell", "cell.name"),
        Field("held-out R2", "r2", show=show, align="right"),
        *((Field("AUC, mean", "auc", show=show, align="right"),) if found.has_auc else ()),
        Field("training, s", "training_seconds.mean", show=",.0f"),
    )
    table = terminal_table(columns, (*found.cells, *found.controls))
    for failure in result.failures:
        table.add_row(f"{failure.cell}, seed {failure.seed}", "failed", *[""] * (len(table.columns) - 2))
    return table
