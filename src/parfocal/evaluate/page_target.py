"""What the page says about one target: table and plot, ROC curves, calibration, results by a column, external ones.

Of several classes it says the AUC of each against the rest, and which are taken for which.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, units
from parfocal.evaluate.result import ArmRun, TargetResult
from parfocal.report import (
    ArmResult,
    Field,
    Figure,
    Note,
    Table,
    Text,
    arms_sentences,
    arms_table,
    forest_figure,
    page_table,
    read,
    reliability_figure,
    roc_figure,
    show_difference,
    show_interval,
    show_p,
    show_signed,
)
from parfocal.report.page import Block
from parfocal.stats import Interval, RocCurve, mean_roc, roc_curve


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
    columns = (
        Field("Class", "0.name"),
        Field(cohort.worded("Patients"), "0.patients"),
        *(Field(name, f"{place}.interval", align="right", missing="too few") for place, (name, _) in enumerate(shown)),
    )
    note = (
        "The score of a class against all other patients, the mean over the folds that test both; classes.csv has all "
        "arms. The more classes there are, the more likely one of them stands out by chance."
    )
    rows = list(zip(*(run.by_class for _, run in shown), strict=True))
    title = f"{target}: AUC of each class against the rest"
    return page_table(title, columns, rows, footnotes=(cohort.worded(note),))


def _confusion_table(target: str, arm: str, cohort: Cohort, counts: Float64[np.ndarray, "label called"]) -> Table:
    rows, classes = [], cohort.outcome.classes
    for name, row in zip(classes, counts, strict=True):
        total = max(float(row.sum()), 1e-9)
        rows.append((name, *(f"{count:.1f} ({count / total:.0%})".replace("%", "\u00a0%") for count in row)))
    called = (Field(f"called {name}", f"{place}", align="right") for place, name in enumerate(classes, 1))
    note = (
        "Patients, the mean over repeats, and their share of the row: who is called what by a fit that had not seen "
        "them. The class that is called is the one with the highest log odds, of ordered classes the one nearest to "
        "the expected one; confusion.csv has all arms."
    )
    title = f"{target}: which classes are taken for which, {arm}"
    return page_table(title, (Field("Is", "0"), *called), rows, footnotes=(cohort.worded(note),))


_ARM = (Field("Arm", "arm.name"), Field("Pooling", "arm.pooling"))


def _calibration_table(caption: str, runs: Sequence[ArmRun], of: str, footnotes: tuple[str, ...] = ()) -> Table:
    """The numbers of calibration that stand at a path of each run."""
    slope = "1 is right; below 1 the probabilities are too extreme; a dash where it is infinite."
    error = "Expected calibration error over ten bins; 0 is right, and few cases never reach it."
    brier = "Mean squared error of the probability; 0.25 for always saying one half."
    columns = (
        *_ARM,
        Field("Slope", f"{of}.slope", help=slope, align="right"),
        Field("Intercept", f"{of}.intercept", "", show_signed, "0 is right; below 0 the probabilities are too high."),
        Field("Mean error", f"{of}.expected_error", help=error),
        Field("Brier score", f"{of}.brier", "", ".3f", brier),
    )
    return page_table(caption, columns, runs, footnotes=footnotes)


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
            has_slide_vector=run.arm.kind == "slide",
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


def target_blocks(target: str, result: TargetResult) -> tuple[Block, ...]:
    """Everything about one target."""
    arms, metric = arm_results(result), result.metric
    folds = f"{result.splits.n_folds} folds, {result.splits.n_repeats} times."
    blocks: list[Block] = [
        Text(
            (
                *target_sentences(target, result),
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
        columns = (*_ARM, Field(metric.name, lambda _: "failed"), Field("Why", "reason"))
        caption = f"{target}: arms that failed"
        blocks.append(page_table(caption, columns, result.failed, kind=lambda _: "muted"))
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
    columns = (*_ARM, Field("Chosen most often (folds)", lambda run: run.most_chosen(3)))
    return page_table(f"{target}: what every arm chose inside its training folds", columns, result.runs)


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
    """The best arm of each kind and the arm of the primary comparison: more curves than five hide each other."""
    places = []
    for kind in ("single", "late", "mixed", "slide"):
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
    shown = [run for run in _shown(result) if run.calibration is not None]
    if not shown:
        return []
    text = (
        "Calibration: whether a probability means what it says. Of the patients to whom an arm gives 0.7, seven in ten "
        "should be positive. The probabilities are those of fits that had not seen the patient. An arm can rank well "
        "and be calibrated badly, and the other way round."
    )
    note = "The numbers are means over repeats; the curve is that of the first repeat, where every patient is once."
    caption = f"{target}: calibration of the best arms of each kind"
    return [
        Text((result.cohort.worded(text),)),
        _curves(target, result, external=False),
        _calibration_table(caption, shown, "calibration", (result.cohort.worded(note),)),
    ]


def _curves(target: str, result: TargetResult, *, external: bool) -> Figure:
    """Reliability of the best arm of each kind but late fusion."""
    bins = {}
    for run in _shown(result):
        calibration = read(run, "external.calibration" if external else "calibration")
        if run.arm.kind != "late" and calibration is not None:
            bins[_name(result, run)] = calibration.bins
    return reliability_figure(f"{target}, external cohort" if external else target, bins)


def _subgroup_blocks(target: str, result: TargetResult) -> list[Block]:
    if not result.subgroups:
        return []
    worded, n_folds = result.cohort.worded, len(result.folds)
    folds = "In how many folds this value had patients that can be put in order by their labels."
    columns = (
        Field("Value", "value"),
        Field(worded("Patients"), "patients"),
        Field("Folds", lambda group: f"{group.folds} of {n_folds}", help=worded(folds), align="right"),
        *(
            Field(_name(result, run), f"intervals.{result.runs.index(run)}", align="right", missing="too small")
            for run in _shown(result)
        ),
    )
    note = (
        "The fits are those of all patients; only the measuring is inside. The best arm of each kind is "
        "shown; subgroups.csv has all. Fewer patients make wider intervals, and the more values a column "
        "has, the more likely one of them stands out by chance."
    )
    table = page_table(
        f"{target}: {result.metric.name} inside each value of a column",
        columns,
        result.subgroups,
        by=lambda group: f"By {group.column}",
        kind=lambda group: "muted" if group.note else "plain",
        footnotes=(worded(note),),
    )
    return [table]


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
    gain, p_holm = "external.against_best_single", dict(zip(map(id, result.runs), result.external_p_holm, strict=True))
    columns = [
        *_ARM,
        Field(result.metric.name, "external.interval.estimate"),
        Field("95 % interval", "external.interval", show=show_interval),
        Field(
            "Minus best single (interval)",
            f"{gain}.difference",
            show=show_difference,
            help=cohort.worded("Above 0 better, below 0 worse; on the same patients."),
            align="right",
        ),
    ]
    if binary:
        paired = "DeLong, paired, two-sided, corrected for the arms of this table."
        drawn = cohort.worded("Of the same difference: patients drawn again, BCa, 2,000 draws.")
        columns += [
            Field("p (Holm)", lambda run: p_holm[id(run)], show=show_p, help=paired, align="right"),
            Field("Bootstrap interval", f"{gain}.bootstrap", show=_signed_ends, help=drawn, align="right"),
        ]
    runs = [run for run in result.runs if run.external is not None]
    notes = (
        f"Intervals of the column {result.metric.name}: {cohort.worded(read(runs[0], 'external.interval.method'))}.",
    )
    title = f"{target}: every arm on the external cohort"
    blocks: list[Block] = [Text((text,)), page_table(title, columns, runs, by="arm.family", footnotes=notes)]
    blocks += [Note(note, "External cohort: left out or remarkable") for note in cohort.notes]
    if binary:
        calibrated = [run for run in _shown(result) if read(run, "external.calibration") is not None]
        caption = f"{target}: calibration on the external cohort, best arms of each kind"
        table = _calibration_table(caption, calibrated, "external.calibration")
        blocks += [_curves(target, result, external=True), table]
    return blocks


def _signed_ends(interval: Interval) -> str:
    return f"{show_signed(interval.low)} to {show_signed(interval.high)}"
