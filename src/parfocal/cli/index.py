"""`parfocal index`."""

from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.run.progress import Bars
from parfocal.store import FeatureSettings, IndexSummary, index_features

_SETTINGS = FeatureSettings()


def index(
    features: Positional[tuple[Path, ...]],
    output: Output,
    settings: FeatureSettings = _SETTINGS,
) -> Answer:
    """Make a store of FEATURES that TRIDENT has extracted at several magnifications.

    Only an index is written; the features stay where they are, and are read once to see that they are whole. Tiles are
    joined into regions by where they lie in micrometres, so each slide's true resolution is needed: from the slide
    files, a manifest, or one value for all. A slide that cannot be used, or is not like most others, gets one line and
    a row in OUTPUT/failures.csv, and the rest goes on.

    Example:
        parfocal index trident_jobs/ -o store --slides scans/

    Args:
        features: TRIDENT job folders, or one folder of HDF5 files for each magnification.
        output: the store to write to.
        settings: how.
    """
    if not features:
        raise ConfigError("no folder of features is named: parfocal index trident_jobs/ -o store --slides scans/")
    with Bars() as bars:
        summary = index_features(features, output, **dict(settings), on_event=bars)
    remarks = failed_lines(summary.failed)
    if summary.failed:
        n_all = len(summary.slides) + len(summary.failed)
        remarks += (f"{len(summary.slides)} of {n_all} slides are indexed",)
    return Answer(summary.describe(), (_table(summary),), remarks, summary.exit_status)


def _table(summary: IndexSummary) -> Table:
    mpps = summary.embeddings.mpps
    table = Table(title=str(summary.embeddings.path), title_justify="left")
    table.add_column("slide", overflow="fold")
    for name in ("mpp", "mpp from", "regions", *(f"tiles at {format_mpp(mpp)}" for mpp in mpps)):
        table.add_column(name, justify="right")
    table.add_column("left out", justify="right")
    table.add_column("misaligned by (um)", justify="right")
    for one in summary.slides:
        table.add_row(
            one.slide,
            f"{one.slide_mpp:.4g}",
            one.mpp_source,
            str(one.n_regions),
            *(str(one.n_tiles[mpp]) for mpp in mpps),
            str(sum(one.n_left_out.values())),
            f"{one.misalignment_um:.2f}",
        )
    return table
