"""`parfocal pretrain`."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call
from parfocal.cli.lines import say, tell
from parfocal.cohort import LabelColumns, read_groups
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainProgress, PretrainSettings
from parfocal.pretrain import pretrain_encoder as run_pretrain
from parfocal.store import open_set

__all__ = ["pretrain", "run"]

_SETTINGS = PretrainSettings()


def pretrain(
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    group: str | None = None,
    slide_column: str = "slide",
    patient_of: str | None = None,
    settings: PretrainSettings = _SETTINGS,
) -> int:
    """Pretrain a region encoder on STORE by masked embedding modelling.

    Some tile embeddings of a region are hidden and predicted from the rest. Slides are held out, and the progress line
    shows how well their hidden tiles are predicted at each magnification. A run that was stopped goes on with the same
    call. For several GPUs give --devices, or start it under torchrun. Where patients have several slides, name their
    column (--labels, --group) or how a slide's id says it (--patient-of), so that no patient is on both sides.

    Example:
        parfocal pretrain store -o model --size S

    Args:
        store: a store, or the folder of one of its sets.
        output: the folder of the model.
        labels: a table with a slide column and the group; no label is read.
        group: column of what is held out whole, such as patient; without it slides are held out.
        slide_column: column of the slide's id in the table.
        patient_of: a regular expression whose match in a slide's id is its patient, such as 'TCGA-..-....'; needs no
            table.
        settings: how.
    """
    tiles = open_set(store)
    if (labels is None) != (group is None):
        raise ConfigError("groups are held out by a table and its column: name both --labels FILE and --group COLUMN.")
    columns = LabelColumns(slide=slide_column, group=group, patient_of=patient_of)
    groups = read_groups(labels, columns, tiles.slides, tiles.name)
    with PretrainProgress() as progress:
        result = run_pretrain(tiles, output, settings, groups=groups, on_event=progress)
    if result.was_finished:
        tell("this run had been finished before; nothing was done")
    say(f"model: {result.model}")
    say(result.holdout)
    for mpp in tiles.mpps:
        value = result.metrics.get(f"r2_{format_mpp(mpp)}")
        if value is not None:
            say(f"held-out R2 of hidden tokens at {format_mpp(mpp)} mpp: {value:.3f}")
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("pretrain", pretrain, argv)
