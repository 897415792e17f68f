"""`parfocal prove`."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_json, print_table
from parfocal.cli.lines import say, tell
from parfocal.lab.prove.result import summary_table
from parfocal.lab.prove.run import ProveSettings
from parfocal.lab.prove.run import prove_encoder as run_prove
from parfocal.run.progress import Bars

__all__ = ["prove", "run"]

_SETTINGS = ProveSettings()


def prove(
    model: Positional[Path],
    store: Positional[Path],
    output: Output,
    settings: ProveSettings = _SETTINGS,
    json: bool = False,
) -> int:
    """Compare the predictions of MODEL with baselines and controls on the regions of STORE that it never saw.

    Says whether the region encoder has learnt how magnifications belong together, or only what a linear map, a Gaussian
    field, the slide's mean, or a decoder and a ridge regression on random weights know too. The decoders on random
    weights are trained for as many steps as the model, which takes about as long as its pretraining. Writes
    OUTPUT/report.html and OUTPUT/prove.json.

    Example:
        parfocal prove model store -o proof

    Args:
        model: the folder that pretrain wrote.
        store: the store that it was pretrained on.
        output: the folder to write to.
        settings: how much is looked at.
        json: print JSON in place of a table.
    """
    with Bars() as bars:
        result = run_prove(model, store, output, settings, on_event=bars)
    if json:
        print_json(result.describe())
    else:
        print_table(summary_table(result))
        say(*result.sentences)
        tell(f"report: {result.report}")
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("prove", prove, argv)
