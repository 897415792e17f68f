"""`parfocal represent`."""

from dataclasses import asdict
from pathlib import Path

from tyro.conf import Positional

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.run.progress import Bars

_SETTINGS = RepresentSettings()


def represent(store: Positional[Path], model: str, output: Output, settings: RepresentSettings = _SETTINGS) -> Answer:
    """Turn the tile embeddings of STORE into region embeddings, in the store's layout.

    A slide that fails gets one line and a row in OUTPUT/failures.csv, and the rest goes on; what is done is kept.

    Example:
        parfocal represent store --model model -o regions --readouts cls tokens

    Args:
        store: a store, or the folder of one of its sets.
        model: the folder of a pretrained region encoder, or its id on the hub.
        output: the store to write region embeddings to.
        settings: how.
    """
    with Bars() as bars:
        summary = represent_regions(
            store,
            model,
            output,
            settings,
            on_event=bars,
        )
    data = {
        "sets": [written.path for written in summary.sets],
        "slides": len(summary.done),
        "failed": [asdict(failed) for failed in summary.failed],
    }
    shown = tuple(f"{written.path}: {len(summary.done)} slides" for written in summary.sets)
    return Answer(data, shown, failed_lines(summary.failed), summary.exit_status)
