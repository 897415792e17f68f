"""The command `status`: how far a store is."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer
from parfocal.slides import SlideIds
from parfocal.store import RunRate, SetStatus, read_status
from parfocal.table import some_of


def status(
    store: Positional[Path],
    slides: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH...")] = (),
    ids: SlideIds = "path",
) -> Answer:
    """Show how far STORE is: slides that are done, failed and why, missing, bytes, and how fast the last run was.

    It only reads, so it may be asked while runs write to the store. STORE may also be the table that `predict` writes.
    The exit status is 0 when nothing failed and nothing is missing, 1 when nothing is done, and else 3.

    Example:
        parfocal status store --slides scans/

    Args:
        store: a store, on a disk or in a bucket (s3://, gs://), one of its sets, or a table of predictions.
        slides: what should be in it: slide files, folders of them, or manifests; where none is named, what runs were
            given and have not done is missing.
        ids: whether a slide in a folder is called by its path below the folder or by its file's name alone.
    """
    found = read_status(store, slides, ids=ids)
    shown = tuple(line for one in found.sets for line in _lines(one))
    told = (f"{found.damaged} damaged lines of its records were passed over",) if found.damaged else ()
    return Answer(found.describe(), shown, told, found.exit_status)


def _lines(one: SetStatus) -> list[str]:
    lines = [
        one.name,
        f"  done: {len(one.done)}    failed: {one.n_failed}    missing: {len(one.missing)}    bytes: {one.bytes:,}",
    ]
    lines += [f"  {error}: {len(slides)} ({some_of(slides)})" for error, slides in one.failed.items()]
    lines += [f"  missing: {some_of(one.missing)}"] if one.missing else []
    return lines + ([_rate(one.rate)] if one.rate is not None else [])


def _rate(rate: RunRate) -> str:
    shards = f" of shards {', '.join(rate.shards)}" if rate.shards else ""
    speed = ""
    if rate.slides_per_hour is not None and rate.tiles_per_second is not None:
        speed = f": {rate.slides_per_hour:,.0f} slides an hour, {rate.tiles_per_second:,.0f} tiles a second"
    failed = f" and {rate.failed} failed" if rate.failed else ""
    what = f"{rate.slides} slides{failed} in {rate.seconds:,.1f} s{speed}"
    return f"  last run{shards} ({rate.command}), until {rate.end}: {what}"
