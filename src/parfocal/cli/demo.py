"""`parfocal demo`."""

from pathlib import Path

from parfocal.cli.command import Answer, Output
from parfocal.lab.demo import DemoSettings, run_demo
from parfocal.run.progress import Bars

_SETTINGS = DemoSettings()


def demo(output: Output = Path("demo-output"), settings: DemoSettings = _SETTINGS) -> Answer:
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
    return Answer(
        {"report": result.report, "seconds": dict(result.seconds)},
        (f"report: {result.report}",),
        tuple(f"{stage:<26}{seconds:7.1f} s" for stage, seconds in result.seconds.items()),
        result.evaluation.exit_status,
    )
