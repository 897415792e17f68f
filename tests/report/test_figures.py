"""Drawings say where things are: read back from their own coordinates."""

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from parfocal.errors import StoreError
from parfocal.report import (
    ArmResult,
    Panel,
    Reference,
    bars_panel,
    compared_figure,
    curves_panel,
    forest_figure,
    reliability_figure,
    roc_figure,
    training_figure,
)
from parfocal.report.drawing import Plot, nice_ticks
from parfocal.stats import Interval, reliability_bins, roc_curve


def parsed(panel: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(panel.image)


def arm(name: str, estimate: float, **other: object) -> ArmResult:
    interval = Interval(estimate, max(estimate - 0.1, 0), min(estimate + 0.1, 1))
    return ArmResult(name, "Family & co", "mean <b>", interval, **other)  # type: ignore[arg-type]


def test_a_plot_maps_its_ranges_onto_its_box() -> None:
    plot = Plot(200, 100, x=(0, 10), y=(-1, 1), left=20, right=30, top=5, bottom=15)

    assert (plot.px(0), plot.px(10)) == (20, 170)
    assert (plot.py(-1), plot.py(1)) == (85, 5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)), (0, 1190, (0, 200, 400, 600, 800, 1000)), (-3, 3, (-3, -2, -1, 0, 1, 2, 3))],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_the_forest_puts_dots_whiskers_and_ceilings_at_their_values() -> None:
    figure = forest_figure("ER", [arm("5x", 0.55, references=(Reference(0.5, "at most"),)), arm("mixed", 0.9)])
    drawing = parsed(figure.panels[0])
    dots = [float(one.attrib["cx"]) for one in drawing.iter("circle")]
    whiskers = [
        (float(one.attrib["x1"]), float(one.attrib["x2"]))
        for one in drawing.iter("line")
        if re.fullmatch(r"l\d", one.attrib["class"])
    ]
    (diamond,) = list(drawing.iter("polygon"))
    diamond_x = np.mean([float(pair.split(",")[0]) for pair in diamond.attrib["points"].split()])
    (chance,) = [float(one.attrib["x1"]) for one in drawing.iter("line") if one.attrib["class"] == "chance"]

    per_auc = (dots[1] - dots[0]) / 0.35
    assert whiskers[0] == pytest.approx((dots[0] - 0.1 * per_auc, dots[0] + 0.1 * per_auc), abs=0.2)
    assert diamond_x == pytest.approx(chance, abs=0.2)
    assert chance == pytest.approx(dots[0] - 0.05 * per_auc, abs=0.2)
    assert "0.55" in figure.panels[0].alt


def test_texts_in_a_drawing_are_escaped_and_long_names_stay_beside_the_axis() -> None:
    name = "region encoder <i>pretrained</i> with masks of every kind and a very long description that goes on and on"
    drawing = parsed(forest_figure("ER", [arm(name, 0.7)]).panels[0])
    texts = [one.text or "" for one in drawing.iter("text")]

    assert not list(drawing.iter("i"))
    assert any("<i>pretrained</i>" in text for text in texts)
    assert max(len(text) for text in texts) <= 48
    assert any(text.endswith("…") for text in texts)


def test_each_other_reference_is_named_in_the_caption() -> None:
    figure = forest_figure("ER", [arm("late", 0.5, references=(Reference(0.94, "re-pairing adversary", False),))])

    assert "Cross: re-pairing adversary" in figure.caption
    assert "diamond" not in figure.caption


def test_roc_and_reliability_are_drawings_with_all_arms_named() -> None:
    truth = np.array([0, 1, 0, 1, 1])
    score = np.array([0.1, 0.9, 0.4, 0.3, 0.8])
    roc = roc_figure("ER", {f"arm {n}": roc_curve(truth, score) for n in range(8)})
    reliability = reliability_figure("ER", {"arm": reliability_bins(truth, score)})

    dashed = [one for one in parsed(roc.panels[0]).iter("polyline") if "stroke-dasharray" in one.attrib]
    assert len(dashed) == 4  # two arms beyond six colours: a curve and a legend key each
    assert "arm 7" in roc.panels[0].alt
    assert len(list(parsed(reliability.panels[0]).iter("circle"))) == len(reliability_bins(truth, score))


