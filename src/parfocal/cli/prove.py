"""`parfocal prove`."""

from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.lab.prove.result import summary_table
from parfocal.lab.prove.run import ProveSettings, prove_encoder
from parfocal.run.progress import Bars

_SETTINGS = ProveSettings()


def prove(
    model: Positional[Path],
    store: Positional[Path],
    output: Output,
    settings: ProveSettings = _SETTINGS,
) -> Answer:
    """Compare the predictions of MODEL with baselines and controls on the regions of STORE that it never saw.

    Says whether the region encoder has learnt how magnifications belong together, or only what a linear map, a Gaussian
    field, the slide's mean, or a decoder and a ridge regression on random weights know too. The decoders on random
    weights are trained for as many steps as the model, which takes about as long as its pretraining. Writes
    OUTPUT/report.html and OUTPUT/prove.json. What is finished is kept in OUTPUT/steps, and the same call goes on where
    it was stopped.

    Example:
        parfocal prove model store -o proof

    Args:
        model: the folder that pretrain wrote.
        store: the store that it was pretrained on.
        output: the folder to write to.
        settings: how much is looked at.
    """
    with Bars() as bars:
        result = prove_encoder(model, store, output, settings, on_event=bars)
    return Answer(result.describe(), (summary_table(result), *result.sentences), (f"report: {result.report}",))
