"""Fit one arm on all labelled slides and keep it, with what it takes to use it on slides that nobody has labelled."""

import shutil
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, read_bags
from parfocal.cohort import (
    Cohort,
    Fold,
    LabelColumns,
    Outcome,
    Splits,
    Target,
    make_splits,
    read_cohort,
    read_splits,
    whole_fold,
)
from parfocal.config import Settings
from parfocal.errors import ConfigError, ParfocalError, ParfocalWarning
from parfocal.evaluate import ArmFits, compare_arms
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.arms import read_arm_bags
from parfocal.evaluate.fitting import Bags, FitFailedError, attempt_fit
from parfocal.evaluate.sources import common_slides, named, open_all
from parfocal.files import file_digest8, writable_folder
from parfocal.heads import (
    FittedProbe,
    FoldPrediction,
    ProbeSettings,
    ProbeState,
    average_predictions,
    load_probe,
    predict,
)
from parfocal.predict.calibration import fit_calibration, held_out_brier
from parfocal.predict.dropped import ShownWithout
from parfocal.predict.facts import (
    FORMAT_VERSION,
    BranchFacts,
    CalibrationFacts,
    HeadFacts,
    MetricFacts,
    OutsideFacts,
    TrainedOn,
)
from parfocal.predict.fit_settings import FitSettings
from parfocal.predict.head import TILES, Head, write_head
from parfocal.predict.outside import fit_habits
from parfocal.predict.parts import shown_in_part
from parfocal.predict.source import describe_tiles, find_arm, is_made_by_model, model_of, sets_of, tiles_of
from parfocal.predict.stop_fit import StopFit
from parfocal.run.cache import StepCache
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.store import EmbeddingSet, LeftOut
from parfocal.version import __version__


