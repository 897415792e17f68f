"""What the page says about one target: table and plot, ROC curves, calibration, results by a column, external ones.

What the page says of several classes: the AUC of each against the rest, and which are taken for which.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, units
from parfocal.evaluate.result import ArmRun, Calibration, TargetResult
from parfocal.report import (
    ArmResult,
    Column,
    Figure,
    Note,
    Row,
    Table,
    Text,
    arms_sentences,
    arms_table,
    forest_figure,
    reliability_figure,
    roc_figure,
    show_difference,
    show_interval,
    show_number,
    show_p,
    show_signed,
)
from parfocal.report.page import Block
from parfocal.stats import RocCurve, mean_roc, roc_curve

__all__ = ["arm_results", "choices_table", "class_blocks", "target_blocks", "target_sentences"]


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


_CALIBRATION_COLUMNS = (
    Column("Arm"),
    Column("Pooling"),
    Column("Slope", "right", "1 is right; below 1 the probabilities are too extreme; a dash where it is infinite."),
    Column("Intercept", "right", "0 is right; below 0 the probabilities are too high."),
    Column(
        "Mean error", "right", "Expected calibration error over ten bins; 0 is right, and few cases never reach it."
    ),
    Column("Brier score", "right", "Mean squared error of the probability; 0.25 for always saying one half."),
)


def arm_results(result: TargetResult) -> list[ArmResult]:
    """The arms of a target as the report's table and plot take them; the best arm that pairs is highlighted."""
    mixed = [run for run in result.runs if run.arm.kind == "mixed"]
    best = max(mixed, key=lambda run: run.interval.estimate) if mixed else None
    return [
        ArmResult(
            name=run.arm.name,
            family=run.arm.family,
            pooling=run.arm.pooling,
            value=run.interval,
            beside=run.beside,
            seed_sd=run.seed_sd,
            references=tuple(result.references.get(run.arm.knows, ())),
            against_best_single=run.against_best_single,
            is_single_magnification=run.arm.kind == "single",
            highlight=run is best,
        )
        for run in result.runs
    ]


def target_sentences(target: str, result: TargetResult) -> tuple[str, ...]:
    """What the table of a target says, in words."""
    cohort = result.cohort
    return arms_sentences(
        target,
        arm_results(result),
        n_patients=cohort.n_groups,
        patients=cohort.worded("patients"),
        detectable=result.detectable,
        metric=result.metric.name,
    )


def target_blocks(target: str, result: TargetResult, *, with_sentences: bool) -> tuple[Block, ...]:
    """Everything about one target; the sentences only where they do not stand at the head of the page."""
    arms, metric = arm_results(result), result.metric
    sentences = target_sentences(target, result) if with_sentences else ()
    folds = f"{result.splits.n_folds} folds, {result.splits.n_repeats} times."
    blocks: list[Block] = [
        Text(
            (
                *sentences,
                f"{_described(result.cohort)} {folds}",
                f"{metric.name}: {result.cohort.worded(metric.meaning)}",
            )
        )
    ]
    if arms:
        blocks += [
            arms_table(target, arms, metric=metric.name),
            forest_figure(target, arms, metric=metric.name),
        ]
    if result.failed:
        failed = tuple(Row((one.arm.name, one.arm.pooling, "failed", one.reason), "muted") for one in result.failed)
        columns = (Column("Arm"), Column("Pooling"), Column(metric.name), Column("Why"))
        blocks.append(Table(f"{target}: arms that failed", columns, failed))
    blocks += [Note(note, "Left out or remarkable") for note in result.notes]
    if result.edge_note:
        blocks.append(Note(result.edge_note, "Trained too briefly?"))
    late = [one for one in result.references.get("late", ()) if not one.is_ceiling]
    if late:
        blocks.append(
            Note(
                "Late fusion is at chance only as far as nothing else tells which tiles of two bags belong together. "
                + "; ".join(f"{one.label}: {one.value:.2f}" for one in late)
                + ".",
                "Late fusion is measured, not proven",
            )
        )
    if result.cohort.outcome.kind == "binary":
        curves = {_name(result, run): curve for run in _shown(result) if (curve := _roc(result, run)) is not None}
        blocks += [roc_figure(target, curves)] if curves else []
        blocks += _calibration_blocks(target, result)
    named = [(_name(result, run), run) for run in _shown(result)]
    blocks += class_blocks(target, result.cohort, named)
    blocks += _subgroup_blocks(target, result)
    blocks += _external_blocks(target, result)
    return tuple(blocks)


