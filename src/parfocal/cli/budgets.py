"""The command `budget`: how few fine tiles are enough."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from parfocal.budget import BudgetResult, BudgetSettings, measure_budgets
from parfocal.budget.files import describe
from parfocal.budget.page import CURVES, READERS
from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.cohort import CohortColumns, Target, TargetSettings
from parfocal.embed.settings import SlideOpening
from parfocal.errors import ConfigError
from parfocal.report import Field, terminal_table
from parfocal.run.progress import Bars
from parfocal.study import budget_study, read_study
from parfocal.terminal import tell

_TARGET, _COHORT, _BUDGET = TargetSettings(), CohortColumns(), BudgetSettings()
_OPENING = SlideOpening()
_SHOWN = (Field("head", "head.method", "Read by"), *CURVES)


def budget(
    source: Annotated[Positional[Path], tyro.conf.arg(metavar="STORE|STUDY")],
    output: Output,
    labels: Path | None = None,
    target: str | None = None,
    holds: TargetSettings = _TARGET,
    columns: CohortColumns = _COHORT,
    splits: Path | None = None,
    encoder: str = "",
    timed: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SLIDES...")] = (),
    opening: SlideOpening = _OPENING,
    settings: BudgetSettings = _BUDGET,
) -> Answer:
    """Measure how few fine tiles of a STORE, or of a STUDY, are enough to tell a label.

    The slides were read whole, so every budget is tried by leaving tiles out: the policies of embed --zoom say what is
    read first, heads are fitted on whole training slides, and held-out slides are read in part. The page has a curve of
    AUC for each policy and head, the least budget that is shown to lose nothing of note, the margin that the cohort
    could have shown, what each budget costs, and pictures of what was read.

    A STUDY file says labels, targets, group and folds, and may have a section budget; -o is then the folder of parfocal
    study. Its tiles are embedded first where they are not there, and no region encoder is trained.

    Example:
        parfocal budget store --labels labels.csv --target msi --group patient -o budget
        parfocal budget study.yaml -o study --timed scans/case1.svs scans/case2.svs

    Args:
        source: a store, the folder of one set of tile embeddings at two magnifications or more, or a study file.
        output: folder of report.html, budget.json and the tables; of a study its folder, where they lie in budget.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group.
        target: column of two classes.
        holds: what the target holds.
        columns: the other columns of the labels.
        splits: folds of an earlier run, to use again (its splits.csv).
        encoder: the tile encoder of the store, where it does not say how it is loaded.
        timed: slide files, folders or manifests to embed three times whole, at the finest magnification alone and to
            each budget, into stores that are thrown away: the seconds per slide then stand beside the encodings.
        opening: how the timed slides are opened.
        settings: policies, budgets, margin and folds.
    """
    if source.is_file() or source.suffix in (".yaml", ".yml"):
        if (labels, target, splits, encoder, holds, columns, opening, settings) != (
            None,
            None,
            None,
            "",
            _TARGET,
            _COHORT,
            _OPENING,
            _BUDGET,
        ):
            raise ConfigError(
                f"{source} says itself what is compared, in its sections labels, evaluation and budget. Leave out all "
                "options but -o and --timed, and write there what shall be otherwise."
            )
        with Bars() as bars:
            study = budget_study(read_study(source), output, timed=timed, on_event=bars)
        answers = [_answer(one) for one in study.targets.values()]
        return Answer(
            {name: one.data for name, one in zip(study.targets, answers, strict=True)},
            tuple(part for one in answers for part in one.shown),
            (*failed_lines(study.failed), *(line for one in answers for line in one.told)),
            study.exit_status,
        )
    if labels is None or target is None:
        raise ConfigError(f"name --labels CSV and --target COLUMN, which {source} does not say, or give a study file.")
    if columns.group is None and columns.patient_of is None:
        tell("no --group is named: slides are taken as independent")
    with Bars() as bars:
        found = measure_budgets(
            source,
            labels,
            Target(name=target, **dict(holds)),
            output,
            settings,
            columns=columns,
            splits=splits,
            encoder=encoder,
            timed=timed,
            opening=opening,
            on_event=bars,
        )
    return _answer(found)


def _answer(found: BudgetResult) -> Answer:
    tables: tuple[Table, ...] = (
        terminal_table(READERS, found.readers),
        terminal_table(_SHOWN, found.curves, by="head.id"),
    )
    return Answer(describe(found), (*tables, *found.sentences), (*found.notes, f"report: {found.report}"))
