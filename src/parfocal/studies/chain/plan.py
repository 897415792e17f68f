"""What a study would do and what is done of it already; nothing is written and nothing is trained."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parfocal.embeddings import EmbeddingSet
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.holdout import shared_groups, split_set
from parfocal.region_encoder.checkpoint import read_pretraining
from parfocal.region_encoder.config import SIZES
from parfocal.studies.chain.arms import expected_arms, pictured_set
from parfocal.studies.chain.plan_tiles import TilesPlan, gib, plan_tiles
from parfocal.studies.chain.settings import Study
from parfocal.studies.chain.stages import groups_of, model_folder, resolve_device

__all__ = ["ModelPlan", "StudyPlan", "TilesPlan", "plan_study"]


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
        targets: the columns.
        folds: of one repeat.
        repeats: of the cross-validation.
        fits: arms x targets x folds x repeats; each chooses among several candidates inside.
    """

    tiles: TilesPlan
    test_tiles: TilesPlan | None
    models: tuple[ModelPlan, ...]
    arms: tuple[str, ...]
    targets: tuple[str, ...]
    folds: int
    repeats: int
    fits: int

    def describe(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def plan_study(study: Study, out: Path) -> StudyPlan:
    """Count everything that a study would do.

    Slides are opened and their tissue is found; tiles of one slide are read and encoded for the estimate of time.

    Args:
        study: what to do.
        out: where it would be done, for what is there already.

    Raises:
        ConfigError: a slide, a store or an encoder is not there.
        EncoderError: the encoder cannot be loaded here.
    """
    device = resolve_device(study.run.device)
    tiles, made = plan_tiles(study, study, out / "store", device)
    test = plan_tiles(study, study.test, out / "test-store", device)[0] if study.test is not None else None
    pictured = made if made is not None else pictured_set(study.grid, list(tiles.tiles))
    complete = made is not None and tiles.done == tiles.slides
    models = tuple(
        _plan_model(study, name, settings, tiles, made if complete else None, out)
        for name, settings in study.models.items()
    )
    arms = expected_arms(study, pictured)
    evaluation = study.evaluation
    fits = len(arms) * len(study.labels.targets) * evaluation.folds * evaluation.repeats
    return StudyPlan(
        tiles,
        test,
        models,
        tuple(arm.id for arm in arms),
        tuple(study.labels.targets),
        evaluation.folds,
        evaluation.repeats,
        fits,
    )


def _plan_model(
    study: Study, name: str, settings: PretrainSettings, tiles: TilesPlan, made: EmbeddingSet | None, out: Path
) -> ModelPlan:
    named = tuple(format_mpp(mpp) for mpp in settings.mpps)
    seen = named or tuple(tiles.tiles)
    folder, done = None, False
    training = (1 - settings.holdout) * tiles.regions
    if made is not None:
        groups = groups_of(study, made)
        place = model_folder(out / "models", name, settings, made, groups)
        folder, done = str(place), (place / "config.json").is_file() and bool(read_pretraining(place))
        split = split_set(
            made,
            share=settings.holdout,
            slides=settings.holdout_slides,
            seed=settings.seed,
            groups=shared_groups(made.slides, groups),
        )
        training = sum(len(part.regions) for part in split.training)
    from_epochs = max(1, math.ceil(settings.epochs * training / settings.batch))
    steps = from_epochs if settings.steps is None else settings.steps
    width = SIZES[settings.size]["width"]
    rows = {
        "cls": tiles.regions,
        "attention": tiles.regions * (1 + len(seen)),
        "tokens": sum(count for mpp, count in tiles.tiles.items() if mpp in seen),
    }
    n_bytes = sum(rows[readout] for readout in study.readouts) * width * 2
    objective = settings.objective if steps else "random"
    return ModelPlan(name, folder, settings.size, objective, seen, steps, settings.batch, done, gib(n_bytes))
