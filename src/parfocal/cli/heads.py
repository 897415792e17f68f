"""The commands over heads: `fit` and `predict`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.cohort import LabelColumns, Target, TargetSettings
from parfocal.embed import Zoom
from parfocal.errors import ConfigError
from parfocal.evaluate.places import PlaceChoices, PlaceFitSettings
from parfocal.heads import is_at_edge
from parfocal.predict import (
    MAPPED_SLIDES,
    FitSettings,
    Head,
    PlaceHead,
    PlacesSummary,
    PredictSettings,
    fit_head,
    fit_place_study,
    fit_places,
    fit_sentences,
    fit_study,
    is_place_head,
    is_study,
    load_head,
    load_place_head,
    merge_predictions,
    outside_sentence,
    place_head_sentences,
    predict_places,
    predict_slides,
    read_place_study,
    usual_zoom,
    zoom_by,
    zoom_until_settled,
)
from parfocal.predict.source import is_store
from parfocal.run.failures import exit_status
from parfocal.run.progress import Bars

_TARGET, _COLUMNS, _FIT, _PLACES = TargetSettings(), LabelColumns(), FitSettings(), PlaceChoices()
_EXAMPLE = "parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head"


def fit(
    inputs: Positional[tuple[Path, ...]],
    arm: str,
    output: Output,
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")] = (),
    labels: Path | None = None,
    places: Path | None = None,
    at_places: PlaceChoices = _PLACES,
    holds: TargetSettings = _TARGET,
    columns: LabelColumns = _COLUMNS,
    model: tuple[Path, ...] = (),
    splits: Path | None = None,
    encoder: str | None = None,
    settings: FitSettings = _FIT,
) -> Answer:
    """Fit one arm of a STUDY on all of its labelled slides, as a head that predicts new slides.

    STUDY is the output folder of a finished study: its sets, labels, folds and choices are taken, and whatever says
    something of labels, models or the encoder is refused. Or name stores of embeddings in its place, with --labels and
    --target. The head is a folder that is complete in itself: the probe, its calibration on scores of slides it had
    not seen, what is usual among the training slides, and the region encoder where the arm reads one.

    With --places the targets, as many as there are, are inside slides, such as the genes of sequenced spots, and the
    arm is one of `evaluate --places`, such as mixed+context. The head then says of other places what there is.

    Example:
        parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head
        parfocal fit spots-store --places spots.csv --target all --arm mixed+context -o head

    Args:
        inputs: the output folder of a study; or stores, or folders of single sets.
        arm: the arm's id, such as contrast or 0.5/mean, or its label in a report; an unknown one lists them all.
        output: the folder of the head.
        target: column to predict; of a study one of its targets, not needed where it has one; of places several, or
            all.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group; not with a study.
        places: in place of labels, targets at places: a table with slide, x_um, y_um (or x_px, y_px) and the targets,
            an .h5ad with obsm['spatial'], or GeoJSON areas with classes.
        at_places: what is asked at places.
        holds: what the target holds.
        columns: the other columns of the labels.
        model: folders of the region encoders whose embeddings the arm reads, or that is asked for unread tiles; not
            with a study.
        splits: folds of an earlier run (its splits.csv), in place of new ones.
        encoder: how the tile encoder is loaded on new slides, where its name in the store does not say; not with a
            study.
        settings: folds, repeats, and what the arm chooses among; of a study its own where nothing else is asked for.
    """
    if not inputs:
        raise ConfigError(f"no study and no store is named: {_EXAMPLE}")
    if places is not None:
        unused = {"labels": labels, "splits": splits, **columns.changed(), **holds.changed()} | _of_slides(settings)
        unused.pop("group", None)
        if any(unused.values()) or not target:
            raise ConfigError(
                f"--places asks about places inside slides and needs --target; {_options(unused) or 'a study'} is "
                "about whole slides. Leave that out, or leave out --places."
            )
        how = PlaceFitSettings.of_probes(settings.folds, settings.probes, at_places)
        with Bars() as bars:
            at = fit_places(
                inputs,
                places,
                target,
                arm,
                output,
                how,
                group=columns.group,
                models=model,
                encoder=encoder,
                on_event=bars,
            )
        return _fit_places_answer(at)
    at_study = read_place_study(inputs[0]) if len(inputs) == 1 and is_study(inputs[0]) else None
    if at_study is not None:
        unused = {"labels": labels, "splits": splits, "model": model, "encoder": encoder}
        unused |= columns.changed() | holds.changed() | _of_slides(settings)
        if any(unused.values()):
            raise ConfigError(
                f"{inputs[0]} is a finished study at places and says itself what {_options(unused)} would, or is not "
                "about whole slides. Leave that out, or name the stores and --places in place of the study."
            )
        changed = {**at_places.changed(), **_shared_by_places(settings)}
        with Bars() as bars:
            at = fit_place_study(at_study, arm, output, changed, targets=target, on_event=bars)
        return _fit_places_answer(at)
    if at_places != _PLACES:
        raise ConfigError("--most-variable and --no-centre ask about places inside slides: they go with --places FILE.")
    if len(target) > 1:
        raise ConfigError(f"a head of slides has one target, and {len(target)} are named. Fit one after the other.")
    said = {
        "labels": labels,
        **columns.changed(),
        **holds.changed(),
        "model": model,
        "splits": splits,
        "encoder": encoder,
    }
    with Bars() as bars:
        if len(inputs) == 1 and is_study(inputs[0]):
            if any(said.values()):
                raise ConfigError(
                    f"{inputs[0]} is a finished study and says itself what {_options(said)} would. "
                    "Leave that out, or name the stores in place of the study."
                )
            head = fit_study(inputs[0], arm, output, settings, target=next(iter(target), None), on_event=bars)
        elif labels is None or not target:
            raise ConfigError(
                f"{inputs[0]} is no finished study; stores need --labels and --target, or --places and --target: "
                f"{_EXAMPLE}"
            )
        else:
            head = fit_head(
                inputs,
                labels,
                Target(name=target[0], **dict(holds)),
                arm,
                output,
                settings,
                columns=columns,
                models=model,
                splits=splits,
                encoder=encoder,
                on_event=bars,
            )
    return _fit_answer(head)


def _of_slides(settings: FitSettings) -> dict[str, object]:
    """What was asked of a fit that only a head of slides knows."""
    asked = {**settings.changed(), **settings.probes.changed()}
    shared = {"probes", "folds", "inner_folds", "components", "seed"}
    return {name: value for name, value in asked.items() if name not in shared}


def _shared_by_places(settings: FitSettings) -> dict[str, object]:
    """What was asked of a fit that a head of places knows too, by its names."""
    how = PlaceFitSettings.of_probes(settings.folds, settings.probes, _PLACES)
    asked = {**settings.changed(), **settings.probes.changed()}
    return {name: getattr(how, name) for name in ("folds", "inner_folds", "components", "seed") if name in asked}


def _options(said: Mapping[str, object]) -> str:
    """The options that were given something, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in said.items() if value)