def test_a_curve_breaks_where_nothing_was_measured() -> None:
    panel = curves_panel([0, 1, 2, 3, 4], {"loss": [1, 2, float("nan"), 4, 5]}, x_label="step", y_label="loss")
    curves = [one for one in parsed(panel).iter("polyline") if len(one.attrib["points"].split()) == 2]

    assert len(curves) == 3  # two pieces and the key of the legend
    assert "ends at 5" in panel.alt


def test_compared_numbers_stand_under_each_other_at_their_values() -> None:
    known, bare = Interval(0.6, 0.5, 0.7), Interval(0.8, -math.inf, math.inf)
    figure = compared_figure({"a": {"single": known, "mixture": bare}, "b": {"single": bare, "mixture": known}})
    drawing = parsed(figure.panels[0])
    dots = [(float(one.attrib["cx"]), one.attrib["class"]) for one in drawing.iter("circle")][2:]  # after the legend's
    lines = [
        (float(one.attrib["x1"]), float(one.attrib["x2"]))
        for one in drawing.iter("line")
        if one.attrib["class"] in ("l0", "l1")
    ]

    assert [css for _, css in dots] == ["f0", "f1"] * 2
    assert dots[0][0] == dots[3][0] < dots[1][0] == dots[2][0]
    assert lines[0] == lines[1]  # what has no ends has no line
    assert sum(lines[0]) / 2 == pytest.approx(dots[0][0], abs=0.1)
    (chance,) = [float(one.attrib["x1"]) for one in drawing.iter("line") if one.attrib["class"] == "chance"]
    assert chance == lines[0][0]  # its interval begins at one half
    assert "a: single 0.60 (0.50 to 0.70), mixture 0.80; b: " in figure.panels[0].alt


def test_of_many_rows_the_largest_gains_and_losses_are_drawn() -> None:
    def gain(size: float) -> dict[str, Interval]:
        return {"single": Interval(0.5, 0.4, 0.6), "mixture": Interval(0.5 + size, 0.1, 0.9)}

    figure = compared_figure({f"t{number}": gain((number - 6) / 50) for number in range(13)})
    names = [text for one in parsed(figure.panels[0]).iter("text") if (text := one.text or "").startswith("t")]

    assert names == ["t0", "t1", "t2", "t3", "t9", "t10", "t11", "t12"]
    assert "Of 13 targets the 4 with the largest gain and the 4 with the smallest" in figure.caption
    with pytest.raises(ValueError, match="nothing to compare"):
        compared_figure({})


def test_bars_begin_at_zero_and_are_as_long_as_their_values() -> None:
    panel = bars_panel(["up", "down", "none"], [0.5, -0.25, 0.0], x_label="adds", show=lambda one: f"{one:+.2f}")
    bars = [one for one in parsed(panel).iter("line") if one.attrib["class"] == "l0"]
    begins, ends = ([float(one.attrib[name]) for one in bars] for name in ("x1", "x2"))

    assert len(set(begins)) == 1
    up, down, none = (end - begin for begin, end in zip(begins, ends, strict=True))
    assert up > 0
    assert down == pytest.approx(-up / 2, abs=0.2)  # a tenth of a pixel at either end
    assert none == 0
    assert "up: +0.50; down: -0.25" in panel.alt


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing finite to draw of adds"):
        bars_panel(["a", "b"], [1.0, float("inf")], x_label="adds", show=str)
    with pytest.raises(ValueError, match="nothing finite to draw for loss"):
        curves_panel([0, 1], {"a": [float("nan")] * 2}, x_label="step", y_label="loss")


def test_a_trainings_file_becomes_curves(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,loss,r2\n0,1.0,\n1,0.8,\n2,0.6,0.3\n3,0.5,\n")

    figure = training_figure(metrics, {"Loss": {"loss": "training"}, "R2": {"r2": "held-out"}})

    assert [panel.label for panel in figure.panels] == ["Loss", "R2"]
    assert len(list(parsed(figure.panels[1]).iter("circle"))) == 1  # one measurement is a dot, not nothing
    assert "3 steps" in figure.caption


def test_a_trainings_file_that_lacks_something_says_so(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    with pytest.raises(StoreError, match="is missing"):
        training_figure(metrics, {"Loss": {"loss": "training"}})
    metrics.write_text("step,total\n0,1\n")
    with pytest.raises(StoreError, match=r"lacks the columns \['loss'\]; it has \['step', 'total'\]"):
        training_figure(metrics, {"Loss": {"loss": "training"}})
