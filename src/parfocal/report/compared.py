"""The figure of a comparison: a few numbers in each row, with their intervals, one under the other."""

from collections.abc import Mapping

import numpy as np

from parfocal.report.drawing import Plot, nice_ticks, shorten
from parfocal.report.page import Figure
from parfocal.report.writer import show
from parfocal.stats import Interval
from parfocal.stats.interval import Number

_NAMES, _NUMBERS = 190, 150  # px at the left and at the right
_MOST_ROWS = 8


def compared_figure(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    metric: str = "AUC",
    chance: Number = 0.5,
    highest: Number = 1.0,
    width: int = 760,
) -> Figure:
    """For each row a few numbers under each other, each a dot with its interval; the same names in every row.

    Of many rows those are drawn in which the last number is furthest above the first, and furthest below it. An
    interval without ends is a dot alone.

    Args:
        rows: name of the row -> name of the number -> its interval.
        metric: what the numbers are.
        chance: where the dashed line stands.
        highest: end of the axis.
        width: of the drawing, px.

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError("there is nothing to compare in this figure")
    gains = {name: list(own.values())[-1].estimate - next(iter(own.values())).estimate for name, own in rows.items()}
    order = sorted(rows, key=lambda name: -gains[name])
    half = _MOST_ROWS // 2
    drawn = {name: rows[name] for name in rows if len(rows) <= _MOST_ROWS or name in (*order[:half], *order[-half:])}
    series = list(next(iter(drawn.values())))
    numbers = [one for own in drawn.values() for one in own.values()]
    lowest = min([chance - 0.05, *(one.low if one.has_ends else one.estimate for one in numbers)])
    low, height, top = float(np.floor(lowest * 10) / 10), 15 * len(series) + 7, 30 if len(series) > 1 else 8
    bottom = top + height * len(drawn)
    plot = Plot(width, bottom + 44, x=(low, highest), y=(0, 1), left=_NAMES, right=_NUMBERS, top=top, bottom=44)
    if len(series) > 1:
        for number, name in enumerate(series):
            plot.dot(196 + 220 * number, 12, number)
            plot.text(206 + 220 * number, 16, name)
    for place in range(0, len(drawn), 2):
        plot.stripe(top + height * place, height)
    for tick in nice_ticks(low, highest):
        plot.segment(plot.px(tick), top, plot.px(tick), bottom, "grid")
        plot.text(plot.px(tick), bottom + 17, f"{tick:.1f}".replace("-", "\u2212"), "soft", anchor="middle")
    plot.segment(plot.px(chance), top, plot.px(chance), bottom, "chance", 1.6)
    plot.segment(plot.px(low), bottom, plot.px(highest), bottom, "axis")
    plot.text(
        (plot.px(low) + plot.px(highest)) / 2, bottom + 36, f"{metric} ({chance:g} is chance)", "soft", anchor="middle"
    )
    for place, (name, own) in enumerate(drawn.items()):
        y = top + height * place
        plot.text(4, y + height / 2 + 4, shorten(name, 28))
        for number, one in enumerate(own.values()):
            middle = y + 11 + 15 * number
            if one.has_ends:
                ends = (plot.px(max(one.low, low)), plot.px(min(one.high, highest)))
                plot.segment(ends[0], middle, ends[1], middle, f"l{number}", 2.4)
            plot.dot(plot.px(one.estimate), middle, number)
            plot.text(width - _NUMBERS + 12, middle + 4, show(one))
    caption = f"{metric} with 95 % intervals; the dashed line is chance."
    if len(drawn) < len(rows):
        caption += f" Of {len(rows)} targets the {half} with the largest gain and the {half} with the smallest."
    alt = f"{metric}. " + "; ".join(
        f"{name}: " + ", ".join(f"{what} {show(one)}" for what, one in own.items()) for name, own in drawn.items()
    )
    return Figure.of(plot.svg(), caption, alt)