def choices_table(target: str, result: TargetResult) -> Table:
    """What every arm preferred inside its training folds."""
    rows = []
    for run in result.runs:
        most = list(run.chosen.items())[:3]
        rows.append(Row((run.arm.name, run.arm.pooling, "; ".join(f"{name} ({count})" for name, count in most))))
    columns = (Column("Arm"), Column("Pooling"), Column("Chosen most often (folds)"))
    return Table(f"{target}: what every arm chose inside its training folds", columns, tuple(rows))


def _described(cohort: Cohort) -> str:
    """How many slides of how many patients have which label."""
    outcome = cohort.outcome
    head = cohort.size
    if outcome.kind == "binary":
        positive = int(cohort.is_positive.sum())
        negative = len(cohort.slides) - positive
        return f"{head}: {positive} are {cohort.positive!r} (positive), {negative} are {cohort.negative!r}."
    if outcome.kind == "continuous":
        low, middle, high = np.quantile(outcome.value, (0.0, 0.5, 1.0))
        return f"{head}; the values run from {low:.3g} to {high:.3g}, their median is {middle:.3g}."
    if outcome.kind == "survival":
        seen = int(outcome.event.sum())
        return f"{head}; the event was seen in {seen}, the others are censored."
    counts = ", ".join(f"{int((outcome.value == place).sum())} {name!r}" for place, name in enumerate(outcome.classes))
    order = " (in this order)" if outcome.kind == "ordinal" else ""
    return f"{head}: {counts}{order}."


def _shown(result: TargetResult) -> list[ArmRun]:
    """The best arm of each kind and the arm of the primary comparison: more curves than four hide each other."""
    places = []
    for kind in ("single", "late", "mixed"):
        of_kind = [place for place, run in enumerate(result.runs) if run.arm.kind == kind]
        if of_kind:
            places.append(max(of_kind, key=lambda place: result.runs[place].interval.estimate))
    if result.primary is not None:
        places.append(result.primary.mixed)
    return [result.runs[place] for place in dict.fromkeys(places)]


def _name(result: TargetResult, run: ArmRun) -> str:
    return result.label(result.runs.index(run))


def _roc(result: TargetResult, run: ArmRun) -> RocCurve | None:
    curves = []
    for fold, prediction, value in zip(result.folds, run.predictions, run.fold_value, strict=True):
        if np.isfinite(value):
            joined = units(result.cohort, fold.test)
            curves.append(roc_curve(result.cohort.is_positive[joined.slides], joined.mean(prediction.score)[:, 0]))
    return mean_roc(curves) if curves else None


def _calibration_blocks(target: str, result: TargetResult) -> list[Block]:
    shown = [(run, run.calibration) for run in _shown(result) if run.calibration is not None]
    if not shown:
        return []
    text = (
        "Calibration: whether a probability means what it says. Of the patients to whom an arm gives 0.7, seven in ten "
        "should be positive. The probabilities are those of fits that had not seen the patient. An arm can rank well "
        "and be calibrated badly, and the other way round."
    )
    rows = tuple(Row(_calibration_cells(run, one)) for run, one in shown)
    note = "The numbers are means over repeats; the curve is that of the first repeat, where every patient is once."
    notes = (result.cohort.worded(note),)
    title = f"{target}: calibration of the best arms of each kind"
    return [
        Text((result.cohort.worded(text),)),
        _curves(target, result, external=False),
        Table(title, _CALIBRATION_COLUMNS, rows, notes),
    ]


def _curves(target: str, result: TargetResult, *, external: bool) -> Figure:
    """Reliability of the best single and the best mixed arm."""
    bins = {}
    for run in _shown(result):
        found = (None if run.external is None else run.external.calibration) if external else run.calibration
        if run.arm.kind != "late" and found is not None:
            bins[_name(result, run)] = found.bins
    return reliability_figure(f"{target}, external cohort" if external else target, bins)


