"""`parfocal embed`."""

from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, print_table
from parfocal.cli.encoders import encoder_table
from parfocal.embed import EmbedSettings, embed_slides, estimate_run, estimate_table, summary_table
from parfocal.embed.summary import no_tissue_line, summary_counts
from parfocal.errors import ConfigError
from parfocal.run.progress import Bars

_SETTINGS = EmbedSettings(workers=1)


def embed(
    slides: Positional[tuple[Path, ...]],
    output: Output,
    settings: EmbedSettings = _SETTINGS,
    dry_run: bool = False,
) -> Answer:
    """Embed the tiles of SLIDES at every magnification into a store.

    Tissue, regions, aligned tiles at every magnification in one pass, encoder, store. What is done already is kept;
    a slide that fails gets one line and a row in STORE/failures.csv, and the rest goes on. The same call continues a
    run that was stopped. A slide that is done and whose stored rows are lost or damaged fails too: its line names the
    file to remove to embed it anew.

    Example:
        parfocal embed scans/ -o store --encoder filterbank --mpps 2 1 0.5

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp]).
        output: the store to write to.
        settings: how.
        dry_run: show tiles per magnification, bytes and a time estimate, and write nothing.
    """
    if not slides:
        raise ConfigError("no slide is named. Give files, folders or a manifest: parfocal embed scans/ -o store ...")
    if not settings.encoder:
        print_table(encoder_table(), to_stderr=True)
        raise ConfigError("no tile encoder is named, and there is no silent default. Use --encoder with one of these.")
    if dry_run:
        estimate = estimate_run(slides, output, settings)
        remarks = [
            f"{slide.slide} would fail: {slide.problem}"
            if slide.problem
            else no_tissue_line(output, slide.slide, slide.path)
            for slide in estimate.slides
            if slide.problem or not slide.n_regions
        ]
        return Answer(estimate.describe(), (estimate_table(estimate),), tuple(remarks), estimate.exit_status)
    with Bars() as bars:
        summary = embed_slides(slides, output, settings, on_event=bars)
    counts = ", ".join(f"{count} {name}" for name, count in summary_counts(summary).items())
    remarks = [no_tissue_line(output, empty.slide, empty.path) for empty in summary.no_tissue]
    remarks += [counts, f"store: {summary.set_path}    log: {summary.log}"]
    return Answer(summary.describe(), (summary_table(summary),), tuple(remarks), summary.exit_status)
