"""The commands over heads: `fit` and `predict`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.cohort import LabelColumns, Target, TargetSettings
from parfocal.errors import ConfigError
from parfocal.heads import is_at_edge
from parfocal.predict import (
    FitSettings,
    Head,
    PredictSettings,
    fit_head,
    fit_sentences,
    fit_study,
    is_study,
    outside_sentence,
    predict_slides,
)
from parfocal.run.progress import Bars

_TARGET, _COLUMNS, _FIT = TargetSettings(), LabelColumns(), FitSettings()
_EXAMPLE = "parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head"


def fit(
    inputs: Positional[tuple[Path, ...]],
    arm: str,
    output: Output,
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None,
    labels: Path | None = None,
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

    Example:
        parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head

    Args:
        inputs: the output folder of a study; or stores, or folders of single sets.
        arm: the arm's id, such as contrast or 0.5/mean, or its label in a report; an unknown one lists them all.
        output: the folder of the head.
        target: column to predict; of a study one of its targets, not needed where it has one.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group; not with a study.
        holds: what the target holds.
        columns: the other columns of the labels.
        model: folders of the region encoders whose embeddings the arm reads; not with a study.
        splits: folds of an earlier run (its splits.csv), in place of new ones.
        encoder: how the tile encoder is loaded on new slides, where its name in the store does not say; not with a
            study.
        settings: folds, repeats, and what the arm chooses among; of a study its own where nothing else is asked for.
    """
    if not inputs:
        raise ConfigError(f"no study and no store is named: {_EXAMPLE}")
    said = {
        "labels": labels,
        **columns.changed(),
        **holds.changed(),
        "model": model,
        "splits": splits,
        "encoder": encoder,
    }
    unused = [f"--{name.replace('_', '-')}" for name, value in said.items() if value]
    with Bars() as bars:
        if len(inputs) == 1 and is_study(inputs[0]):
            if unused:
                raise ConfigError(
                    f"{inputs[0]} is a finished study and says itself what {', '.join(unused)} would. "
                    "Leave that out, or name the stores in place of the study."
                )
            head = fit_study(inputs[0], arm, output, settings, target=target, on_event=bars)
        elif labels is None or target is None:
            raise ConfigError(f"{inputs[0]} is no finished study; stores need --labels and --target: {_EXAMPLE}")
        else:
            head = fit_head(
                inputs,
                labels,
                Target(name=target, **dict(holds)),
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


_PREDICT = PredictSettings(workers=1)


def predict(
    slides: Positional[tuple[Path, ...]],
    head: Path,
    output: Output,
    store: Path | None = None,
    settings: PredictSettings = _PREDICT,
) -> Answer:
    """Predict SLIDES, or the slides of a store of tile embeddings, with a head that `fit` has made.

    Slides are embedded as the head expects; another encoder, other magnifications or other regions are refused. A slide
    that fails gets one line and a row with its reason, and the rest goes on. What is embedded is kept: the same call
    continues a run that was stopped.

    Example:
        parfocal predict scans/ --head head -o predictions.csv

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp]); or one store.
        head: the folder of a head.
        output: the table to write, a CSV.
        store: where embeddings are written; by default a folder beside OUTPUT.
        settings: how slides are embedded.
    """
    if not slides:
        raise ConfigError("no slide and no store is named: parfocal predict scans/ --head head -o predictions.csv")
    with Bars() as bars:
        summary = predict_slides(slides, head, output, settings, store=store, on_event=bars)
    outside = sum(one.is_outside for one in summary.predicted)
    remarks = failed_lines(summary.failed)
    if outside:
        remarks += (f"{outside} of {len(summary.predicted)} slides lie outside of the training slides",)
    remarks += (outside_sentence(summary.head.facts, summary.head.habits.limit),)
    data = {
        "table": summary.out,
        "head": summary.head.digest,
        "slides": len(summary.predicted),
        "outside": outside,
        "failed": [asdict(failed) for failed in summary.failed],
    }
    return Answer(data, (f"{summary.out}: {len(summary.predicted)} slides",), remarks, summary.exit_status)
