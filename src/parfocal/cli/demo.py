"""`parfocal demo`."""

from collections.abc import Sequence
from pathlib import Path

from parfocal.cli.command import Output, parse_and_call
from parfocal.cli.lines import say, tell
from parfocal.lab.demo import DemoSettings
from parfocal.lab.demo import run_demo as run_demo
from parfocal.run.progress import Bars

__all__ = ["demo", "run"]

_SETTINGS = DemoSettings()


def demo(output: Output = Path("demo-output"), settings: DemoSettings = _SETTINGS) -> int:
    """Render a small cohort whose answer is known, run the whole chain on it, and write a report.

    Slides, tile embeddings by the filter bank, a pretrained region encoder, region embeddings, and every arm
    cross-validated on two labels: one that only the pairing of magnifications knows, and one that any magnification
    knows. Nothing is downloaded.

    Example:
        parfocal demo -o demo-output

    Args:
        output: the folder for slides, store, model and report.
        settings: size of the cohort and length of the training.
    """
    with Bars() as bars:
        result = run_demo(output, settings, on_event=bars)
    for stage, seconds in result.seconds.items():
        tell(f"{stage:<26}{seconds:7.1f} s")
    say(f"report: {result.report}")
    return result.evaluation.exit_status


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("demo", demo, argv)
