"""`parfocal embed`."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_json, print_table
from parfocal.cli.encoders import encoder_table
from parfocal.cli.lines import tell
from parfocal.embed import EmbedSettings, embed_slides, estimate_run, estimate_table, summary_table
from parfocal.embed.summary import no_tissue_line, summary_counts
from parfocal.errors import ConfigError
from parfocal.run.progress import Bars

__all__ = ["embed", "run"]

_SETTINGS = EmbedSettings(workers=1)


def embed(
    slides: Positional[tuple[Path, ...]],
    output: Output,
    settings: EmbedSettings = _SETTINGS,
    dry_run: bool = False,
    json: bool = False,
) -> int:
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
        json: print JSON in place of a table.
    """
    if not slides:
        raise ConfigError("no slide is named. Give files, folders or a manifest: parfocal embed scans/ -o store ...")
    if not settings.encoder:
        print_table(encoder_table(), to_stderr=True)
        raise ConfigError("no tile encoder is named, and there is no silent default. Use --encoder with one of these.")
    if dry_run:
        estimate = estimate_run(slides, output, settings)
        if json:
            print_json(estimate.describe())
        else:
            print_table(estimate_table(estimate))
            for one in estimate.slides:
                if one.problem:
                    tell(f"{one.slide} would fail: {one.problem}")
                elif not one.n_regions:
                    tell(no_tissue_line(output, one.slide, one.path))
        return estimate.exit_status
    with Bars() as bars:
        summary = embed_slides(slides, output, settings, on_event=bars)
    for empty in summary.no_tissue:
        tell(no_tissue_line(output, empty.slide, empty.path))
    if json:
        print_json(summary.describe())
    else:
        print_table(summary_table(summary))
        tell(", ".join(f"{count} {name}" for name, count in summary_counts(summary).items()))
        tell(f"store: {summary.set_path}    log: {summary.log}")
    return summary.exit_status


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("embed", embed, argv)
