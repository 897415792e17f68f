"""`parfocal pretrain`."""

from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.cohort import LabelColumns, read_groups
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.run.progress import Bars
from parfocal.store import open_set

_COLUMNS, _SETTINGS = LabelColumns(), PretrainSettings()


def pretrain(
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    columns: LabelColumns = _COLUMNS,
    settings: PretrainSettings = _SETTINGS,
) -> Answer:
    """Pretrain a region encoder on STORE by masked embedding modelling.

    Some tile embeddings of a region are hidden and predicted from the rest. Slides are held out, and the progress line
    shows how well their hidden tiles are predicted at each magnification. A run that was stopped goes on with the same
    call. For several GPUs name them (--device cuda:0 cuda:1), or start it under torchrun. Where patients have several
    slides, name their column (--labels, --group) or how a slide's id says it (--patient-of), so that no patient is on
    both sides.

    Example:
        parfocal pretrain store -o model --size S

    Args:
        store: a store, or the folder of one of its sets.
        output: the folder of the model.
        labels: a table with a slide column and the group; no label is read.
        columns: its columns.
        settings: how.
    """
    tiles = open_set(store)
    if (labels is None) != (columns.group is None):
        raise ConfigError("groups are held out by a table and its column: name both --labels FILE and --group COLUMN.")
    groups = read_groups(labels, columns, tiles.slides, tiles.name)
    with Bars() as bars:
        result = pretrain_encoder(tiles, output, settings, groups=groups, on_event=bars)
    r2 = {mpp: value for mpp in map(format_mpp, tiles.mpps) if (value := result.metrics.get(f"r2_{mpp}")) is not None}
    shown = [f"model: {result.model}", result.holdout]
    shown += [f"held-out R2 of hidden tokens at {mpp} mpp: {value:.3f}" for mpp, value in r2.items()]
    notes = ("this run had been finished before; nothing was done",) if result.was_finished else ()
    data = {"model": result.model, "holdout": result.holdout, "steps": result.steps, "metrics": dict(result.metrics)}
    return Answer(data, tuple(shown), notes)
