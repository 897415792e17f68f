"""`parfocal encoders`."""

from dataclasses import asdict

from rich.table import Table

from parfocal.cli.command import Answer
from parfocal.encoders import available_encoders
from parfocal.geometry import format_mpp


def encoders() -> Answer:
    """List the tile encoders that have a name, what each needs, and whether that is here.

    Any other network is named by a spec: timm:NAME, file:PATH or python:MODULE:FUNCTION (see docs/encoders.md).

    Example:
        parfocal encoders
    """
    return Answer([asdict(info) for info in available_encoders()], (encoder_table(),))


def encoder_table() -> Table:
    """The tile encoders as a table."""
    table = Table(title="tile encoders")
    table.add_column("name", no_wrap=True)
    table.add_column("width", justify="right")
    table.add_column("trained at (mpp)")
    table.add_column("needs")
    table.add_column("installed")
    table.add_column("licence")
    for info in available_encoders():
        trained = ", ".join(map(format_mpp, info.trained_mpps)) if info.trained_mpps else "any"
        table.add_row(info.name, str(info.dim), trained, info.needs, "yes" if info.installed else "no", info.licence)
    return table