def _fit_answer(head: Head) -> Answer:
    facts = head.facts
    title = f"{head.path}: {facts.arm_label}, for {facts.target}, head {head.digest}"
    notes = list(facts.trained_on.notes)
    if any(is_at_edge(probe.chosen) for probe in head.probes):
        notes.insert(
            0,
            "it chose the most training steps that it was offered, so that more might do better: "
            "raise --growth, or its steps",
        )
    shown = (title, *fit_sentences(facts), outside_sentence(facts, head.habits.limit))
    data = {"head": head.path, "digest": head.digest, **facts.model_dump(mode="json")}
    return Answer(data, shown, tuple(notes))


def _fit_places_answer(head: PlaceHead) -> Answer:
    facts = head.facts
    title = f"{head.path}: {facts.arm_label}, for {len(facts.targets)} targets at places, head {head.digest}"
    data = {"head": head.path, "digest": head.digest, **facts.model_dump(mode="json")}
    return Answer(data, (title, *place_head_sentences(facts)), ())


_PREDICT = PredictSettings(workers=1)


def predict(
    slides: Positional[tuple[Path, ...]],
    head: Path,
    output: Output,
    places: Path | None = None,
    maps: int | None = None,
    store: Path | None = None,
    zoom: str | None = None,
    budget: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE...")] = (),
    whole: bool = False,
    merge: bool = False,
    settings: PredictSettings = _PREDICT,
) -> Answer:
    """Predict SLIDES, or the slides of a store of tile embeddings, with a head that `fit` has made.

    Slides are embedded as the head expects; another encoder, other magnifications or other regions are refused. A slide
    that fails gets one line and a row with its reason, and the rest goes on. What is embedded is kept: the same call
    continues a run that was stopped.

    A head that was fitted with --places writes a row for each place, and of each slide a page with maps: of the places
    of a file, around which slides are then embedded, or of the middles of all regions.

    With --budget only that share of the finest tiles is read, those where the head would look first, as its training
    slides were read where it was fitted with --parts, or where --zoom says; the head has to be fitted on a store with
    --coarse native. A head that was fitted with --stop-rate reads each slide until its class is settled, at most
    --budget, and the table says how far; --whole reads all.

    With --shard I/N one of N parts of SLIDES is predicted, into a table of its own beside OUTPUT. When all shards are
    done, --merge joins them into OUTPUT, and names those that are missing.

    Example:
        parfocal predict scans/ --head head -o predictions.csv
        parfocal predict scans/ --head head --budget 0.1 -o predictions.csv
        parfocal predict scans/ --head places-head --places spots.csv -o predictions.csv

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp]); or one store.
        head: the folder of a head.
        output: the table to write, a CSV.
        places: what a head of places predicts: a table with slide, x_um, y_um (or x_px, y_px), an .h5ad with
            obsm['spatial'], or GeoJSON areas; without it the middles of all regions.
        maps: of so many slides a head of places draws maps, into a folder beside OUTPUT; 20 where nothing is said.
        store: where embeddings are written; by default a folder beside OUTPUT.
        zoom: the policy that says which of the finest tiles are read, as in `parfocal embed`; where --budget alone is
            given the head, or the policy of its --parts.
        budget: the share of each slide's finest tiles that is read, 0 to 1, or the most that is where the head says
            when it has seen enough; all where nothing is said. Several are of the last magnifications, as in
            `parfocal embed`.
        whole: read slides whole, though the head says when it has seen enough.
        merge: join the tables of all shards into OUTPUT, and predict nothing; no SLIDES are named.
        settings: how slides are embedded.
    """
    if merge:
        if slides or places or maps or store or zoom or budget or whole or settings.shard:
            raise ConfigError("--merge joins what shards have written. Name only --head and --output beside it.")
        return _merged(output, head)
    if not slides:
        raise ConfigError("no slide and no store is named: parfocal predict scans/ --head head -o predictions.csv")
    if is_place_head(head):
        if zoom is not None or budget or whole:
            raise ConfigError(
                f"the head {head} predicts places, of which all tiles are read. Leave out --budget and --whole."
            )
        most = MAPPED_SLIDES if maps is None else maps
        with Bars() as bars:
            found = predict_places(slides, head, output, settings, places=places, store=store, maps=most, on_event=bars)
        return _places_answer(found)
    if places is not None or maps is not None:
        raise ConfigError(
            f"the head {head} predicts whole slides: leave out --places and --maps, or fit with --places."
        )
    how = _how_read(slides, head, zoom, budget, whole=whole)
    with Bars() as bars:
        summary = predict_slides(slides, head, output, settings, store=store, zoom=how, on_event=bars)
    outside = sum(one.is_outside for one in summary.predicted)
    remarks = failed_lines(summary.failed)
    if outside:
        remarks += (f"{outside} of {len(summary.predicted)} slides lie outside of the training slides",)
    remarks += (outside_sentence(summary.head.facts, summary.head.habits.limit),)
    asked = [one for one in summary.predicted if one.is_settled is not None]
    settled = [one for one in asked if one.is_settled]
    if asked:
        share = sum(one.share_read for one in asked) / len(asked)
        remarks += (
            f"{len(settled)} of {len(asked)} slides were settled before the end; {share:.1%} of fine tiles were read",
        )
    data = {
        "table": summary.out,
        "head": summary.head.digest,
        "slides": len(summary.predicted),
        "settled": len(settled),
        "outside": outside,
        "failed": [asdict(failed) for failed in summary.failed],
    }
    return Answer(data, (f"{summary.out}: {len(summary.predicted)} slides",), remarks, summary.exit_status)


