"""`parfocal pretrain`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call
from parfocal.embeddings import open_set
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainProgress, PretrainSettings
from parfocal.pretrain import pretrain as run_pretrain

__all__ = ["pretrain", "run"]

_SETTINGS = PretrainSettings()


def pretrain(store: Positional[Path], output: Output, settings: PretrainSettings = _SETTINGS) -> int:
    """Pretrain a region encoder on STORE by masked embedding modelling.

    Some tile embeddings of a region are hidden and predicted from the rest. Slides are held out, and the progress line
    shows how well their hidden tiles are predicted at each magnification. A run that was stopped goes on with the same
    call. For several GPUs give --devices, or start it under torchrun.

    Example:
        parfocal pretrain store -o model --size S

    Args:
        store: a store, or the folder of one of its sets.
        output: the folder of the model.
        settings: how.
    """
    tiles = open_set(store)
    with PretrainProgress() as progress:
        result = run_pretrain(tiles, output, settings, on_event=progress)
    if result.was_finished:
        print("this run had been finished before; nothing was done", file=sys.stderr)
    print(f"model: {result.model}")
    print(result.holdout)
    for mpp in tiles.mpps:
        value = result.metrics.get(f"r2_{format_mpp(mpp)}")
        if value is not None:
            print(f"held-out R2 of hidden tokens at {format_mpp(mpp)} mpp: {value:.3f}")
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("pretrain", pretrain, argv)
