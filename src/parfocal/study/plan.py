"""What a study would do and what is done of it already; nothing is written and nothing is trained.

How long the fits of an evaluation would take is measured: one fit of each sort on random numbers, multiplied.
"""

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.bags import DECODED, Bag, RepresentChoices
from parfocal.cohort import Fold, Outcome
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.fitting import one_thread_each
from parfocal.geometry import format_mpp
from parfocal.heads import Fit, ProbeSettings, fit_attention, fit_contrast, fit_mean
from parfocal.heads.abmil import fit_abmil
from parfocal.heads.moments import fit_moments
from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.holdout import check_hidable, shared_groups, split_set
from parfocal.region_encoder.checkpoint import read_pretraining
from parfocal.region_encoder.config import SIZES
from parfocal.run.device import find_device
from parfocal.store import EmbeddingSet, only_mpps
from parfocal.study.budgets import check_budget
from parfocal.study.checks import (
    check_arms,
    check_evaluation,
    check_labels,
    check_place,
    check_test_set,
    expected_arms,
    pictured_set,
    planned_set,
)
from parfocal.study.places import folds_at_places
from parfocal.study.plan_tiles import PlannedCohort, TilesPlan, gib, plan_tiles
from parfocal.study.settings import PlaceTargets, Study
from parfocal.study.stages import groups_of, model_folder

__all__ = ["ModelPlan", "StudyPlan", "TilesPlan", "fit_hours", "plan_study"]

_SLIDES, _REGIONS, _WIDTH = 24, 8, 64
_SORTS: Mapping[str, Fit] = {
    "a mean": fit_mean,
    "gated attention": fit_attention,
    "contrast": fit_contrast,
    "second moments": fit_moments,
    "ABMIL": fit_abmil,
}
# Which of these an arm's fit is like; networks cost about what gated attention does.
_LIKE = {
    **dict.fromkeys(("mean", "concat"), "a mean"),
    **dict.fromkeys(("contrast", "pseudo-contrast", "second-moment"), "contrast"),
    **dict.fromkeys(("finest", "context", "everything", "elsewhere"), "second moments"),
    "abmil": "ABMIL",
}


def fit_hours(study: Study, arms: Sequence[Arm], folds: Mapping[str, Sequence[Fold]]) -> tuple[float | None, str]:
    """The hours that all fits would take here, and what that is based on; None where it is not known.

    Args:
        study: its evaluation.
        arms: what would be fitted.
        folds: of each target; none where they are not known.
    """
    settings = study.evaluation
    fitted = [arm for arm in arms if arm.pool is not None and arm.method != "finetune"]
    slow = [arm.id for arm in arms if arm.method == "finetune"]
    if not folds or not fitted:
        return None, "no time, because nothing is known to be fitted"
    sorts = {arm.id: _LIKE.get(arm.method, "gated attention") for arm in fitted}
    seconds = {sort: _seconds(_SORTS[sort], settings.probes) for sort in dict.fromkeys(sorts.values())}
    total = 0.0
    for of_target in folds.values():
        train = sum(len(fold.train) for fold in of_target)
        if study.test is not None:
            train += len(of_target[0].train) + len(of_target[0].test)
        for arm in fitted:
            seeds = settings.seeds if arm.is_random else 1
            total += seconds[sorts[arm.id]] * train / (_SLIDES * 3 / 4) * seeds
    side_by_side = min(settings.arms_at_a_time, os.cpu_count() or 1)
    basis = (
        f"one fit each of {', '.join(seconds)} on random numbers of {_SLIDES} slides of {_REGIONS} regions, times the "
        f"slides and fits of this study; wider vectors take longer, and what is kept already is not subtracted"
    )
    if slow:
        basis += f"; without {', '.join(slow)}, which trains a region encoder in every fold"
    return total / side_by_side / 3600, basis


