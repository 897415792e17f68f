"""Figures: arms with their intervals, ROC curves, reliability, curves over steps; and pictures made of pixels.

The pictures are strips of tiles, and thumbnails of slides with a value for each region laid over them.
"""

import csv
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from parfocal.errors import StoreError
from parfocal.report.arms import ArmResult
from parfocal.report.drawing import Plot, nice_ticks, shorten
from parfocal.report.heatmap import overlay, signed_scale
from parfocal.report.page import Figure, Panel
from parfocal.stats import ReliabilityBin, RocCurve
from parfocal.stats.interval import Number, Numbers

_LABEL = 312  # width of the arms' names, px
_VALUE = 150  # width of the numbers at the right, px


def forest_figure(target: str, arms: Sequence[ArmResult], *, metric: str = "AUC", width: int = 1000) -> Figure:
    """Every arm as a dot with its interval, in its family, with chance as a dashed line.

    A hollow diamond is a known ceiling, a cross another reference (the caption says which).

    Raises:
        ValueError: no arm.
    """
    if not arms:
        raise ValueError(f"there is no arm to draw for {target}")
    lines = [_wrapped(arm) for arm in arms]
    heights = [18 + 15 * len(one) for one in lines]
    families = [arm.family for arm in arms]
    heads = [number == 0 or families[number - 1] != family for number, family in enumerate(families)]
    total = sum(heights) + 30 * sum(heads)
    lowest = min([arm.value.low for arm in arms] + [ref.value for arm in arms for ref in arm.references] + [0.45])
    low = max(0.0, np.floor(lowest * 10) / 10)
    plot = Plot(width, total + 56, x=(low, 1.0), y=(0, 1), left=_LABEL, right=_VALUE, top=8, bottom=48)

    rows: list[tuple[float, ArmResult, list[str]]] = []
    y = 8.0
    for arm, own, height, head in zip(arms, lines, heights, heads, strict=True):
        if head:
            plot.text(0, y + 21, shorten(arm.family, 48), "soft strong", size=12)
            y += 30
        if arm.highlight:
            plot.stripe(y, height)
        rows.append((y + height / 2, arm, own))
        y += height
    for tick in nice_ticks(low, 1.0):
        plot.segment(plot.px(tick), 8, plot.px(tick), y, "grid")
        plot.text(plot.px(tick), y + 18, f"{tick:.1f}", "soft", anchor="middle")
    plot.segment(plot.px(0.5), 8, plot.px(0.5), y, "chance", 1.6)
    plot.segment(plot.px(low), y, plot.px(1.0), y, "axis")
    plot.text((plot.px(low) + plot.px(1.0)) / 2, y + 37, f"{metric} (0.5 is chance)", "soft", anchor="middle")
    order = list(dict.fromkeys(families))
    for middle, arm, own in rows:
        first = middle + 4.5 - 7.5 * (len(own) - 1)
        for number, line in enumerate(own):
            css = "strong" if arm.highlight and number == 0 else "soft" if number and number == len(own) - 1 else ""
            plot.text(8, first + 15 * number, line, css, size=13 if css != "soft" else 12)
        series = order.index(arm.family)
        plot.segment(plot.px(arm.value.low), middle, plot.px(arm.value.high), middle, f"l{series % 6}", 2.4)
        for reference in arm.references:
            mark = plot.diamond if reference.is_ceiling else plot.cross
            mark(plot.px(reference.value), middle)
        plot.dot(plot.px(arm.value.estimate), middle, series)
        numbers = f"{arm.value.estimate:.2f}  ({arm.value.low:.2f} to {arm.value.high:.2f})"
        plot.text(width - _VALUE + 12, middle + 4.5, numbers, "strong" if arm.highlight else "", size=12)

    level = f"{arms[0].value.level:.0%}".replace("%", " %")
    caption = f"{target}: {metric} of every arm with its {level} interval; the dashed line is chance."
    if any(reference.is_ceiling for arm in arms for reference in arm.references):
        caption += " Hollow diamond: the best that any reader of the same input can reach."
    others = dict.fromkeys(ref.label for arm in arms for ref in arm.references if not ref.is_ceiling)
    if others:
        caption += f" Cross: {', '.join(others)}."
    alt = f"Forest plot of {metric} for {target}. " + "; ".join(
        f"{arm.name}, {arm.pooling}: {arm.value.estimate:.2f}" for arm in arms
    )
    return Figure.of(plot.svg(), caption, alt)


def roc_figure(target: str, curves: Mapping[str, RocCurve]) -> Figure:
    """The ROC curves of several arms.

    Give it `mean_roc` of each arm's folds: scores of different folds have different scales and are never pooled.
    """
    plot = _shares("False-positive rate (1 - specificity)", "Sensitivity")
    for series, curve in enumerate(curves.values()):
        plot.curve(curve.false_positive_rate, curve.sensitivity, series)
    _legend(plot, list(curves), x=360 + 8, y=24)
    caption = (
        f"{target}: ROC curves, the mean sensitivity over folds at each false-positive rate. "
        "Scores are never pooled over folds."
    )
    return Figure.of(plot.svg(), caption, f"ROC curves for {target} of {', '.join(curves)}")


