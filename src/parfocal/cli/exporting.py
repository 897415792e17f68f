"""The command `export`: embeddings in other tools' layouts, and tiles as pictures."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.errors import ConfigError
from parfocal.export import (
    ExportSettings,
    ExportSummary,
    PictureSettings,
    PictureSummary,
    export_features,
    export_pictures,
)
from parfocal.export.features import ExportChoices
from parfocal.run.progress import Bars

_CHOICES, _PICTURES = ExportChoices(), PictureSettings()


def export(
    store: Positional[Path],
    output: Output,
    format: str | None = None,
    per: Literal["slide", "cohort"] | None = None,
    pictures: Literal["tar", "png"] | None = None,
    set: str | None = None,
    slides: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH...")] = (),
    jpeg: int | None = None,
    shard_mb: float | None = None,
    choices: ExportChoices = _CHOICES,
) -> Answer:
    """Write the embeddings of STORE in the layout of another tool, or its tiles as pictures.

    Tiles of each magnification, embedded or indexed, become the files that the tool writes itself; a row of a set of
    regions is a tile of a region's side. A file that is there is kept where it holds the same, and otherwise left alone
    and told. A slide that fails gets one line and a row in OUTPUT/failures.csv, and the rest goes on. Layouts and
    shards: docs/formats.md.

    Example:
        parfocal export store -o exported --format clam --mpps 0.5

    Args:
        store: a store of embeddings, or one of its sets.
        output: the folder to write to.
        format: the layout: trident, clam, stamp, slide2vec, atlaspatch, anndata; trident when None.
        per: for --format anndata, one object for each slide, or one for the cohort; slide when None.
        pictures: write the pixels of tiles in place of embeddings: tar, shards as WebDataset reads them, or png, a file
            SLIDE/MPP/X_Y for each tile.
        set: the set, or the beginning of its name; needed where the store holds several.
        slides: for --pictures, where the slides are now, where that is not where they were embedded: files, folders or
            manifests.
        jpeg: for --pictures, the quality of JPEG, 1 to 100; PNG, which loses nothing, when None.
        shard_mb: for --pictures tar, the most megabytes in a shard; 500 when None.
        choices: which part of the set, and what happens to files that are there.
    """
    of_pictures = {"slides": slides, "jpeg": jpeg, "shard_mb": shard_mb}
    named = [name for name, value in of_pictures.items() if value not in (None, ())]
    idle = named if pictures is None else ["format"] * bool(format)
    if per is not None and format != "anndata":
        raise ConfigError("--per says nothing but of --format anndata. Leave it out.")
    if pictures == "png" and shard_mb is not None:
        idle = ["shard_mb"]
    if idle:
        why = "needs --pictures" if pictures is None else f"says nothing of --pictures {pictures}"
        raise ConfigError(f"--{idle[0].replace('_', '-')} {why}. Leave it out.")
    chosen = choices.model_dump()
    summary: ExportSummary | PictureSummary
    with Bars() as bars:
        if pictures is None:
            asked = {name: value for name, value in (("format", format), ("per", per)) if value}
            settings = ExportSettings(**asked, **chosen)
            summary = export_features(store, output, settings, set_name=set, on_event=bars)
        else:
            shard_mb = _PICTURES.shard_mb if shard_mb is None else shard_mb
            wanted = PictureSettings(pictures=pictures, jpeg=jpeg, shard_mb=shard_mb, **chosen)
            summary = export_pictures(store, output, wanted, slides=slides, set_name=set, on_event=bars)
    data = {
        "set": summary.embeddings.path,
        "folder": summary.folder,
        "slides": [asdict(one) for one in summary.done],
        "failed": [asdict(one) for one in summary.failed],
    }
    n_kept = sum(one.n_kept for one in summary.done)
    kept = f", {n_kept} files were there before" if n_kept else ""
    return Answer(
        data, (f"{output}: {len(summary.done)} slides{kept}",), failed_lines(summary.failed), summary.exit_status
    )
