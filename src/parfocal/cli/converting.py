"""The command that makes slides of flat pictures: `convert`."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.convert import ConvertedPicture, ConvertSettings, convert_pictures
from parfocal.report.writer import Field, terminal_table
from parfocal.run.progress import Bars

_SETTINGS = ConvertSettings()


def convert(
    pictures: Positional[tuple[Path, ...]],
    output: Output,
    slide_mpp: Annotated[float | None, tyro.conf.arg(aliases=("--mpp",))] = None,
    settings: ConvertSettings = _SETTINGS,
) -> Answer:
    """Write PICTURES that are too large or too slow to read as tiled pyramids.

    A PNG, a JPEG or a TIFF without levels becomes OUTPUT/NAME.tif: tiles, levels that are means of two by two pixels,
    and its resolution, which is never guessed. PNG and TIFF pass through memory in bands, whatever their size; what has
    to be decoded whole (JPEG, interlaced and turned pictures) may have 1,000 million pixels. A picture that cannot be
    converted gets one line, and the others go on.

    Example:
        parfocal convert scan.png fields/a.jpg -o slides --mpp 0.5

    Args:
        pictures: PNG and JPEG files, and TIFFs without levels.
        output: the folder of the pyramids.
        slide_mpp: micrometres per pixel of every picture, in place of what its file says; asked for where it says
            nothing, or only the resolution of a screen or a print.
        settings: how.
    """
    with Bars() as bars:
        summary = convert_pictures(pictures, output, settings, slide_mpp=slide_mpp, on_event=bars)
    columns = (
        Field("slide"),
        Field("size (px)", _size),
        Field("levels"),
        Field("mpp", show=".4g"),
        Field("mpp from", "mpp_source"),
        Field("written to", "path"),
    )
    shown = (terminal_table(columns, summary.done),) if summary.done else ()
    return Answer(summary.describe(), shown, failed_lines(summary.failed), summary.exit_status)


def _size(one: ConvertedPicture) -> str:
    return f"{one.width_px:,} x {one.height_px:,}"
