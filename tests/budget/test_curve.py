"""What is said of a curve: least budgets, areas, and sentences, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.budget import curve as curves
from parfocal.budget.curve import Costs, areas, least_budget, least_of
from parfocal.budget.page import sentences, show_flops
from parfocal.budget.result import Against, Curve, Point, Seconds, WholeReader
from parfocal.evaluate.arm import Arm
from parfocal.stats import CrossValidated, Interval

CONTRAST = Arm("", "contrast", "mixed", "5x + 20x", "Pairing", "cross-scale contrast")
FINE = Arm("0.5", "mean", "single", "20x", "One magnification", "mean", bags=((0, "0.5"),))


def interval(estimate: float, reach: float = 0.03) -> Interval:
    return Interval(estimate, estimate - reach, estimate + reach)


def against(difference: float, reach: float) -> Against:
    return Against(interval(difference, reach * 1.2), difference - reach)


def points(reach: float) -> tuple[Point, ...]:
    return (
        Point(0.0, 0.0, 5.0, interval(0.6), against(-0.3, reach), against(-0.3, reach)),
        Point(0.25, 0.25, 9.0, interval(0.9), against(0.0, reach), against(0.0, reach)),
        Point(1.0, 1.0, 21.0, interval(0.9), None, None),
    )


def curve(reach: float, *, least: float | None, policy: str = "stride") -> Curve:
    return Curve(CONTRAST, policy, points(reach), least, least or 1.0, 0.86, 0.88, reach, 2 * reach)


READERS = (WholeReader(CONTRAST, interval(0.9), 21.0, None), WholeReader(FINE, interval(0.7), 16.0, against(-0.2, 0.1)))


def test_the_least_budget_is_the_last_before_one_fails_from_above() -> None:
    budgets = (0.0, 0.1, 0.2, 0.5, 1.0)

    assert least_budget(budgets, (-0.3, -0.004, -0.009, 0.001, None), 0.01) == 0.1
    # What is shown below one that is not shown does not count: it was tested after a failure.
    assert least_budget(budgets, (-0.3, -0.004, -0.02, 0.001, None), 0.01) == 0.5
    assert least_budget(budgets, (-0.3, -0.004, -0.009, 0.001, -0.011), 0.01) is None
    assert least_budget(budgets, (-0.3, -0.2, -0.2, -0.01, None), 0.01) == 1.0


def test_no_bound_is_nearer_than_so_many_patients_allow() -> None:
    """Two readings that rank all alike, or nearly, show no more than the rule of three lets them."""
    rng = np.random.default_rng(0)

    whole = np.full(5, 0.9)
    bounds = {}
    for name, spread in (("alike", 0.0), ("nearly", 1e-4), ("apart", 0.3)):
        value, pull = whole + spread * rng.standard_normal(5), spread * rng.standard_normal(200)
        first, second = (
            CrossValidated(one, np.zeros(5, dtype=np.int64), own, 0.25)
            for one, own in ((value, pull), (whole, np.zeros(200)))
        )
        one = curves.against(first, second, 100)
        bounds[name] = float(one.difference.estimate) - one.bound
    assert bounds["alike"] == pytest.approx(1 - 0.05 ** (1 / 100))
    assert bounds["nearly"] == pytest.approx(bounds["alike"])
    assert bounds["apart"] > bounds["alike"]


def test_areas_are_those_of_the_trapezoids() -> None:
    assert areas((0.0, 1.0), (0.5, 0.9)) == pytest.approx((0.7, 0.5))
    # One quarter at 0.9 by half a slope, and three quarters at 0.9: 0.25 * 0.7 + 0.75 * 0.9 = 0.85, and .35 of .4.
    assert areas((0.0, 0.25, 1.0), (0.5, 0.9, 0.9)) == pytest.approx((0.85, 0.875))
    assert areas((0.0, 1.0), (0.7, 0.705))[1] is None


def test_small_slides_read_at_least_one_tile_and_costs_say_so() -> None:
    costs = Costs(coarse=np.array([5.0, 50.0]), fine=np.array([4.0, 400.0]))

    assert costs.of(0.1) == (41 / 404, (5 + 1 + 50 + 40) / 2)
    assert costs.of(0.0) == (0.0, 27.5)
    assert costs.of(1.0) == (1.0, (9 + 450) / 2)
    assert costs.flops_of(0.1) is None


def test_operations_are_those_of_coarse_tiles_and_of_the_fine_ones_that_are_read() -> None:
    costs = Costs(np.array([5.0, 50.0]), np.array([4.0, 400.0]), coarse_flops=2.0e9, fine_flops=1.0e8)

    assert costs.flops_of(0.0) == 2.0e9
    assert costs.flops_of(0.1) == pytest.approx(2.0e9 + (1 + 40) / 2 * 1.0e8)


def test_people_read_operations_with_a_prefix() -> None:
    shown = [show_flops(value) for value in (0.0, 999.0, 16.94e9, 999.96e9, 1.0e15)]

    assert shown == ["0 FLOP", "999 FLOP", "16.9 GFLOP", "1 TFLOP", "1 PFLOP"]


def test_the_first_sentence_names_the_least_budget_and_what_it_costs() -> None:
    first, *rest = sentences("msi", READERS, [curve(0.005, least=0.25)], 0.01)

    assert first.startswith("25 % of the fine tiles are enough for msi: with the policy stride")
    assert "\u22120.005" in first
    assert "9.0 tiles are encoded per slide in place of 21.0" in first
    assert "picked after looking" not in first  # there is one curve
    assert any("of 0.005 at 25 %, and of 0.010 at every budget (stride, read by contrast)" in text for text in rest)
    assert any("a margin of 0.01 can be shown at some budgets" in text for text in rest)
    assert any("20x" not in text and "gives 0.700 (mean) for 16.0 encodings" in text for text in rest)


def test_the_first_sentence_has_the_operations_too_and_seconds_have_one_of_their_own() -> None:
    costly = [
        replace(
            curve(0.005, least=0.25), points=tuple(replace(one, flops=one.encodings * 1e9) for one in points(0.005))
        ),
    ]
    readers = tuple(replace(one, flops=one.encodings * 1e9) for one in READERS)
    seconds = Seconds(("a", "b"), 3, "stride", 45.7, 30.0, {0.0: 4.0, 0.25: 12.5})

    first, *rest = sentences("msi", readers, costly, 0.01, seconds)

    assert "in place of 21.0, which takes the encoder 9 GFLOP in place of 21 GFLOP." in first
    assert any("16.0 encodings per slide, 16 GFLOP." in text for text in rest)
    assert any("45.7 seconds per slide for everything, 30.0 for the finest" in text for text in rest)
    assert any("by stride 4.0 to a budget of 0 %, 12.5 to a budget of 25 % (a, b;" in text for text in rest)


def test_the_oracle_is_never_the_answer() -> None:
    told = [curve(0.04, least=None), curve(0.001, least=0.25, policy="oracle")]

    first, *rest = sentences("msi", READERS, told, 0.01)

    assert least_of(told) is None
    assert first.startswith("No budget below everything is shown")
    assert "oracle" not in "".join((first, *rest[:-1]))
    assert "which it cannot, AUC would be 0.900 at 25 % (oracle)" in rest[-1]
    assert told[1].label == "oracle (not attainable)"


def test_where_no_budget_is_shown_the_first_sentence_says_so_and_which_margin_could_have_been() -> None:
    first, *rest = sentences("msi", READERS, [curve(0.04, least=None), curve(0.06, least=None, policy="random")], 0.01)

    assert first.startswith("No budget below everything is shown to lose no more than 0.01 AUC for msi")
    assert "The nearest is 25 % by stride" in first
    assert "\u22120.040" in first
    assert any("no budget is non-inferior with a margin of 0.01" in text for text in rest)
    assert any(
        "a margin of 0.040 at 25 %" in text and "a margin of 0.01 is more than it can show" in text for text in rest
    )


def test_where_nothing_tells_the_label_nothing_is_said_of_budgets() -> None:
    blind = (WholeReader(CONTRAST, interval(0.52), 21.0, None),)

    (only,) = sentences("msi", blind, [curve(0.005, least=0.25)], 0.01)

    assert "cannot say how few tiles are enough" in only