def fit_head(
    inputs: Sequence[Path | EmbeddingSet],
    labels: Path,
    target: str | Target,
    arm: str,
    out: Path,
    settings: FitSettings | None = None,
    *,
    columns: LabelColumns | None = None,
    models: Sequence[Path] = (),
    splits: Path | None = None,
    encoder: str | None = None,
    on_event: OnEvent | None = None,
) -> Head:
    """Fit an arm on all labelled slides, calibrate it on out-of-fold scores, and write it as a head.

    Whatever the arm chooses it chooses by inner folds. The scores that the calibration is fitted on are those of a
    cross-validation, with patients kept together, in which the same choices are made again in every fold. What is
    fitted is kept beside `out` until the head is whole, so that the same call goes on where a run was stopped.

    Args:
        inputs: stores, folders of sets, or open sets: tile embeddings, and what `represent` made of them.
        labels: a CSV or an Excel workbook with a slide column and the target.
        target: the column to predict; a text stands for a target whose kind is seen from its values.
        arm: the arm's id, or its label in a report.
        out: the folder of the head.
        settings: folds, repeats and what the arm chooses among.
        columns: the columns of slide and group (patient) in `labels`, and how they are read.
        models: folders of region encoders; needed where the arm reads region embeddings or unread tiles are decoded,
            and then copied into `out`.
        splits: a CSV of folds, as `splits.csv` of an evaluation, in place of new ones.
        encoder: how the tile encoder is loaded, where its name is no spec.
        on_event: told what the target holds, before anything is fitted, and of every one of the `probes`.

    Raises:
        ParfocalError: a fit failed, or gave scores that are not finite.
        ConfigError: there is no such arm, or labels, splits, models and sets do not fit together.
        StoreError: a set cannot be read.
    """
    settings, tell = settings or FitSettings(), on_event or warn_of
    find_device(settings.probes.device)
    writable_folder(out.absolute().parent)
    sets = open_all(inputs)
    asked, columns = Target(name=target) if isinstance(target, str) else target, columns or LabelColumns()
    labelled = read_cohort(labels, asked, columns)
    chosen, branches = find_arm(sets, models, arm)
    read = sets_of(branches, sets)
    tiles, model = tiles_of(read, sets), model_of(read, models)
    cohort = labelled.restricted_to(common_slides(sets)[0], named(sets))
    tell(Notice(cohort.sentence()))
    dealt = _splits(splits, cohort, settings)
    seed, left_out, stop = settings.probes.seed, LeftOut(), None
    if settings.stop_rate is not None:
        stop = StopFit.of(branches, tiles, cohort, settings)
    shown, asked_parts = None, settings.parts_facts
    if asked_parts is not None:
        shown, model = shown_in_part(asked_parts, branches, sets, cohort.slides, models, seed=seed)
    dropped = None
    if settings.drop_magnifications is not None:
        dropped = ShownWithout.of(branches, sets, settings.drop_magnifications)
    bags = read_arm_bags(
        branches,
        sets,
        cohort.slides,
        most_instances=settings.most_instances,
        seed=seed,
        left_out=left_out,
        seen_as=shown,
    )
    usual = _read_means(tiles, cohort.slides, left_out)
    if left_out.notes():
        bags = {key: bag.without(left_out.reasons) for key, bag in bags.items()}
        cohort = cohort.without(left_out.reasons)
        dealt = _splits(splits, cohort, settings)
    stop = None if stop is None else replace(stop, cohort=cohort)
    folds = dealt.folds(cohort, inner=settings.probes.inner_folds, seed=seed)
    whole = whole_fold(cohort, inner=settings.probes.inner_folds, seed=seed)
    # One probe for each branch and seed. Only fits have another seed; folds stay.
    jobs = [(branch, seed + more) for branch in branches for more in range(settings.seeds if branch.is_random else 1)]
    kept = out.absolute().with_name(f".{out.name}.kept")
    cache = StepCache(kept, (FoldPrediction, ProbeState))
    fit_jobs = partial(_fit_jobs, jobs, settings.probes, cache, tell)
    with threadpool_limits(1):
        # Slides that are read whole have probes that were shown no others, and lose nothing by it.
        alone = bags if shown is None else {key: shown.whole(bag) for key, bag in bags.items()}
        if dropped is None:
            of_folds, score = fit_jobs(alone, cohort.outcome, [*folds, whole])
        else:
            every = [dropped.fold(fold) for fold in (*folds, whole)]
            of_folds, of_all = fit_jobs(dropped.bags(alone), dropped.outcome(cohort.outcome), every)
            score = dropped.of_showing(of_all, 0)
        probes, part_probes, showings = [one[-1] for one in of_folds], list[FittedProbe](), [score]
        if shown is not None:
            every = [shown.fold(fold) for fold in (*folds, whole)]
            of_showings, of_all = fit_jobs(bags, shown.outcome(cohort.outcome), every)
            part_probes = [one[-1] for one in of_showings]
            showings += [shown.of_showing(of_all, number + 1) for number in range(len(shown.budgets))]
        by_repeat = [_by_repeat(one, folds, len(cohort.slides)) for one in showings]
        calibrations = [fit_calibration(cohort.outcome, one, cohort.groups) for one in by_repeat]
        held_out = by_repeat[0]
        brier = held_out_brier(cohort.outcome, held_out, cohort.groups, folds) if cohort.outcome.classes else None
        stopped = None
        if stop is not None:
            by_last = probes[0].score([bags[key] for key in branches[0].bags], np.arange(len(cohort.slides)))
            in_part = stop.scores(of_folds[0], folds, cache)
            stopped = stop.fitted(in_part, held_out, by_last, calibrations[0], folds)
        habits = fit_habits(usual, cohort.groups, false_alarms=settings.false_alarms, seed=seed)

    def branch_facts(fitted: Sequence[FittedProbe]) -> tuple[BranchFacts, ...]:
        return tuple(_branch_facts(branch, probe, sets) for (branch, _), probe in zip(jobs, fitted, strict=True))

    def measured(said: Sequence[FoldPrediction], brier: float | None = None) -> MetricFacts:
        run = compare_arms([chosen], [ArmFits(tuple(said), 0.0, 0.0)], cohort, dealt, folds, seed=seed)
        return MetricFacts(name=run.metric.name, brier=brier, **_fields(run.runs[0].interval, MetricFacts))

    if asked_parts is not None:
        fitted = {
            "branches": branch_facts(part_probes),
            "metrics": tuple(measured(one) for one in showings[1:]),
            "calibrations": tuple(CalibrationFacts(**_fields(one, CalibrationFacts)) for one in calibrations[1:]),
        }
        asked_parts = asked_parts.model_copy(update=fitted)
    facts = HeadFacts(
        parfocal_head=FORMAT_VERSION,
        parfocal_version=__version__,
        target=cohort.target,
        kind=cohort.outcome.kind,
        classes=cohort.outcome.classes,
        arm=chosen.id,
        arm_label=chosen.label,
        branches=branch_facts(probes),
        parts=asked_parts,
        tiles=describe_tiles(tiles, encoder),
        model=None if model is None else model.facts,
        trained_on=_trained_on(cohort, labels),
        metric=measured(score, brier),
        calibration=CalibrationFacts(**_fields(calibrations[0], CalibrationFacts)),
        outside=OutsideFacts(
            bags=tuple(bag.name for bag in habits.bags),
            false_alarms=habits.limit.asked,
            **_fields(habits.limit, OutsideFacts),
        ),
        stopping=None if stopped is None else stopped.facts(measured(stopped.predictions)),
        settings=settings.model_dump(mode="json"),
        arrays_digest="",
    )
    folder = None if model is None else model.folder
    own, *of_parts = calibrations
    head = Head(facts, tuple(probes), own, habits, folder, out, tuple(part_probes), tuple(of_parts))
    tell(Progress("probes", len(jobs), len(jobs)))
    written = write_head(head, out)
    shutil.rmtree(kept, ignore_errors=True)
    return written


