"""The command `budget`: how few fine tiles are enough."""

from pathlib import Path

from tyro.conf import Positional

from parfocal.budget.files import describe
from parfocal.budget.page import CURVES, READERS
from parfocal.budget.run import BudgetSettings, measure_budgets
from parfocal.cli.command import Answer, Output
from parfocal.cohort import CohortColumns, Target, TargetSettings
from parfocal.report import Field, terminal_table
from parfocal.run.progress import Bars
from parfocal.terminal import tell

_TARGET, _COHORT, _BUDGET = TargetSettings(), CohortColumns(), BudgetSettings()
_SHOWN = (Field("head", "head.method", "Read by"), *CURVES)


def budget(
    store: Positional[Path],
    labels: Path,
    target: str,
    output: Output,
    holds: TargetSettings = _TARGET,
    columns: CohortColumns = _COHORT,
    splits: Path | None = None,
    settings: BudgetSettings = _BUDGET,
) -> Answer:
    """Measure how few fine tiles of a STORE are enough to tell a label.

    STORE holds slides that were read whole, so every budget is tried by leaving tiles out: the policies of embed --zoom
    say what is read first, heads are fitted on whole training slides, and held-out slides are read in part. The page
    has a curve of AUC for each policy and head, the least budget that is shown to lose nothing of note, the margin that
    the cohort could have shown, and what each budget costs.

    Example:
        parfocal budget store --labels labels.csv --target msi --group patient -o budget

    Args:
        store: a store, or the folder of one set of tile embeddings at two magnifications or more.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group.
        target: column of two classes.
        output: folder of report.html, budget.json and the tables.
        holds: what the target holds.
        columns: the other columns of the labels.
        splits: folds of an earlier run, to use again (its splits.csv).
        settings: policies, budgets, margin and folds.
    """
    if columns.group is None and columns.patient_of is None:
        tell("no --group is named: slides are taken as independent")
    with Bars() as bars:
        found = measure_budgets(
            store,
            labels,
            Target(name=target, **dict(holds)),
            output,
            settings,
            columns=columns,
            splits=splits,
            on_event=bars,
        )
    tables = (terminal_table(READERS, found.readers), terminal_table(_SHOWN, found.curves, by="head.id"))
    return Answer(describe(found), (*tables, *found.sentences), (*found.notes, f"report: {found.report}"))
