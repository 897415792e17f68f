"""What of a study cannot work, found before anything long is done: the run and its plan ask the same questions.

Among them which arms it will have, before there is any set to make them of.
"""

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parfocal.bags import DECODED, RepresentChoices
from parfocal.cohort import Fold, read_cohort, whole_fold
from parfocal.config import GridConfig
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.evaluate.arm import Arm, Knowledge, choose_arms
from parfocal.evaluate.arms import all_arms
from parfocal.evaluate.compare import choose_primary
from parfocal.evaluate.external import check_external
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.places.fitting import PlaceArm, arms_at_places
from parfocal.evaluate.run import deal, read_dealt, read_outside
from parfocal.evaluate.sources import matching_sets
from parfocal.evaluate.vectors import read_all_vectors
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, find_vector_folders, only_mpps
from parfocal.study.places import check_targets, folds_at_places
from parfocal.study.settings import Study


def expected_arms(study: Study, tiles: EmbeddingSet) -> tuple[Arm, ...] | tuple[PlaceArm, ...]:
    """The arms, by the table itself: it looks only at what sets say about themselves.

    Args:
        study: its models and readouts.
        tiles: the cohort's set, or one that `pictured_set` gives.

    Raises:
        ConfigError: the study asks for arms that it cannot have.
        StoreError: there are no slide vectors where the evaluation names some.
        MismatchError: a model is to see a magnification that the set lacks.
    """
    if study.places is not None:
        return arms_at_places(_pictured_sets(study, tiles), study.evaluation.arms)
    return _arms_of_slides(study, tiles)