def _read_means(tiles: EmbeddingSet, slides: Sequence[str], left_out: LeftOut) -> list[Bag]:
    """What is usual is learnt from means of tiles and regions, so one instance of each slide is enough to keep."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*attention sees a random part", ParfocalWarning)
        bags = read_bags(tiles, left_out.keep(slides), most_instances=1, left_out=left_out)
    return [bag.without(left_out.reasons) for bag in bags]


def _fit_jobs(
    jobs: Sequence[tuple[Arm, int]],
    settings: ProbeSettings,
    cache: StepCache,
    tell: OnEvent,
    bags: Bags,
    outcome: Outcome,
    folds: Sequence[Fold],
) -> tuple[list[list[FittedProbe]], list[FoldPrediction]]:
    """The probes of each job, one for each fold, and the mean of what those of all folds but the last say there."""
    probes: list[list[FittedProbe]] = []
    predictions: list[list[FoldPrediction]] = []
    for number, (branch, own_seed) in enumerate(jobs):
        tell(Progress("probes", number, len(jobs), branch.label))
        own = [bags[key] for key in branch.bags]
        choices = settings.model_copy(update={"seed": own_seed})
        decided_by = [own, outcome, folds, choices.model_dump(mode="json", exclude={"device"})]
        work = partial(_fit_branch, branch, own, outcome, folds, choices)
        held_out_of_branch, states = cache.step(f"{branch.method} {branch.reads}", decided_by, work)
        predictions.append(held_out_of_branch)
        probes.append([load_probe(state) for state in states])
    return probes, average_predictions(predictions) if len(jobs) > 1 else predictions[0]


def _fit_branch(
    branch: Arm,
    bags: Sequence[Bag],
    outcome: Outcome,
    folds: Sequence[Fold],
    choices: ProbeSettings,
) -> tuple[list[FoldPrediction], list[ProbeState]]:
    """The predictions of a probe in every fold but the last, which tests nothing, and the probes of all.

    Raises:
        ParfocalError: the fit failed, or gave scores that are not finite.
    """
    assert branch.pool is not None  # an arm that averages others averages arms with a probe
    probes = attempt(partial(branch.pool, bags, outcome, folds, choices))
    try:
        if isinstance(probes, Failed):
            raise FitFailedError(str(probes))
        predictions = attempt_fit(partial(predict, probes[:-1], bags, folds[:-1]), folds[:-1])
    except FitFailedError as error:
        raise ParfocalError(f"cannot fit {branch.label} on {outcome.target!r}: {error}.") from error
    return predictions, [probe.state() for probe in probes]


def _splits(path: Path | None, cohort: Cohort, settings: FitSettings) -> Splits:
    if path is None:
        return make_splits(cohort, folds=settings.folds, repeats=settings.repeats, seed=settings.probes.seed)
    found = read_splits(path)
    if cohort.target not in found:
        raise ConfigError(f"{path} has no folds for {cohort.target!r}; it has them for {', '.join(found) or 'none'}.")
    return found[cohort.target]


def _by_repeat(
    predictions: Sequence[FoldPrediction], folds: Sequence[Fold], n_slides: int
) -> Float64[np.ndarray, "repeat slide column"]:
    """The score of every slide in every repeat, by a probe that had not seen it."""
    repeats = sorted({fold.repeat for fold in folds})
    score = np.full((len(repeats), n_slides, predictions[0].score.shape[1]), np.nan)
    for fold, prediction in zip(folds, predictions, strict=True):
        score[repeats.index(fold.repeat), fold.test] = prediction.score
    return score


def _branch_facts(branch: Arm, probe: FittedProbe, sets: Sequence[EmbeddingSet]) -> BranchFacts:
    def source(one: EmbeddingSet) -> str:
        return str(one.settings["readout"]) if is_made_by_model(one) else TILES

    state = probe.state()
    bags = tuple((source(sets[number]), name) for number, name in branch.bags)
    return BranchFacts(bags=bags, probe=state.probe, facts=dict(state.facts))


def _trained_on(cohort: Cohort, labels: Path) -> TrainedOn:
    outcome = cohort.outcome
    counts = Counter(outcome.value.astype(int).tolist()) if outcome.classes else {}
    classes: Mapping[str, int] = {name: counts.get(number, 0) for number, name in enumerate(outcome.classes)}
    return TrainedOn(
        slides=len(cohort.slides),
        patients=cohort.n_groups if cohort.is_grouped else None,
        classes=dict(classes),
        labels=file_digest8(labels),
        notes=tuple(cohort.group_notes()),
    )


def _fields(source: object, facts: type[Settings]) -> dict[str, Any]:
    """Those attributes of an object that a kind of facts has too, as plain values."""
    values = {name: getattr(source, name) for name in facts.model_fields if hasattr(source, name)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}
