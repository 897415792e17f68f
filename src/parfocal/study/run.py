"""The whole chain from one file: tiles, region encoders, region embeddings, the comparison, and one report."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from parfocal.budget import BudgetResult
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate import EvaluateResult, FailedArm
from parfocal.evaluate.places import PlaceSettings, PlacesResult, evaluate_places
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.evaluate.sources import common_slides
from parfocal.files import writable_folder
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainSettings
from parfocal.report import Reference, Section
from parfocal.run import FailedSlide
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, as_stage, warn_of
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.store import EmbeddingSet
from parfocal.study.budgets import check_budget, measure_targets
from parfocal.study.checks import (
    arms_of_model,
    check_arms,
    check_evaluation,
    check_labels,
    check_test_set,
    pictured_set,
)
from parfocal.study.page import stages_section, training_section
from parfocal.study.settings import CohortSource, Study
from parfocal.study.stages import (
    Listen,
    Made,
    StageClock,
    groups_of,
    make_model,
    make_regions,
    make_tiles,
    model_folder,
    tiles_stage,
)

_Sets = tuple[tuple[EmbeddingSet, ...], tuple[EmbeddingSet, ...]]
"""What a model makes of the cohort, and of the external one."""


@dataclass(frozen=True)
class Extras:
    """What a caller adds to the page who knows more about the cohort than the file does.

    Attributes:
        references: for each target, what to print beside arms of a kind.
        sections: further parts of the page.
    """

    references: Mapping[str, Mapping[str, Sequence[Reference]]] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Where everything is.

    Attributes:
        report: the page to open.
        tiles: the cohort's tile embeddings.
        models: the folder of each region encoder.
        regions: the sets of region embeddings, model by model.
        evaluation: the arms' results.
        failed: slides that failed in any stage.
        failed_models: region encoders that could not be trained or used, and why; their arms failed.
        seconds: wall-clock time of each stage.
        budgets: how few fine tiles are enough for each target, where the study asks.
    """

    report: Path
    tiles: EmbeddingSet
    models: Mapping[str, Path]
    regions: tuple[EmbeddingSet, ...]
    evaluation: EvaluateResult | PlacesResult
    failed: tuple[FailedSlide, ...]
    failed_models: Mapping[str, str]
    seconds: Mapping[str, float]
    budgets: Mapping[str, BudgetResult]

    @property
    def exit_status(self) -> int:
        """0 when all slides, models and arms are in, 3 when some failed."""
        if self.failed or self.failed_models:
            return 3
        return 0 if isinstance(self.evaluation, PlacesResult) else self.evaluation.exit_status


def run_study(
    plan: Study,
    out: Path,
    *,
    extras: Callable[[EmbeddingSet], Extras] | None = None,
    on_event: OnEvent | None = None,
) -> StudyResult:
    """Run every stage of a study that is not done, compare the arms, and write one report.

    Every stage is the public function of a command, and keeps what is done: a study that was killed anywhere is
    continued by the same call and gives the same report. A setting that has changed never uses what another one made:
    sets of embeddings and models lie in folders named by a digest of all that decides them, and finished arms are kept
    under a digest of the numbers that they were fitted on. A model whose training fails takes its own arms with it, and
    nothing else.

    Args:
        plan: what to do, from `read_study`.
        out: folder of `store`, `models`, `regions`, `kept` (finished arms), `report`, and `budget` where the study has
            such a section.
        extras: is given the tile embeddings, and gives what to add to the page.
        on_event: told how far each stage is, and what each target holds, by its table first and by the slides that are
            left before the evaluation.

    Raises:
        ConfigError: the labels, the slides and the settings do not fit together.
        ParfocalError: a stage failed on every slide.
    """
    writable_folder(out)
    tell = on_event or warn_of
    check_labels(plan, lambda sentence: tell(Notice(sentence)))
    run = _Run(plan, out, tell)
    if plan.slides is not None:
        pictured = pictured_set(plan.grid, list(map(format_mpp, plan.grid.mpps)))
        check_arms(plan, pictured)
        check_budget(plan, pictured)
    tiles = run.tiles(plan, "store")
    run.primary, run.groups = check_arms(plan, tiles), groups_of(plan, tiles)
    check_budget(plan, tiles)
    theirs = run.tiles(plan.test, "test-store", " of the test cohort") if plan.test is not None else None
    check_test_set(tiles, theirs)
    check_evaluation(plan, _usable(tiles), tiles.name, _usable(theirs) if theirs is not None else None)
    added = extras(tiles) if extras else Extras()
    sets, test_sets = [tiles], [theirs] if theirs is not None else []
    models: dict[str, Path] = {}
    for name, own in plan.models.items():
        folder = model_folder(out / "models", name, own, tiles, run.groups)
        made = run.attempt(name, partial(_make_model, run, folder, own, tiles, theirs))
        if made is not None:
            models[name] = folder
            sets, test_sets = [*sets, *made[0]], [*test_sets, *made[1]]
    trained = training_section({name: (folder, plan.models[name]) for name, folder in models.items()}, tiles)
    sections = (
        *added.sections,
        stages_section(run.clock.seconds, tiles, run.failed, run.failed_models, encoder=plan.encoder, title=plan.title),
        *([trained] if trained else []),
    )
    described = {"study": _described(plan, sets, models, out / "report")}
    started = time.monotonic()
    evaluation: EvaluateResult | PlacesResult
    if plan.places is not None:
        evaluation = evaluate_places(
            sets,
            plan.places.file,
            plan.places.targets,
            out / "report",
            PlaceSettings.of(plan.evaluation, plan.places),
            group=plan.places.group,
            sections=sections,
            described=described,
            on_event=as_stage(tell, "evaluate", "arms"),
        )
    else:
        evaluation = _evaluate_slides(run, sets, test_sets, models, added, sections, described)
    seconds = {**run.clock.seconds, "evaluate": time.monotonic() - started}
    budgets = {} if plan.budget is None else measure_targets(plan, tiles, out, run.device, on_event=tell)
    return StudyResult(
        evaluation.report,
        tiles,
        models,
        tuple(sets[1:]),
        evaluation,
        tuple(run.failed),
        run.failed_models,
        seconds,
        budgets,
    )


