"""The command `similar`: regions of a cohort that look alike."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer
from parfocal.report import Field, terminal_table
from parfocal.run.progress import Bars
from parfocal.similar import find_similar

_COLUMNS = (
    Field("slide"),
    Field("region"),
    Field("x (um)", "x_um", show=".0f"),
    Field("y (um)", "y_um", show=".0f"),
    Field("similarity", show=".3f"),
)


def similar(
    store: Positional[Path],
    slide: str,
    at: Annotated[tuple[float, float], tyro.conf.arg(metavar="X_UM Y_UM")],
    set: str | None = None,
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 12,
    other_slides: bool = False,
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="PATH")] = None,
) -> Answer:
    """Find the regions of the cohort in STORE that are most like the one at a place of a slide.

    Regions are compared by the cosine of their embeddings: of region embeddings where the store has them, else of the
    means of their tiles at every magnification. All of the cohort is compared, so the answer is exact. The region
    itself and those that overlap it are left out.

    Example:
        parfocal similar store --slide case-17 --at 5200 8100 --other-slides

    Args:
        store: a store of embeddings, or one of its sets.
        slide: id of the slide.
        at: x and y of a place in the region, in micrometres from the slide's top-left corner.
        set: the set, or the beginning of its name; needed where the store holds several.
        n: how many regions.
        other_slides: leave all regions of the same slide out.
        output: a table to write, a CSV.
    """
    with Bars() as bars:
        found = find_similar(store, slide, at, n=n, other_slides=other_slides, set_name=set, out=output, on_event=bars)
    data = {
        "set": found.embeddings.name,
        "slide": found.slide,
        "region": found.region,
        "n_compared": found.n_compared,
        "found": [asdict(one) for one in found.found],
    }
    title = f"regions like region {found.region} of {found.slide}, of {found.n_compared:,} in {found.embeddings.name}"
    return Answer(data, (terminal_table(_COLUMNS, found.found, title=title),))