def _arms_of_slides(study: Study, tiles: EmbeddingSet) -> tuple[Arm, ...]:
    tuned = []
    for name, settings in study.models.items():
        if name in study.finetune:
            several = len(only_mpps(tiles, settings.mpps).mpps) > 1
            knows: Knowledge = "mixed" if several else "single, with regions"
            tuned.append(Arm(name, "finetune", knows, "fine-tuned", name, "", model=name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)  # of files that are passed over, which the evaluation says
        vectors = [folder.name for folder in find_vector_folders(study.evaluation.slide_vectors)]
    arms = all_arms(_pictured_sets(study, tiles), vectors=vectors)
    return choose_arms((*arms, *tuned), study.evaluation.arms)


def _pictured_sets(study: Study, tiles: EmbeddingSet) -> list[EmbeddingSet]:
    """The set of tiles, and what the models of the study would make of it."""
    sets, given = [tiles], set[str]()
    for name, settings in study.models.items():
        seen = only_mpps(tiles, settings.mpps)
        weights = {"weights": "random"} if settings.steps == 0 else {}
        for one in study.read_out(settings, seen.mpps):
            for readout in one.readouts:
                sets.append(_pictured_readout(only_mpps(seen, one.read_mpps), seen, name, readout, one, weights))
            given |= {*one.readouts}
    asked = [readout for one in study.readouts for readout in one.readouts]
    never = [readout for readout in asked if study.models and readout not in given]
    if never:
        raise ConfigError(
            f"readouts: no model of this study can give {never[0]}: what is predicted needs a model with objective=mem "
            "or cmem that sees the magnifications that are named (read_mpps, predict_mpp), and its variance a training."
        )
    return sets


def _pictured_readout(
    read: EmbeddingSet,
    seen: EmbeddingSet,
    model: str,
    readout: str,
    choices: RepresentChoices,
    more: Mapping[str, str],
) -> EmbeddingSet:
    """What a model would write, as far as a table of arms looks at it.

    Args:
        read: the set with the magnifications that it is given.
        seen: the set with those that it sees.
        model: its name.
        readout: what is read out.
        choices: with which others, and how.
        more: what else its settings say.
    """
    said: dict[str, Any] = {"model": model, "readout": readout, **more}
    if read.mpps != seen.mpps:
        said["read_mpps"] = [*read.mpps]
    if readout in DECODED:
        wanted = seen.mpps[-1] if choices.predict_mpp is None else choices.predict_mpp
        said |= {"predict_mpp": wanted, "model_mpps": [*seen.mpps]}
    content = {**read.content, "kind": "tiles" if readout == "tokens" else "regions", "settings": said}
    # Two readouts of a model are two sets by their names.
    return EmbeddingSet(Path(f"{model}-{readout}-{'-'.join(map(format_mpp, read.mpps))}"), content, ())


def arms_of_model(study: Study, name: str, tiles: EmbeddingSet) -> tuple[Arm, ...]:
    """The arms that a study will have of one of its models, as far as they are asked for."""
    return tuple(replace(arm, bags=(), pool=None) for arm in _arms_of_slides(study, tiles) if arm.model == name)


def check_arms(study: Study, tiles: EmbeddingSet) -> str | None:
    """The id of the arm that the primary comparison of slides is about; raise for arms that cannot be had.

    Asked before hours are spent on models.

    Raises:
        ConfigError: the study asks for arms that it cannot have, or the primary comparison names none of them.
        MismatchError: a model is to see a magnification that the set lacks.
    """
    if study.places is not None:
        expected_arms(study, tiles)
        return None
    arms = _arms_of_slides(study, tiles)
    named, _ = choose_primary(arms, study.evaluation.primary)
    return None if named is None else arms[named].id


class PlannedSet(EmbeddingSet):
    """A set that is not there yet, whose slides are known already."""

    def n_regions(self, slide: str) -> int:
        """As planned."""
        return int(self.content["planned_regions"][slide])

    def n_tiles(self, slide: str) -> dict[float, int]:
        """As planned."""
        return {mpp: int(self.content["planned_tiles"][slide][format_mpp(mpp)]) for mpp in self.mpps}


def planned_set(
    pictured: EmbeddingSet, regions: Mapping[str, int], counts: Mapping[str, Mapping[str, int]]
) -> EmbeddingSet:
    """A pictured set with the slides that would be in it.

    Args:
        pictured: what `pictured_set` gives.
        regions: of each slide.
        counts: the tiles of each slide, by magnification or, where features do not say theirs, by folder.
    """
    names = next(iter(counts.values()), {}).keys()
    mpps = list(map(format_mpp, pictured.mpps))
    called = {name: name if name in mpps else mpp for name, mpp in zip(names, mpps, strict=False)}
    content = {
        **pictured.content,
        "planned_regions": dict(regions),
        "planned_tiles": {slide: {called[name]: n for name, n in own.items()} for slide, own in counts.items()},
    }
    return PlannedSet(pictured.path, content, tuple(sorted(regions)))


def pictured_set(grid: GridConfig, names: Sequence[str]) -> EmbeddingSet:
    """A set that is not there yet, as far as a table of arms looks at it.

    Args:
        grid: what it would be made with.
        names: its magnifications, as the plan of its tiles names them; folders where features do not say theirs.
    """
    try:
        mpps = sorted(map(float, names), reverse=True)
    except ValueError:
        mpps = list(grid.mpps) if len(names) == len(grid.mpps) else [2.0 ** (1 - k) for k in range(len(names))]
    content = {
        "kind": "tiles",
        "mpps": mpps,
        "dims": {format_mpp(mpp): 1 for mpp in mpps},
        "encoder_digests": {format_mpp(mpp): "" for mpp in mpps},
        "region_um": grid.region_um,
        "tile_px": grid.tile_px,
        "settings": {},
    }
    return EmbeddingSet(Path("tiles"), content, ())


def check_place(out: Path) -> None:
    """Raise where a study could not write; nothing is made.

    Raises:
        StoreError: the folder, or the one that it would be made in, cannot be written to.
    """
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "it is no folder" if not there.is_dir() else "there is no permission"
        raise StoreError(f"cannot write to {out}: {reason} ({there}). Name another folder.")


def check_labels(study: Study, tell: Callable[[str], None] | None) -> None:
    """Raise for labels that cannot be used, whatever slides there are; what they warn of is said later.

    Raises:
        ConfigError: the table, a column, a target or the folds of an earlier run cannot be used.
    """
    if study.places is not None:
        said = check_targets(study.places)
        if tell is not None:
            tell(said)
        return
    labels = study.of_slides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        for target in labels.named_targets:
            cohort = read_cohort(labels.file, target, labels.columns)
            if tell is not None:
                tell(f"{labels.file.name}: {cohort.sentence()}")
        if labels.splits is not None:
            read_dealt(labels.splits, labels.targets)


def check_evaluation(
    study: Study, slides: Collection[str], source: str, test_slides: Collection[str] | None = None
) -> dict[str, list[Fold]]:
    """The folds of every target of slides; raise where some target cannot be evaluated on these slides.

    Args:
        study: its labels, folds and targets.
        slides: those that have embeddings, or will.
        source: what to call the place of the embeddings.
        test_slides: those of the external cohort, where they are known.

    Raises:
        ConfigError: labels and slides do not fit together, or folds cannot be dealt or measured.
        StoreError: there are no slide vectors where the evaluation names some.
    """
    if study.places is not None:
        folds_at_places(study.places, slides, study.evaluation.folds)
        return {}
    labels, settings = study.of_slides, study.evaluation
    columns, inner, seed = labels.columns, settings.probes.inner_folds, settings.probes.seed
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        dealt = {} if labels.splits is None else read_dealt(labels.splits, labels.targets)
        folders = find_vector_folders(settings.slide_vectors)
        vectors, slides = read_all_vectors(folders, slides)
        if test_slides is not None:
            test_slides = read_all_vectors(folders, test_slides, like=vectors)[1]
        for target in labels.named_targets:
            cohort = read_cohort(labels.file, target, columns).restricted_to(slides, source)
            folds = deal(cohort, settings, dealt).folds(cohort, inner=inner, seed=seed)
            HeldOut.of(cohort, folds)
            found[target.name] = list(folds)
            if study.test is not None and test_slides is not None:
                whole_fold(cohort, inner=inner, seed=seed)
                check_external(read_outside(study.test.labels, target, cohort, test_slides, columns))
    return found


def check_test_set(tiles: EmbeddingSet | None, theirs: EmbeddingSet | None) -> None:
    """Raise where the tiles of the external cohort were made otherwise, as far as both are there.

    Raises:
        MismatchError: they were.
    """
    if tiles is not None and theirs is not None:
        matching_sets([tiles], [theirs])
