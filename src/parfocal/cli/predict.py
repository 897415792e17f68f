"""`parfocal predict`."""

from dataclasses import asdict
from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.errors import ConfigError
from parfocal.predict import PredictSettings, outside_sentence, predict_slides
from parfocal.run.progress import Bars

_SETTINGS = PredictSettings(workers=1)


def predict(
    slides: Positional[tuple[Path, ...]],
    head: Path,
    output: Output,
    store: Path | None = None,
    settings: PredictSettings = _SETTINGS,
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
