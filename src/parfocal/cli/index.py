"""`parfocal index`."""

from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds
from parfocal.store import IndexSummary, index_features

__all__ = ["index"]


def index(
    features: Positional[tuple[Path, ...]],
    output: Output,
    slides: tuple[Path, ...] = (),
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    ids: SlideIds = "path",
    encoder: str | None = None,
    region_um: float | None = None,
    max_misalignment: float = 0.05,
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
        slides: the slide files, folders of them or manifests, for their true resolution.
        slide_mpp: micrometres per pixel of every slide that --slides does not hold.
        mpp_from_objective: take 10 um / power where a slide has an objective power and no resolution.
        ids: whether a slide in a folder of --slides is called by its path below it or by its file's name alone.
        encoder: name of the encoder, where a job folder holds the features of several.
        region_um: side of a region, in micrometres; a whole number of coarsest tiles, one by default.
        max_misalignment: how far a tile may lie from where it would nest, as a share of the finest tile's side.
    """
    if not features:
        raise ConfigError("no folder of features is named: parfocal index trident_jobs/ -o store --slides scans/")
    with Bars() as bars:
        summary = index_features(
            features,
            output,
            slides=slides,
            slide_mpp=slide_mpp,
            mpp_from_objective=mpp_from_objective,
            ids=ids,
            encoder=encoder,
            region_um=region_um,
            max_misalignment=max_misalignment,
            on_event=bars,
        )
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
