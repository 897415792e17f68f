"""`parfocal represent`."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from parfocal.bags import RepresentSettings
from parfocal.bags import represent_regions as run_represent
from parfocal.cli.command import Output, parse_and_call
from parfocal.cli.lines import say, tell
from parfocal.run.progress import Bars
from parfocal.store import open_set

__all__ = ["represent", "run"]

_SETTINGS = RepresentSettings()


def represent(store: Positional[Path], model: str, output: Output, settings: RepresentSettings = _SETTINGS) -> int:
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
        summary = run_represent(
            open_set(store),
            model,
            output,
            settings,
            on_event=bars,
        )
    for failed in summary.failed:
        tell(f"{failed.slide} failed: {failed.error}: {failed.message}")
    for written in summary.sets:
        say(f"{written.path}: {len(summary.done)} slides")
    return summary.exit_status


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("represent", represent, argv)