def _seconds(fit: Fit, probes: ProbeSettings) -> float:
    """Of one fit on random numbers, which is not done with more of anything than the study asks for."""
    rng = np.random.default_rng(0)
    numbers = np.arange(_SLIDES)
    fold = Fold(0, 0, numbers[numbers % 4 > 0], numbers[numbers % 4 == 0], np.arange(_SLIDES * 3 // 4) % 2)
    outcome = Outcome.binary(rng.permutation(numbers % 2 == 1))
    bags = [_bag(name, rng) for name in ("0.5", "2")]
    own = probes.model_copy(update={"device": "cpu"})
    with warnings.catch_warnings(), one_thread_each():
        warnings.simplefilter("ignore")
        started = time.monotonic()
        fit(bags if fit in (fit_contrast, fit_moments) else bags[:1], outcome, [fold], own)
        return time.monotonic() - started


def _bag(name: str, rng: np.random.Generator) -> Bag:
    rows = rng.standard_normal((_SLIDES * _REGIONS, _WIDTH)).astype(np.float32)
    start = np.arange(_SLIDES + 1) * _REGIONS
    return Bag(
        name=name,
        slides=tuple(f"s{number:02d}" for number in range(_SLIDES)),
        rows=rows,
        start=start,
        n_instances=np.full(_SLIDES, _REGIONS),
        mean=rows.reshape(_SLIDES, _REGIONS, _WIDTH).mean(axis=1),
        region_mean=rows,
        region_start=start,
        region_present=np.ones(len(rows), dtype=bool),
    )


@dataclass(frozen=True)
class ModelPlan:
    """One region encoder.

    Attributes:
        name: its name in the file.
        folder: where it lies; None while the slides that it is trained on are not all there.
        size: T, S or B.
        objective: mem, cmem, contrastive, or random for a model of no step.
        mpps: the magnifications that it sees.
        steps: how many steps of training.
        batch: regions of a step.
        done: whether it is trained already.
        gib: what its region embeddings take, in all readouts.
    """

    name: str
    folder: str | None
    size: str
    objective: str
    mpps: tuple[str, ...]
    steps: int
    batch: int
    done: bool
    gib: float


@dataclass(frozen=True)
class StudyPlan:
    """What a study consists of.

    Attributes:
        tiles: the cohort's tile embeddings.
        test_tiles: those of the external cohort.
        models: the region encoders.
        arms: the arms' ids.
        targets: the columns; of places `all` may stand for every one.
        folds: of one repeat.
        repeats: of the cross-validation.
        fits: arms x targets x folds x repeats, at places arms x folds; each chooses among several candidates inside.
        fit_hours: how long all fits would take on this machine; None where nothing could be measured.
        fit_basis: what that was measured on, and what it leaves out.
        is_at_places: whether targets are inside slides.
        budget_fits: fits that budgets are compared by, arms x targets x folds x repeats; their time is not estimated.
    """

    tiles: TilesPlan
    test_tiles: TilesPlan | None
    models: tuple[ModelPlan, ...]
    arms: tuple[str, ...]
    targets: tuple[str, ...]
    folds: int
    repeats: int
    fits: int
    fit_hours: float | None
    fit_basis: str
    is_at_places: bool = False
    budget_fits: int = 0

    @property
    def exit_status(self) -> int:
        """0 when no slide would fail, 1 when all of a cohort would, 3 when some would."""
        cohorts = [one for one in (self.tiles, self.test_tiles) if one is not None]
        if any(one.problems and not one.slides for one in cohorts):
            return 1
        return 3 if any(one.problems for one in cohorts) else 0

    def describe(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def plan_study(study: Study, out: Path) -> StudyPlan:
    """Count everything that a study would do, and raise for everything that would stop it, in the order of the run.

    Slides are opened and their tissue is found; tiles of one slide are read and encoded, and a few fits are done on
    random numbers, for the estimates of time.

    Args:
        study: what to do.
        out: where it would be done, for what is there already.

    Raises:
        ConfigError: labels, arms, models, folds and slides do not fit together; a slide, a store or the device is not
            there.
        MismatchError: a model is to see a magnification that there is not, or the external cohort was made otherwise.
        StoreError: nothing can be written to `out`.
    """
    check_place(out)
    check_labels(study, None)
    device = str(find_device(study.run.device))
    ours = plan_tiles(study, study, out / "store", device)
    tiles = ours.tiles
    pictured = (
        ours.made
        if ours.made is not None
        else pictured_set(study.grid, list(tiles.tiles) or list(map(format_mpp, study.grid.mpps)))
    )
    check_arms(study, pictured)
    n_budget_arms, budget_targets = check_budget(study, pictured)
    theirs = plan_tiles(study, study.test, out / "test-store", device) if study.test is not None else None
    check_test_set(ours.made, theirs.made if theirs is not None else None)
    arms = expected_arms(study, pictured)
    folds: dict[str, list[Fold]] = {}
    if ours.regions and (theirs is None or theirs.regions):  # else nothing could be done, whatever the labels say
        test_slides = None if theirs is None else theirs.labelled
        folds = check_evaluation(study, ours.labelled, f"the {tiles.source}", test_slides)
    planned = ours.made if ours.is_complete and ours.made else planned_set(pictured, ours.regions, ours.counts)
    models = tuple(_plan_model(study, name, settings, ours, planned, out) for name, settings in study.models.items())
    evaluation = study.evaluation
    if study.places is not None:
        n_folds, repeats = _folds_at_places(study.places, ours, evaluation.folds), 1
        asked, n_fits = study.places.targets, len(arms) * n_folds
        hours, basis = None, "no time: a ridge regression of each arm and fold, in closed form, for all targets at once"
    else:
        n_folds, repeats, asked = evaluation.folds, evaluation.repeats, tuple(study.of_slides.targets)
        n_fits = sum(len(arms) * len(folds.get(target, [None] * n_folds * repeats)) for target in asked)
        hours, basis = fit_hours(study, [arm for arm in arms if isinstance(arm, Arm)], folds)
    return StudyPlan(
        tiles,
        None if theirs is None else theirs.tiles,
        models,
        tuple(arm.id for arm in arms),
        asked,
        n_folds,
        repeats,
        n_fits,
        hours,
        basis,
        study.places is not None,
        sum(n_budget_arms * len(folds.get(target.name, [None] * n_folds * repeats)) for target in budget_targets),
    )


def _folds_at_places(places: PlaceTargets, ours: PlannedCohort, folds: int) -> int:
    """How many folds there will be; those that are asked for where no slide would be there."""
    return folds_at_places(places, ours.labelled, folds) if ours.regions else folds


def _bytes_of(
    choices: RepresentChoices,
    settings: PretrainSettings,
    ours: PlannedCohort,
    planned: EmbeddingSet,
    seen: Sequence[float],
) -> int:
    """What one run of `represent` writes of the cohort.

    Args:
        choices: its readouts.
        settings: of the model.
        ours: the cohort.
        planned: its set, as it will be.
        seen: the magnifications that the model sees.
    """
    tiles, width = ours.tiles, SIZES[settings.size]["width"]
    read = [format_mpp(mpp) for mpp in choices.read_mpps or seen]
    # Features may not say their magnifications, and are counted by their folders.
    called = dict(zip(map(format_mpp, planned.mpps), tiles.tiles, strict=False))
    # What is predicted is as wide as the embedding of a tile.
    row = 2 * ours.made.dims[ours.made.mpps[-1]] if ours.made is not None else 0.0
    n_new = sum(tiles.to_encode.values())
    if not row and n_new and tiles.gib:
        row = tiles.gib * 2**30 / n_new
    each: Mapping[str, float] = {
        "cls": tiles.regions * width * 2,
        "attention": tiles.regions * (1 + len(seen)) * width * 2,
        "tokens": sum(own[called[mpp]] for own in ours.counts.values() for mpp in read if mpp in called) * width * 2,
        **dict.fromkeys(DECODED, tiles.regions * row),
    }
    return round(sum(each[readout] for readout in choices.readouts))


def _plan_model(
    study: Study, name: str, settings: PretrainSettings, ours: PlannedCohort, planned: EmbeddingSet, out: Path
) -> ModelPlan:
    tiles = ours.tiles
    named = tuple(format_mpp(mpp) for mpp in settings.mpps)
    seen = named or tuple(tiles.tiles)
    folder, done = None, False
    training: float = (1 - settings.holdout) * tiles.regions
    groups = groups_of(study, planned) if planned.slides else {}
    if ours.is_complete:
        place = model_folder(out / "models", name, settings, planned, groups)
        folder, done = str(place), (place / "config.json").is_file() and bool(read_pretraining(place))
    # Of a single slide, fragments of tissue are held out, which only its embeddings show.
    if ours.is_complete or sum(count > 0 for count in ours.regions.values()) > 1:
        visible = only_mpps(planned, settings.mpps)
        split = split_set(
            visible,
            share=settings.holdout,
            slides=settings.holdout_slides,
            seed=settings.seed,
            groups=shared_groups(planned.slides, groups),
        )
        check_hidable(visible, split)
        training = sum(len(part.regions) for part in split.training)
    from_epochs = max(1, math.ceil(settings.epochs * training / settings.batch))
    steps = from_epochs if settings.steps is None else settings.steps
    visible_mpps = only_mpps(planned, settings.mpps).mpps
    n_bytes = sum(
        _bytes_of(one, settings, ours, planned, visible_mpps) for one in study.read_out(settings, visible_mpps)
    )
    objective = settings.objective if steps else "random"
    return ModelPlan(name, folder, settings.size, objective, seen, steps, settings.batch, done, gib(n_bytes))