def reliability_figure(target: str, arms: Mapping[str, Sequence[ReliabilityBin]]) -> Figure:
    """Observed share over predicted probability, with Wilson intervals; on the diagonal a prediction means itself."""
    plot = _shares("Predicted probability", "Observed share")
    for series, bins in enumerate(arms.values()):
        for one in bins:
            x = plot.px(one.mean_prediction)
            plot.segment(x, plot.py(one.observed.low), x, plot.py(one.observed.high), f"l{series % 6}", 1)
            plot.dot(x, plot.py(one.observed.estimate), series, radius=3.5)
        plot.curve([one.mean_prediction for one in bins], [one.observed.estimate for one in bins], series)
    _legend(plot, list(arms), x=360 + 8, y=24)
    caption = (
        f"{target}: calibration. Bars are 95 % intervals of the share; points on the dashed line mean what they say."
    )
    return Figure.of(plot.svg(), caption, f"Calibration curves for {target} of {', '.join(arms)}")


def _shares(x_label: str, y_label: str) -> Plot:
    """A square of two shares with its diagonal, and room for a legend."""
    plot, ticks = Plot(360 + 300, 360, x=(0.0, 1.0), y=(0.0, 1.0), right=312), (0.0, 0.25, 0.5, 0.75, 1.0)
    plot.axes(x_label, y_label, ticks, ticks)
    plot.segment(plot.px(0), plot.py(0), plot.px(1), plot.py(1), "chance")
    return plot


def curves_panel(
    x: Numbers, series: Mapping[str, Numbers], *, x_label: str, y_label: str, label: str = "", width: int = 430
) -> Panel:
    """Curves over one axis, such as a loss over steps; values that are not finite leave a gap.

    Raises:
        ValueError: nothing finite to draw.
    """
    xs = np.asarray(x, dtype=float)
    values = np.concatenate([np.asarray(one, dtype=float) for one in series.values()]) if series else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values) or not np.isfinite(xs).any():
        raise ValueError(f"there is nothing finite to draw for {label or y_label}")
    low, high = float(values.min()), float(values.max())
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    x_range = (float(np.nanmin(xs)), float(np.nanmax(xs)))
    if x_range[0] == x_range[1]:
        x_range = (x_range[0] - 0.5, x_range[1] + 0.5)
    bottom = 52 + 18 * len(series)
    plot = Plot(width, 210 + bottom, x=x_range, y=(low - room, high + room), left=60, bottom=bottom)
    plot.axes(x_label, y_label, nice_ticks(*x_range), nice_ticks(low - room, high + room))
    for number, (name, ys) in enumerate(series.items()):
        plot.curve(xs, ys, number)
        finite = np.isfinite(np.asarray(ys, dtype=float))
        if finite.sum() == 1:  # one evaluation: a line needs two
            at = int(np.flatnonzero(finite)[0])
            plot.dot(plot.px(float(xs[at])), plot.py(float(ys[at])), number)
        plot.legend_key(62, 210 + 54 + 18 * number, number)
        plot.text(92, 210 + 58 + 18 * number, shorten(name, 44))
    alt = f"{label or y_label} over {x_label}: " + "; ".join(
        f"{name} ends at {_last(ys):.3g}" for name, ys in series.items()
    )
    return Panel(plot.svg(), alt, label)


def bars_panel(
    names: Sequence[str], values: Sequence[float], *, x_label: str, show: Callable[[float], str], width: int = 640
) -> Panel:
    """Horizontal bars from zero, one for each name in the given order, with their values as `show` writes them.

    Raises:
        ValueError: no bar, or a value that is not finite.
    """
    if not names or not np.isfinite(values).all():
        raise ValueError(f"there is nothing finite to draw of {x_label}")
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.02 * ((high - low) or 1.0)
    bottom = 8 + 28 * len(names)
    plot = Plot(width, bottom + 44, x=(low - room, high + room), y=(0, 1), left=190, right=90, top=8, bottom=44)
    for tick in nice_ticks(low, high):
        plot.segment(plot.px(tick), 8, plot.px(tick), bottom, "grid")
        plot.text(plot.px(tick), bottom + 17, show(tick), "soft", anchor="middle")
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 8 + 28 * number + 14
        plot.text(0, y + 4, shorten(name, 28))
        plot.segment(plot.px(0), y, plot.px(value), y, "l0", 16)
        plot.text(width - 82, y + 4, show(value), "strong")
    plot.segment(plot.px(0), 8, plot.px(0), bottom, "axis")
    plot.text((190 + width - 90) / 2, bottom + 36, x_label, "soft", anchor="middle")
    alt = f"Bars of {x_label}: " + "; ".join(f"{name}: {show(one)}" for name, one in zip(names, values, strict=True))
    return Panel(plot.svg(), alt)


