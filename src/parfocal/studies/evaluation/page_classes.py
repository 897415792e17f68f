"""What the page says of several classes: the AUC of each against the rest, and which are taken for which."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort
from parfocal.report import Column, Row, Table, show_interval
from parfocal.report.page import Block
from parfocal.studies.evaluation.result import ArmRun

__all__ = ["class_blocks"]


def class_blocks(target: str, cohort: Cohort, shown: Sequence[tuple[str, ArmRun]]) -> list[Block]:
    """The tables of the arms that are shown; none where there are not several classes.

    Args:
        target: the label's name.
        cohort: whose classes they are.
        shown: arms with what they are called.
    """
    blocks: list[Block] = []
    if any(run.by_class for _, run in shown):
        blocks.append(_auc_table(target, cohort, shown))
    for name, run in shown:
        if run.confusion is not None:
            blocks.append(_confusion_table(target, name, cohort, run.confusion))
    return blocks


def _auc_table(target: str, cohort: Cohort, shown: Sequence[tuple[str, ArmRun]]) -> Table:
    rows = []
    for place, one in enumerate(shown[0][1].by_class):
        cells = [one.name, f"{one.patients:,}"]
        for _, run in shown:
            interval = run.by_class[place].interval
            cells.append("too few" if interval is None else f"{interval.estimate:.2f} ({show_interval(interval)})")
        rows.append(Row(tuple(cells)))
    columns = (
        Column("Class"),
        Column(cohort.worded("Patients"), "right"),
        *(Column(name, "right") for name, _ in shown),
    )
    note = (
        "The score of a class against all other patients, the mean over the folds that test both; classes.csv has all "
        "arms. The more classes there are, the more likely one of them stands out by chance."
    )
    return Table(f"{target}: AUC of each class against the rest", columns, tuple(rows), (cohort.worded(note),))


def _confusion_table(target: str, arm: str, cohort: Cohort, counts: Float64[np.ndarray, "label called"]) -> Table:
    rows, classes = [], cohort.outcome.classes
    for name, row in zip(classes, counts, strict=True):
        total = max(float(row.sum()), 1e-9)
        rows.append(Row((name, *(f"{count:.1f} ({count / total:.0%})".replace("%", "\u00a0%") for count in row))))
    columns = (Column("Is"), *(Column(f"called {name}", "right") for name in classes))
    note = (
        "Patients, the mean over repeats, and their share of the row: who is called what by a fit that had not seen "
        "them. The class that is called is the one with the highest log odds, of ordered classes the one nearest to "
        "the expected one; confusion.csv has all arms."
    )
    return Table(f"{target}: which classes are taken for which, {arm}", columns, tuple(rows), (cohort.worded(note),))