def _evaluate_slides(
    run: "_Run",
    sets: Sequence[EmbeddingSet],
    test_sets: Sequence[EmbeddingSet],
    models: Mapping[str, Path],
    added: Extras,
    sections: Sequence[Section],
    described: Mapping[str, object],
) -> EvaluateResult:
    plan, labels = run.plan, run.plan.of_slides
    return evaluate_arms(
        sets,  # not their folders, which may hold slides of an earlier version of the file
        labels.file,
        labels.named_targets,
        run.out / "report",
        _evaluation_on(plan, run),
        columns=labels.columns,
        splits=labels.splits,
        test=test_sets,
        test_labels=plan.test.labels if plan.test is not None else None,
        keep=run.out / "kept",
        references=added.references,
        sections=sections,
        models=[models[name] for name in plan.finetune if name in models],
        described=described,
        absent=[
            FailedArm(arm, f"its region encoder failed: {reason}")
            for name, reason in run.failed_models.items()
            for arm in arms_of_model(plan, name, sets[0])
        ],
        on_event=as_stage(run.tell, "evaluate", "arms"),
    )


class _Run:
    """The stages of one call, each told, timed, and its failed slides gathered."""

    def __init__(self, plan: Study, out: Path, tell: OnEvent) -> None:
        self.plan, self.out, self.tell = plan, out, tell
        self.device = str(find_device(plan.run.device))
        self.clock = StageClock(out / "stages.json")
        self.failed: list[FailedSlide] = []
        self.failed_models: dict[str, str] = {}
        self.primary: str | None = None
        self.groups: Mapping[str, str] = {}

    def tiles(self, source: CohortSource, store: str, whose: str = "") -> EmbeddingSet:
        """The tile embeddings of a cohort."""
        return self.stage(tiles_stage(source, whose), partial(make_tiles, self.plan, source, self.out / store))[0]

    def attempt(self, model: str, work: Callable[[], _Sets]) -> _Sets | None:
        """What a model needs, or None when it fails, for whatever reason but a wrong setting or a full disk."""
        made = attempt(work, passing=(ConfigError, OSError))
        if not isinstance(made, Failed):
            return made
        self.failed_models[model] = str(made)
        warnings.warn(f"the model {model} failed, and its arms with it: {made}.", ParfocalWarning, stacklevel=3)
        return None

    def stage(self, name: str, work: Callable[[Listen], Made]) -> tuple[EmbeddingSet, ...]:
        """The sets that a stage leaves behind."""
        made = self.clock.run(name, partial(work, partial(as_stage, self.tell, name)))
        self.failed += made.failed
        return made.sets


def _make_model(
    run: _Run, folder: Path, settings: PretrainSettings, tiles: EmbeddingSet, theirs: EmbeddingSet | None
) -> _Sets:
    """A trained model, and what it makes of the cohort and of the external one."""
    run.stage(f"pretrain {folder.name}", partial(make_model, folder, settings, tiles, run.groups, run.device))

    def represent(cohort: EmbeddingSet, store: str, whose: str = "") -> tuple[EmbeddingSet, ...]:
        work = partial(make_regions, run.plan, settings, cohort, folder, run.out / store, run.device)
        return run.stage(f"represent{whose} by {folder.name}", work)

    own = represent(tiles, "regions")
    return own, () if theirs is None else represent(theirs, "test-regions", " of the test cohort")


def _evaluation_on(plan: Study, run: _Run) -> EvaluateSettings:
    """The evaluation on the device of the study; where models failed, still about the arm that it was to be about."""
    evaluation = plan.evaluation_on(run.device)
    if run.failed_models and evaluation.primary is None:
        evaluation = evaluation.model_copy(update={"primary": run.primary})
    return evaluation


def _usable(tiles: EmbeddingSet) -> list[str]:
    """The slides that every arm can read; which others there are is said by the evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        return common_slides([tiles])[0]


def _described(plan: Study, sets: Sequence[EmbeddingSet], models: Mapping[str, Path], report: Path) -> dict[str, Any]:
    """The study in `results.json`, with what is needed to fit one of its arms on all slides; paths are relative."""
    about: dict[str, Any] = {
        "sets": [os.path.relpath(one.path.resolve(), report.resolve()) for one in sets],
        "models": {name: os.path.relpath(folder, report) for name, folder in models.items()},
        "file": plan.described(),
    }
    if plan.places is not None:
        return {**about, "places": os.path.relpath(plan.places.file, report), "slides": list(sets[0].slides)}
    labels = plan.of_slides
    table = {"labels": os.path.relpath(labels.file, report)}
    return {**table, **about, **labels.model_dump(mode="json", exclude={"file", "splits", "by"})}