def training_figure(metrics_csv: Path, groups: Mapping[str, Mapping[str, str]], *, x: str = "step") -> Figure:
    """The curves of a training from its metrics file, one panel for each group.

    Args:
        metrics_csv: a CSV with a header; empty cells are steps at which a value was not measured.
        groups: name of the panel -> {column: name of the curve}. Columns that the file lacks are refused.
        x: the column of the horizontal axis.

    Raises:
        StoreError: the file is missing or empty, or lacks a column.
    """
    try:
        with metrics_csv.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise StoreError(f"cannot draw the training: {metrics_csv} is missing") from error
    if not rows:
        raise StoreError(f"cannot draw the training: {metrics_csv} has no row")
    wanted = [x, *(column for group in groups.values() for column in group)]
    absent = [column for column in wanted if column not in rows[0]]
    if absent:
        raise StoreError(f"{metrics_csv} lacks the columns {absent}; it has {list(rows[0])}")
    panels = []
    for name, columns in groups.items():
        measured = [row for row in rows if any(row[column] for column in columns)]
        series = {title: [float(row[column] or "nan") for row in measured] for column, title in columns.items()}
        steps = [float(row[x]) for row in measured]
        panels.append(curves_panel(steps, series, x_label=x, y_label=name, label=name))
    return Figure(tuple(panels), f"Training, over {float(rows[-1][x]):g} {x}s.")


def _wrapped(arm: ArmResult) -> list[str]:
    """The arm's name on at most two lines of 42 characters, and its pooling below."""
    lines = textwrap.wrap(arm.name, 42, max_lines=2, placeholder=" …") or [arm.name]
    return [*lines, shorten(arm.pooling, 46)] if arm.pooling else lines


def _legend(plot: Plot, names: Sequence[str], *, x: Number, y: Number) -> None:
    for series, name in enumerate(names):
        lines = textwrap.wrap(name, 38, max_lines=2, placeholder=" …") or [name]
        plot.legend_key(x, y - 4, series)
        for line in lines:
            plot.text(x + 32, y, line)
            y += 16
        y += 7


def _last(values: Numbers) -> float:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return float(finite[-1]) if len(finite) else float("nan")


def png(pixels: UInt8[np.ndarray, "y x channel"]) -> bytes:
    """RGB or RGBA pixels as a PNG, which keeps every grey level: textures of one pixel are what a tile may be about."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tile_strip(tiles: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, gap_px: int = 6) -> bytes:
    """Tiles of one height side by side with transparent gaps, as a PNG.

    Raises:
        ValueError: no tile, or tiles of different heights.
    """
    if not tiles or len({len(tile) for tile in tiles}) != 1:
        raise ValueError(f"a strip needs tiles of one height, got {[tile.shape for tile in tiles]}")
    width = sum(tile.shape[1] for tile in tiles) + gap_px * (len(tiles) - 1)
    strip = np.zeros((len(tiles[0]), width, 4), dtype=np.uint8)
    left = 0
    for tile in tiles:
        strip[:, left : left + tile.shape[1], :3] = tile
        strip[:, left : left + tile.shape[1], 3] = 255
        left += tile.shape[1] + gap_px
    return png(strip)


def tile_gallery(rows: Mapping[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]], caption: str) -> Figure:
    """One strip of tiles for each label, under each other."""
    panels = tuple(Panel(tile_strip(tiles), f"{len(tiles)} tiles: {label}", label) for label, tiles in rows.items())
    return Figure(panels, caption, "stack")


def slide_map_figure(
    thumbnail: UInt8[np.ndarray, "y x 3"],
    thumbnail_mpp: Number,
    region_xy_um: Float[np.ndarray, "region 2"],
    region_um: Number,
    maps: Mapping[str, Shaped[np.ndarray, "region"]],
    caption: str,
    *,
    slide: str,
) -> Figure:
    """The slide, and beside it each map: orange where a region's value is high, blue where it is low, clear at zero.

    Each map has its own scale, the 98th percentile of its absolute values; regions without a finite value stay clear.

    Args:
        thumbnail: the slide from its top left corner.
        thumbnail_mpp: microns per pixel of the thumbnail.
        region_xy_um: top left corner of each region.
        region_um: side of a region.
        maps: label -> one value for each region.
        caption: what is shown.
        slide: the slide's name, for the label.
    """
    panels = [Panel(png(thumbnail), f"Thumbnail of slide {slide}", slide)]
    for label, values in maps.items():
        own = np.asarray(values, dtype=float)
        overlaid = overlay(thumbnail, thumbnail_mpp, region_xy_um, region_um, own, signed_scale([own]))
        panels.append(Panel(png(overlaid), f"Map of {label} over slide {slide}", label))
    return Figure(tuple(panels), caption)
