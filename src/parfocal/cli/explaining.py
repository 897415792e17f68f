"""The command `explain`: why a head says what it says."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.errors import ConfigError
from parfocal.explain import ExplainSettings, explain_slides, merge_explanations
from parfocal.explain.files import describe
from parfocal.run.progress import Bars

_EXPLAIN = ExplainSettings()


def explain(
    store: Positional[Path],
    head: Path,
    output: Output,
    slides: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SLIDE...")] = (),
    merge: bool = False,
    settings: ExplainSettings = _EXPLAIN,
) -> Answer:
    """Say what each magnification, pair, region and tile of STORE adds to the score of a head.

    The head is asked with every set of its magnifications; one that is left out is absent. Shapley values of
    magnifications and the score with none add up to the score before calibration, and so do the contributions of
    regions. Tables of slides, regions, tiles and of the two ends of every contrast direction, a page, and for every
    slide a page, heatmaps (OME-TIFF and PNG) and regions for QuPath. A second run into a folder replaces the first.

    It takes contrast heads, attention (union, late, one magnification), mean or mlp of one magnification, and the same
    on the readouts cls and tokens of a region encoder, which then makes them again without each magnification. Of
    slides that were read in part it explains what was read, as predict scores it.

    With --shard I/N one of N parts of the slides is explained. When all shards are done, the same command with --merge
    in place of --shard writes the tables and the page over all slides, or names the shards that are missing.

    Example:
        parfocal explain store --head head -o why

    Args:
        store: tile embeddings, as `predict` takes them.
        head: the folder of a head that `fit` has made.
        output: the folder.
        slides: ids of slides; all where none is named.
        merge: write the tables and the page over the slides of all shards, and explain nothing.
        settings: how much is listed and drawn.
    """
    if merge and (slides or settings.changed().keys() - {"device"}):
        raise ConfigError("--merge joins what shards have written. Name only STORE, --head, --output and --device.")
    with Bars() as bars:
        if merge:
            summary = merge_explanations(store, head, output, device=settings.device, on_event=bars)
        else:
            summary = explain_slides(store, head, output, settings, slides=slides, on_event=bars)
    data = {"report": summary.report, **describe(summary)}
    if summary.report is None:
        shown: tuple[str, ...] = (f"{output}: {len(summary.explained)} slides of shard {settings.shard}",)
        return Answer(data, shown, failed_lines(summary.failed), summary.exit_status)
    told = (*failed_lines(summary.failed), f"report: {summary.report}")
    return Answer(data, summary.sentences, told, summary.exit_status)