def _calibration_cells(run: ArmRun, one: Calibration) -> tuple[str, ...]:
    numbers = (show_number(one.slope), show_signed(one.intercept), f"{one.expected_error:.2f}", f"{one.brier:.3f}")
    return run.arm.name, run.arm.pooling, *numbers


def _subgroup_blocks(target: str, result: TargetResult) -> list[Block]:
    if not result.subgroups:
        return []
    shown, worded = _shown(result), result.cohort.worded
    places = [result.runs.index(run) for run in shown]
    folds = "In how many folds this value had patients that can be put in order by their labels."
    columns = (
        Column("Value"),
        Column(worded("Patients"), "right"),
        Column("Folds", "right", worded(folds)),
        *(Column(_name(result, run), "right") for run in shown),
    )
    rows: list[Row] = []
    for place, group in enumerate(result.subgroups):
        if place == 0 or result.subgroups[place - 1].column != group.column:
            rows.append(Row((f"By {group.column}",), "group"))
        cells = []
        for arm in places:
            interval = group.intervals[arm]
            cells.append("too small" if interval is None else f"{interval.estimate:.2f} ({show_interval(interval)})")
        head = (group.value, f"{group.patients:,}", f"{group.folds} of {len(result.folds)}")
        rows.append(Row((*head, *cells), "muted" if group.note else "plain"))
    return [
        Table(
            f"{target}: {result.metric.name} inside each value of a column",
            columns,
            tuple(rows),
            (
                worded(
                    "The fits are those of all patients; only the measuring is inside. The best arm of each kind is "
                    "shown; subgroups.csv has all. Fewer patients make wider intervals, and the more values a column "
                    "has, the more likely one of them stands out by chance."
                ),
            ),
        )
    ]


def _external_blocks(target: str, result: TargetResult) -> list[Block]:
    cohort = result.external_cohort
    if cohort is None or all(run.external is None for run in result.runs):
        return []
    binary = cohort.outcome.kind == "binary"
    text = (
        f"External cohort: {_described(cohort)} Every arm was fitted once more on all training slides and read "
        "these slides once. Which single magnification is the best was decided on the training cohort, so nothing was "
        "picked here."
    )
    columns = [
        Column("Arm"),
        Column("Pooling"),
        Column(result.metric.name, "right"),
        Column("95 % interval", "right"),
        Column(
            "Minus best single (interval)",
            "right",
            cohort.worded("Above 0 better, below 0 worse; on the same patients."),
        ),
    ]
    if binary:
        columns.append(Column("p (Holm)", "right", "DeLong, paired, two-sided, corrected for the arms of this table."))
        drawn = cohort.worded("Of the same difference: patients drawn again, BCa, 2,000 draws.")
        columns.append(Column("Bootstrap interval", "right", drawn))
    rows, family = [], ""
    for run, p_value in zip(result.runs, result.external_p_holm, strict=True):
        if run.external is None:
            continue
        if run.arm.family != family:
            family = run.arm.family
            rows.append(Row((family,), "group"))
        own, test = run.external, run.external.against_best_single
        cells = [run.arm.name, run.arm.pooling, f"{own.interval.estimate:.2f}", show_interval(own.interval)]
        cells.append("–" if test is None else show_difference(test.difference))
        if binary:
            ends = "–" if test is None else f"{show_signed(test.bootstrap.low)} to {show_signed(test.bootstrap.high)}"
            cells += [show_p(p_value), ends]
        rows.append(Row(tuple(cells)))
    method = next(run.external.interval.method for run in result.runs if run.external is not None)
    notes = (f"Intervals of the column {result.metric.name}: {cohort.worded(method)}.",)
    title = f"{target}: every arm on the external cohort"
    blocks: list[Block] = [Text((text,)), Table(title, tuple(columns), tuple(rows), notes)]
    blocks += [Note(note, "External cohort: left out or remarkable") for note in cohort.notes]
    if binary:
        calibrated = [
            (run, run.external.calibration)
            for run in _shown(result)
            if run.external is not None and run.external.calibration is not None
        ]
        of_rows = tuple(Row(_calibration_cells(run, one)) for run, one in calibrated)
        caption = f"{target}: calibration on the external cohort, best arms of each kind"
        blocks += [_curves(target, result, external=True), Table(caption, _CALIBRATION_COLUMNS, of_rows)]
    return blocks
