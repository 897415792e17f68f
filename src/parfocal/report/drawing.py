"""A small plot drawn as SVG, whose colours and type come from the page, so that it follows light, dark and print."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from parfocal.stats.interval import Number, Numbers

N_COLOURS = 6
# After six curves the colours come again with another stroke.
DASHES = ("", "6 4", "2 3")


class Plot:
    """A rectangle with two linear axes on a canvas; marks are added in data coordinates, text in pixels."""

    def __init__(
        self,
        width: int,
        height: int,
        *,
        x: tuple[Number, Number],
        y: tuple[Number, Number],
        left: Number = 52,
        right: Number = 12,
        top: Number = 12,
        bottom: Number = 44,
    ) -> None:
        self._width, self._height = width, height
        self._x, self._y = x, y
        self._box = (left, top, width - right, height - bottom)
        self._marks: list[str] = []

    def px(self, x: Number) -> float:
        """The canvas position of a data value along x."""
        left, _, right, _ = self._box
        return left + (x - self._x[0]) / (self._x[1] - self._x[0]) * (right - left)

    def py(self, y: Number) -> float:
        """The canvas position of a data value along y, which rises upwards."""
        _, top, _, bottom = self._box
        return bottom - (y - self._y[0]) / (self._y[1] - self._y[0]) * (bottom - top)

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[Number], y_ticks: Sequence[Number]) -> None:
        """Grid lines, numbers and names of both axes."""
        left, top, right, bottom = self._box
        for tick, text in zip(x_ticks, _tick_texts(x_ticks), strict=True):
            self.segment(self.px(tick), top, self.px(tick), bottom, "grid")
            self.text(self.px(tick), bottom + 17, text, "soft", anchor="middle")
        for tick, text in zip(y_ticks, _tick_texts(y_ticks), strict=True):
            self.segment(left, self.py(tick), right, self.py(tick), "grid")
            self.text(left - 7, self.py(tick) + 4, text, "soft", anchor="end")
        self.segment(left, bottom, right, bottom, "axis")
        self.text((left + right) / 2, bottom + 36, x_label, "soft", anchor="middle")
        middle = (top + bottom) / 2
        self._marks.append(
            f'<text class="soft" font-size="12" text-anchor="middle" x="14" y="{middle:.1f}" '
            f'transform="rotate(-90 14 {middle:.1f})">{escape(y_label)}</text>'
        )

    def curve(self, xs: Numbers, ys: Numbers, series: int) -> None:
        """A line through the finite points; it breaks where a value is not finite."""
        for run in _finite_runs(np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)):
            self._polyline(series, [(self.px(x), self.py(y)) for x, y in run])

    def dot(self, x: Number, y: Number, series: int, radius: Number = 4) -> None:
        """A filled circle, in canvas coordinates."""
        self._marks.append(f'<circle class="f{series % N_COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')

    def diamond(self, x: Number, y: Number, radius: Number = 7) -> None:
        """A hollow diamond, in canvas coordinates."""
        points = f"{x:.1f},{y - radius:.1f} {x + radius:.1f},{y:.1f} {x:.1f},{y + radius:.1f} {x - radius:.1f},{y:.1f}"
        self._marks.append(f'<polygon class="hollow" points="{points}"/>')

    def cross(self, x: Number, y: Number, radius: Number = 4.5) -> None:
        """A cross, in canvas coordinates."""
        self._marks.append(
            f'<path class="cross" d="M{x - radius:.1f} {y - radius:.1f}L{x + radius:.1f} {y + radius:.1f}'
            f'M{x - radius:.1f} {y + radius:.1f}L{x + radius:.1f} {y - radius:.1f}"/>'
        )

    def segment(self, x1: Number, y1: Number, x2: Number, y2: Number, css: str, width: Number | None = None) -> None:
        """A straight line, in canvas coordinates."""
        stroke = f' style="stroke-width:{width}"' if width else ""
        self._marks.append(f'<line class="{css}"{stroke} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def stripe(self, y: Number, height: Number) -> None:
        """A pale stripe over the whole width, in canvas coordinates."""
        self._marks.append(f'<rect class="stripe" x="0" y="{y:.1f}" width="{self._width}" height="{height:.1f}"/>')

    def text(self, x: Number, y: Number, text: str, css: str = "", *, anchor: str = "start", size: Number = 12) -> None:
        """One line of text, in canvas coordinates."""
        self._marks.append(
            f'<text class="{css}" font-size="{size}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">'
            f"{escape(text)}</text>"
        )

    def legend_key(self, x: Number, y: Number, series: int) -> None:
        """A short piece of a curve, for a legend."""
        self._polyline(series, [(x, y), (x + 22, y)])

    def _polyline(self, series: int, places: Sequence[tuple[Number, Number]]) -> None:
        dash = DASHES[(series // N_COLOURS) % len(DASHES)]
        stroke = f' stroke-dasharray="{dash}"' if dash else ""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self._marks.append(f'<polyline class="curve l{series % N_COLOURS}"{stroke} points="{points}"/>')

    def svg(self) -> bytes:
        """The drawing. It names no colour of its own: the style of the page does."""
        head = f'<svg width="{self._width}" height="{self._height}" viewBox="0 0 {self._width} {self._height}" '
        return (head + 'aria-hidden="true">' + "".join(self._marks) + "</svg>").encode()


def nice_ticks(low: Number, high: Number, about: int = 5) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range."""
    if not high > low:
        return (low,)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.8)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(one * step, 12) for one in range(first, last + 1))


def shorten(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _tick_texts(ticks: Sequence[Number]) -> list[str]:
    """All ticks with as many decimals as the finest needs; thousands with a k."""
    if ticks and max(abs(tick) for tick in ticks) >= 10_000:
        return [f"{tick / 1000:g}k" for tick in ticks]
    decimals = max((len(f"{tick:.10f}".rstrip("0").split(".")[1]) for tick in ticks), default=0)
    return [f"{tick:.{decimals}f}" for tick in ticks]


def _finite_runs(xs: np.ndarray, ys: np.ndarray) -> list[list[tuple[float, float]]]:
    finite = np.isfinite(xs) & np.isfinite(ys)
    cuts = np.flatnonzero(np.diff(finite.astype(int))) + 1
    pieces = np.split(np.arange(len(xs)), cuts)
    return [[(float(xs[i]), float(ys[i])) for i in piece] for piece in pieces if len(piece) and finite[piece[0]]]
