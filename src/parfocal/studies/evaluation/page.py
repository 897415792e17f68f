"""The page of an evaluation: what was compared, the table of each target, and what it can and cannot show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.report import (
    ArmResult,
    Column,
    Note,
    ReportPage,
    Row,
    Section,
    Table,
    Text,
    arms_sentences,
    arms_table,
    forest_figure,
    roc_figure,
)
from parfocal.report.page import Block
from parfocal.report.statistics import RocCurve, mean_roc, roc_curve
from parfocal.studies.evaluation.result import ArmRun, TargetResult

__all__ = ["arm_results", "evaluation_page"]

_METHOD = (
    "Every arm is fitted on the same folds and offered the same choices inside each training fold: the vectors as they "
    "are, or centred and whitened to a few components, times four strengths of what keeps its pooling simple (penalty, "
    "training steps, rank). Nothing from a test fold has a say in any of them.",
    "Mean: the slide's mean vector and a ridge-penalised logistic regression. Gated attention: Ilse, Tomczak and "
    "Welling (2018). Cross-scale contrast: the class difference of the within-region products of two magnifications, "
    "its leading directions, stacked with the slide means; with one kind of vector it is the second moment of that.",
    "The AUC is the mean over folds. Its interval is that of Nadeau and Bengio (2003) for repeated cross-validation, "
    "never narrower than the number of patients allows.",
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
            auc=run.interval,
            instances_per_slide=run.instances_per_slide,
            references=tuple(result.references.get(run.arm.kind, ())),
            against_best_single=run.against_best_single,
            is_single_magnification=run.arm.kind == "single",
            highlight=run is best,
        )
        for run in result.runs
    ]


def evaluation_page(
    results: Mapping[str, TargetResult],
    *,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    sections: Sequence[Section] = (),
) -> ReportPage:
    """The page; `sections` follow the targets, and what every arm chose comes last."""
    return ReportPage(
        title="Magnifications compared: " + ", ".join(results),
        lead=tuple(sentence for target, result in results.items() for sentence in _sentences(target, result)),
        sections=(
            *(Section(target, _target_blocks(target, result)) for target, result in results.items()),
            *sections,
            Section("How it was measured", (Text(_METHOD), *(_choices(*item) for item in results.items()))),
        ),
        settings=settings,
        seeds={"splits, inner folds and networks": seed},
        inputs=inputs,
    )


def _sentences(target: str, result: TargetResult) -> tuple[str, ...]:
    n_groups = len(set(result.cohort.groups))
    return arms_sentences(target, arm_results(result), n_patients=n_groups, detectable=result.detectable)


def _target_blocks(target: str, result: TargetResult) -> tuple[Block, ...]:
    cohort = result.cohort
    arms = arm_results(result)
    positive = int(cohort.is_positive.sum())
    what = (
        f"{len(cohort.slides)} slides of {len(set(cohort.groups))} groups (patients): {positive} are "
        f"{cohort.positive!r} (positive), {len(cohort.slides) - positive} are {cohort.negative!r}. "
        f"{result.splits.n_folds} folds, {result.splits.n_repeats} times."
    )
    blocks: list[Block] = [Text((what,)), arms_table(target, arms), forest_figure(target, arms)]
    blocks += [Note(note, "Left out or remarkable") for note in result.notes]
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
    curves = {
        f"{run.arm.name}, {run.arm.pooling}": curve
        for run in _shown(result)
        if (curve := _curve(result, run)) is not None
    }
    if curves:
        blocks.append(roc_figure(target, curves))
    return tuple(blocks)


def _shown(result: TargetResult) -> list[ArmRun]:
    """The best arm of each kind: more curves than three hide each other."""
    shown = []
    for kind in ("single", "late", "mixed"):
        of_kind = [run for run in result.runs if run.arm.kind == kind]
        if of_kind:
            shown.append(max(of_kind, key=lambda run: run.interval.estimate))
    return shown


def _curve(result: TargetResult, run: ArmRun) -> RocCurve | None:
    curves = [
        roc_curve(result.cohort.is_positive[fold.test], prediction.score[:, 0])
        for fold, prediction, value in zip(result.folds, run.predictions, run.fold_auc, strict=True)
        if np.isfinite(value)
    ]
    return mean_roc(curves) if curves else None


def _choices(target: str, result: TargetResult) -> Table:
    rows = []
    for run in result.runs:
        most = list(run.chosen.items())[:3]
        chosen = "; ".join(f"{name} ({count})" for name, count in most)
        rows.append(Row((run.arm.name, run.arm.pooling, chosen, f"{run.seconds:.1f}")))
    columns = (
        Column("Arm"),
        Column("Pooling"),
        Column("Chosen most often (folds)"),
        Column("Seconds", "right", "All fits of the arm, wall-clock time."),
    )
    return Table(f"{target}: what every arm chose inside its training folds", columns, tuple(rows))
