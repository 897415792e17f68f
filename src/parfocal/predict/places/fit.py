"""Fit one arm on all places where something was measured, and keep it with what it takes to use it on others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.errors import ConfigError
from parfocal.evaluate.places import PlaceFitSettings
from parfocal.evaluate.places.fitting import PlaceArm, PlaceFitter, arms_at_places, predict_held_out
from parfocal.evaluate.places.reading import PlaceData, load_place_data, tiles_among
from parfocal.evaluate.places.result import (
    METRICS,
    PlaceArmResult,
    interval_over_slides,
    measured_slides,
    metric_of,
    score_arm,
)
from parfocal.evaluate.places.rows import all_model_blocks, is_tiles, model_blocks
from parfocal.evaluate.sources import open_all
from parfocal.files import file_digest8, writable_folder
from parfocal.predict.facts import FORMAT_VERSION, PlaceHeadFacts, PlacesTrainedOn, PlaceTargetFacts
from parfocal.predict.head import TILES
from parfocal.predict.places.head import PlaceHead, write_place_head
from parfocal.predict.places.predict import FIXED_COLUMNS
from parfocal.predict.source import describe_tiles, model_of, tiles_of
from parfocal.run.events import Notice, OnEvent, warn_of
from parfocal.store import EmbeddingSet
from parfocal.table import some_of
from parfocal.version import __version__


def fit_places(
    inputs: Sequence[Path | EmbeddingSet],
    places: Path,
    targets: Sequence[str],
    arm: str,
    out: Path,
    settings: PlaceFitSettings | None = None,
    *,
    group: str | None = None,
    models: Sequence[Path] = (),
    encoder: str | None = None,
    on_event: OnEvent | None = None,
) -> PlaceHead:
    """Fit an arm on all places, and write it as a head with what it reached on slides that it had not seen.

    It is the arm of `evaluate_places`: the same rows, the same preparations and penalties to choose among, chosen by
    inner folds over all slides (or groups). With `most_variable` the targets are chosen once, on all places.

    Args:
        inputs: a store of tiles, embedded with `places` or on a lattice, and what `represent` made of it.
        places: see `parfocal.regions.read_places`.
        targets: names of columns; `all` stands for every one.
        arm: its id in an evaluation, or its name there.
        out: the folder of the head.
        settings: folds, components and the like.
        group: the column of `places` that says which of them stay together, such as the patient; None takes the slide.
        models: folders of region encoders; needed where the arm reads region embeddings, and then copied into `out`.
        encoder: how the tile encoder is loaded, where its name is no spec.
        on_event: told what was left out.

    Raises:
        ConfigError: there is no such arm, it is a control, or places, targets, models and sets do not fit together.
        StoreError: a set cannot be read.
    """
    settings, tell = settings or PlaceFitSettings(), on_event or warn_of
    writable_folder(out.absolute().parent)
    sets = open_all(inputs)
    chosen = _find_arm(sets, arm)
    made = [one for one in sets if not is_tiles(one) and set(model_blocks(one)) <= set(chosen.blocks)]
    grid = tiles_among(sets)
    readout = {name: str(one.settings["readout"]) for one in made for name in all_model_blocks(one, grid)}
    whole = [] if set(chosen.blocks) <= set(readout) else [grid]
    tiles, model = tiles_of([*whole, *made], sets), model_of(made, models)
    data = load_place_data([tiles, *made], places, targets, group=group, seed=settings.seed, tell=tell)
    fitter = PlaceFitter(data, np.arange(len(data.slides)), settings)
    kept = fitter.varying_targets()
    data = _with_targets(data, kept, settings, tell)
    fitted = fitter.fit(chosen, kept)
    # The targets are chosen: every fold has all of them.
    held_out = predict_held_out(data, [chosen], settings.model_copy(update={"most_variable": None}))
    slides = measured_slides(data, held_out[chosen.id])
    scores = score_arm(data, chosen, held_out[chosen.id], slides)
    facts = PlaceHeadFacts(
        parfocal_head=FORMAT_VERSION,
        parfocal_version=__version__,
        kind="places",
        targets=target_facts(data, scores, slides),
        arm=chosen.id,
        arm_label=chosen.name,
        blocks=tuple((readout.get(name, TILES), name) for name in chosen.blocks),
        tiles=describe_tiles(tiles, encoder),
        model=None if model is None else model.facts,
        centred=fitted.centred,
        preparation=fitted.preparation,
        penalty=fitted.penalty,
        trained_on=PlacesTrainedOn(
            places=len(data.slides),
            slides=len(set(data.slides)),
            groups=None if group is None else len(set(data.groups)),
            table=file_digest8(places) if places.is_file() else None,
            notes=data.notes,
        ),
        metric=mean_facts(data, scores, slides),
        settings=settings.model_dump(mode="json"),
        arrays_digest="",
    )
    return write_place_head(PlaceHead(facts, fitted, None if model is None else model.folder, out), out)


def _find_arm(sets: Sequence[EmbeddingSet], asked: str) -> PlaceArm:
    arms = [one for one in arms_at_places(sets) if one.kind != "control"]
    for one in arms:
        if asked in (one.id, one.name):
            return one
    raise ConfigError(
        f"there is no arm {asked!r} to use at places; these sets allow {', '.join(one.id for one in arms)}."
    )


def _with_targets(data: PlaceData, kept: np.ndarray, settings: PlaceFitSettings, tell: OnEvent) -> PlaceData:
    if not kept.any():
        raise ConfigError(
            "every target is the same at all places of a slide, and centred within slides nothing is left of it. "
            "Predict slides, or say --no-centre."
        )
    if settings.most_variable is None and not kept.all():
        flat = [name for name, varies in zip(data.names, kept, strict=True) if not varies]
        text = f"{len(flat)} targets do not vary within slides and are left out: {some_of(flat)}."
        tell(Notice(text, is_warning=True))
    data = data.with_targets(kept)
    refuse_taken_names(data.names)
    return data


def refuse_taken_names(names: Sequence[str]) -> None:
    """Raise where a target is called like a column that every table of predictions has.

    Raises:
        ConfigError: one is.
    """
    taken = [name for name in names if name in FIXED_COLUMNS]
    if taken:
        raise ConfigError(f"tables of predictions have a column {taken[0]!r} of their own. Rename the target.")


def target_facts(data: PlaceData, scores: PlaceArmResult | None, slides: Sequence[str]) -> tuple[PlaceTargetFacts, ...]:
    """What is said of each target; without a number where no slide was held out."""
    facts = []
    for number, (name, column) in enumerate(zip(data.names, data.columns, strict=True)):
        class_name = name.removeprefix(f"{column}=") if data.is_class[number] else None
        metric = "r" if class_name is None else "auc"
        by_slide = np.zeros(0) if scores is None else scores.scores[metric][:, number]
        facts.append(_facts_of(name, column, class_name, metric, by_slide, slides, data))
    return tuple(facts)


def mean_facts(data: PlaceData, scores: PlaceArmResult | None, slides: Sequence[str]) -> PlaceTargetFacts:
    """What is said of all targets together."""
    by_slide = np.zeros(0) if scores is None else scores.by_slide
    return _facts_of("all", "all", None, metric_of(data), by_slide, slides, data)


def _facts_of(
    name: str,
    column: str,
    class_name: str | None,
    metric: str,
    by_slide: Float64[np.ndarray, " slide"],
    slides: Sequence[str],
    data: PlaceData,
) -> PlaceTargetFacts:
    said = {"name": name, "column": column, "class_name": class_name, "metric": METRICS[metric]}
    if not np.isfinite(by_slide).any():
        return PlaceTargetFacts(**said, estimate=None, low=None, high=None)
    interval = interval_over_slides(by_slide, slides, data)
    ends = {end: getattr(interval, end) if np.isfinite(getattr(interval, end)) else None for end in ("low", "high")}
    return PlaceTargetFacts(**said, estimate=interval.estimate, **ends)
