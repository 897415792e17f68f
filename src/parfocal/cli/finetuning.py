"""The command that trains everything from pixels: `finetune`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.cohort import LabelColumns, Target, TargetSettings
from parfocal.errors import ConfigError
from parfocal.finetune import FinetuneSettings, finetune_encoder
from parfocal.run.progress import Bars

_TARGET, _COLUMNS, _FINETUNE = TargetSettings(), LabelColumns(), FinetuneSettings()
_EXAMPLE = (
    "parfocal finetune scans/ --encoder efficientnet-lite0 --labels labels.csv --target msi --group patient -o tuned"
)


def finetune(
    slides: Positional[tuple[Path, ...]],
    output: Output,
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")] = (),
    labels: Path | None = None,
    places: Path | None = None,
    holds: TargetSettings = _TARGET,
    columns: LabelColumns = _COLUMNS,
    model: str | None = None,
    settings: FinetuneSettings = _FINETUNE,
) -> Answer:
    """Train a tile encoder, a region encoder and a head together from the pixels of SLIDES.

    What is learnt is a label of slides, or targets at places inside them (--places). The result is a folder with the
    weights of the tile encoder, which `embed` takes, the region encoder for its embeddings, which `represent` takes,
    and of places the head, which `predict` takes. Memory for activations grows with --chunk and not with the tiles of a
    slide. A run that was stopped goes on with the same call. For several GPUs name them (--device cuda:0 cuda:1), or
    start it under torchrun.

    Example:
        parfocal finetune scans/ --encoder efficientnet-lite0 --labels labels.csv --target msi --group patient -o tuned
        parfocal finetune scans/ --encoder virchow2 --tune lora:8 --places spots.csv --target all --most-variable 50 \
-o tuned

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp]).
        output: the folder of the run.
        target: column to learn; of places several, or all.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group.
        places: in place of labels, targets at places: a table with slide, x_um, y_um (or x_px, y_px) and the targets,
            an .h5ad with obsm['spatial'], or GeoJSON areas with classes.
        holds: what the target of slides holds.
        columns: the other columns of the labels; of places the group.
        model: a region encoder that was pretrained on embeddings of the untuned tile encoder; by default a new one.
        settings: how.
    """
    if not slides or not target:
        raise ConfigError(f"name slides and a target: {_EXAMPLE}")
    if places is not None:
        others = {**holds.changed(), **{key: value for key, value in columns.changed().items() if key != "group"}}
        if others:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            raise ConfigError(f"{named} say something of labels of slides, and targets are at places. Leave that out.")
    asked = [Target(name=one, **dict(holds)) if places is None else one for one in target]
    with Bars() as bars:
        result = finetune_encoder(
            slides,
            output,
            settings,
            labels=labels,
            places=places,
            targets=asked,
            columns=columns,
            model=model,
            on_event=bars,
        )
    shown = [f"{result.out}: {result.held_out}"]
    if result.before is not None and result.after is not None:
        shown.append(
            f"held-out {result.metric}: {result.after:.3f} (untuned, where the head alone has learnt: "
            f"{result.before:.3f})"
        )
    shown += [
        f"embed with: --encoder {result.spec} --encoder-dtype {result.dtype}",
        f"represent with: --model {result.region_encoder}",
    ]
    if result.head is not None:
        shown.append(f"predict with: --head {result.head}")
    notes = ("this run had been finished before; nothing was done",) if result.was_finished else ()
    return Answer(asdict(result), tuple(shown), notes)