def _merged(output: Path, head: Path) -> Answer:
    digest = load_place_head(head).digest if is_place_head(head) else load_head(head).digest
    merged = merge_predictions(output, head=digest)
    data = {**asdict(merged), "head": digest}
    shown = (f"{output}: {merged.slides} slides of {merged.shards} shards",)
    told = (f"{merged.problems} of {merged.slides} slides have a problem in place of a prediction",)
    return Answer(data, shown, told if merged.problems else (), exit_status(merged.problems, merged.slides))


def _how_read(
    slides: tuple[Path, ...], head: Path, zoom: str | None, budget: tuple[float, ...], *, whole: bool
) -> Zoom | None:
    """Which of the finest tiles are read: as the head says where it knows when it has seen enough, and nobody else."""
    if whole and any(map(is_store, slides)):
        raise ConfigError(f"{slides[0]} is a store and has been read; --whole is of slide files. Leave it out.")
    if whole and (zoom is not None or budget):
        raise ConfigError("--whole reads slides whole: leave out --zoom and --budget, or leave out --whole.")
    if zoom is not None and not budget:
        raise ConfigError(f"--zoom {zoom} says which tiles are read, and not how many. Add --budget, such as 0.1.")
    if zoom is None and not whole and not any(map(is_store, slides)) and load_head(head).stopping is not None:
        return zoom_until_settled(head, at_most=budget or 1.0)
    return zoom_by(zoom or usual_zoom(head), budget) if budget else None


def _places_answer(summary: PlacesSummary) -> Answer:
    data = {
        "table": summary.out,
        "head": summary.head.digest,
        "slides": len(summary.predicted),
        "places": summary.n_places,
        "maps": summary.maps,
        "failed": [asdict(failed) for failed in summary.failed],
    }
    shown = [f"{summary.out}: {summary.n_places} places of {len(summary.predicted)} slides"]
    if summary.maps:
        shown.append(f"maps: {summary.out.with_name(f'{summary.out.stem}-maps')}")
    remarks = (*failed_lines(summary.failed), *place_head_sentences(summary.head.facts)[:2])
    return Answer(data, tuple(shown), remarks, summary.exit_status)
