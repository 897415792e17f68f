"""`parfocal export-model`."""

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.region_encoder import export_model as write_model


def export_model(model: Positional[str], output: Output) -> Answer:
    """Write a MODEL as one file that runs wherever torch runs, without parfocal.

    The file is an exported program (torch.export.load): rows of tiles, their places in micrometres, their
    magnifications and which of them are present go in; CLS, registers, contextual tokens and the attention of CLS to
    each tile come out.

    Example:
        parfocal export-model model -o encoder.pt2

    Args:
        model: the folder of a pretrained region encoder, or its id on the hub.
        output: the file, which ends in .pt2.
    """
    digest = write_model(model, output)
    data = {"file": str(output), "model": model, "digest": digest}
    return Answer(data, (f"{output}: the region encoder {digest}",))
