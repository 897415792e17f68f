"""The table that compares arms on one target, and the sentences that read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parfocal.report.page import Column, Row, Table
from parfocal.report.statistics import FoldTest, Interval, holm
from parfocal.report.statistics.interval import Number

__all__ = ["ArmResult", "Reference", "arms_sentences", "arms_table", "show_interval", "show_p", "show_signed"]


@dataclass(frozen=True)
class Reference:
    """A number to hold beside an arm's AUC: a ceiling that no reader of the same input passes, or another reader."""

    value: Number
    label: str
    is_ceiling: bool = True


@dataclass(frozen=True)
class ArmResult:
    """How one arm did on one target.

    Args:
        name: what goes in, "5x" or "5x + 10x + 20x".
        family: the group it is listed under, "One magnification"; arms of a family follow each other.
        pooling: how instances become a prediction.
        auc: the mean over folds with its interval.
        instances_per_slide: mean number of vectors that the pooling sees, where known.
        references: ceilings and other readers to print beside it.
        against_best_single: this arm minus the best single magnification over the same folds; None for that arm itself
            and where there is none.
        is_single_magnification: whether it may be the best single magnification.
        highlight: set off in table and plot.
    """

    name: str
    family: str
    pooling: str
    auc: Interval
    instances_per_slide: Number | None = None
    references: tuple[Reference, ...] = ()
    against_best_single: FoldTest | None = None
    is_single_magnification: bool = False
    highlight: bool = False


def arms_table(target: str, arms: Sequence[ArmResult], *, footnotes: tuple[str, ...] = ()) -> Table:
    """One row for each arm under its family, with what is known beside what was measured.

    The columns of references, instances and differences are left out where no arm has them.

    Raises:
        ValueError: no arm, or two levels of interval in one table.
    """
    levels = {arm.auc.level for arm in arms}
    if len(levels) != 1:
        raise ValueError(f"the arms of one table share one level of interval, got {sorted(levels)}")
    level = f"{levels.pop():.0%}".replace("%", " %")
    with_reference = any(arm.references for arm in arms)
    with_instances = any(arm.instances_per_slide is not None for arm in arms)
    with_difference = any(arm.against_best_single is not None for arm in arms)
    columns = [Column("Arm"), Column("Pooling"), Column("AUC", "right"), Column(f"{level} interval", "right")]
    if with_reference:
        columns.append(
            Column("Known", "left", "A ceiling by theorem, or what another reader of the same input reaches.")
        )
    if with_difference:
        columns.append(Column("Gain over best single (interval)", "right", "Paired over the same folds."))
        columns.append(Column("p (Holm)", "right", "Nadeau-Bengio, two-sided, corrected for the arms of this table."))
    if with_instances:
        columns.append(Column("Instances per slide", "right", "Mean number of vectors that the pooling sees."))
    adjusted = _holm_over(arms)
    rows: list[Row] = []
    family = None
    for arm in arms:
        if arm.family != family:
            rows.append(Row((arm.family,), "group"))
            family = arm.family
        cells = [arm.name, arm.pooling, f"{arm.auc.estimate:.2f}", show_interval(arm.auc)]
        if with_reference:
            cells.append("; ".join(_show_reference(one) for one in arm.references) or "–")
        if with_difference:
            test = arm.against_best_single
            cells += ["–", "–"] if test is None else [_difference(test.difference), show_p(adjusted[arm])]
        if with_instances:
            cells.append("–" if arm.instances_per_slide is None else f"{arm.instances_per_slide:,.0f}")
        rows.append(Row(tuple(cells), "highlight" if arm.highlight else "plain"))
    notes = list(footnotes)
    if with_difference:
        notes.append(
            "The best single magnification is the one with the highest AUC in this very table: that choice favours it, "
            "so a gain over it is understated rather than overstated. The p-values are corrected for the number of "
            "arms (Holm); the intervals are not."
        )
    return Table(f"{target}: every arm on the same folds", tuple(columns), tuple(rows), tuple(notes))


def arms_sentences(
    target: str, arms: Sequence[ArmResult], *, n_patients: int, detectable: float | None = None
) -> tuple[str, ...]:
    """What the table says, in words: the best single magnification, the best other arm, and what could be seen at all.

    Args:
        target: the label's name.
        arms: as in the table.
        n_patients: number of distinct patients.
        detectable: the difference that this cohort would have shown with 80 % power (`detectable_difference`); None or
            NaN where that is not known.
    """
    singles = [arm for arm in arms if arm.is_single_magnification]
    others = [arm for arm in arms if not arm.is_single_magnification]
    said = []
    if singles:
        best = max(singles, key=lambda arm: arm.auc.estimate)
        said.append(
            f"{target}: the best single magnification is {best.name} ({best.pooling}) with an AUC of "
            f"{best.auc.estimate:.2f} ({show_interval(best.auc)})."
        )
    if others:
        best = max(others, key=lambda arm: arm.auc.estimate)
        text = (
            f"The best arm that reads several is {best.name} ({best.pooling}) with "
            f"{best.auc.estimate:.2f} ({show_interval(best.auc)})"
        )
        if best.against_best_single is not None:
            difference, p_value = best.against_best_single.difference, _holm_over(arms)[best]
            # A constant difference has no p-value; its interval decides.
            shown = p_value < 1 - difference.level if p_value == p_value else 0.0 not in difference
            verdict = "more than chance gives" if shown else "which chance can explain"
            text += (
                f"; against the best single magnification that is {_difference(difference)}, {verdict} "
                f"(p {show_p(p_value)} after Holm's correction)"
            )
        said.append(text + ".")
    if detectable is not None and detectable == detectable:
        said.append(
            f"With {n_patients:,} patients a true difference of {detectable:.2f} would have been seen four times "
            "in five; smaller ones can be there and not show."
        )
    return tuple(said)


def show_interval(interval: Interval) -> str:
    """The two ends, with two decimals."""
    return f"{interval.low:.2f} to {interval.high:.2f}"


def show_signed(value: Number) -> str:
    """A difference with its sign; the minus is the typographic one, as wide as the plus."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\u2212") + text


def show_p(value: Number) -> str:
    """A p-value with two figures, "< 0.001" below that, and a dash where no test could be made."""
    if value != value:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _difference(interval: Interval) -> str:
    return f"{show_signed(interval.estimate)} ({show_signed(interval.low)} to {show_signed(interval.high)})"


def _holm_over(arms: Sequence[ArmResult]) -> dict[ArmResult, float]:
    """The corrected p-value of each arm that was compared."""
    compared = [(arm, arm.against_best_single.p_value) for arm in arms if arm.against_best_single is not None]
    adjusted = holm(np.array([p_value for _, p_value in compared]))
    return {arm: float(p_value) for (arm, _), p_value in zip(compared, adjusted, strict=True)}


def _show_reference(reference: Reference) -> str:
    """Label and number; only a long label may be broken, and never before its number."""
    label = reference.label if len(reference.label) > 14 else reference.label.replace(" ", "\u00a0")
    return f"{label}\u00a0{reference.value:.2f}"
