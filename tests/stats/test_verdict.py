"""The one rule that says whether a difference is shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.stats import Interval, Verdict, verdict

NAN = float("nan")


@pytest.mark.parametrize(
    ("ends", "p_value", "expected"),
    [
        ((0.1, 0.3), 0.01, "better"),
        ((-0.3, -0.1), 0.01, "worse"),
        ((0.1, 0.3), 0.2, "open"),  # shown alone, and not after correction
        ((0.1, 0.3), 0.05, "open"),
        ((-0.1, 0.3), 0.01, "open"),  # the p-value of another test
        ((0.1, 0.3), NAN, "better"),
        ((-0.1, 0.3), NAN, "open"),
        ((0.0, 0.3), NAN, "open"),
        ((-math.inf, math.inf), 0.01, "open"),
        ((0.0, 0.0), NAN, "open"),
    ],
)
def test_a_difference_is_shown_by_its_interval_and_its_corrected_p_value(
    ends: tuple[float, float], p_value: float, expected: Verdict
) -> None:
    middle = 0.1 if math.isinf(ends[0]) else sum(ends) / 2

    assert verdict(Interval(middle, *ends), p_value) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1) | st.just(NAN))
def test_exchanging_the_sides_exchanges_better_and_worse(estimate: float, reach: float, p_value: float) -> None:
    there = Interval(estimate, estimate - reach, estimate + reach)
    back = Interval(-estimate, -there.high, -there.low)

    other = {"better": "worse", "worse": "better", "open": "open"}
    assert verdict(back, p_value) == other[verdict(there, p_value)]


def test_an_interval_of_another_level_asks_for_another_p_value() -> None:
    assert verdict(Interval(0.2, 0.1, 0.3, 0.9), 0.07) == "better"
    assert verdict(Interval(0.2, 0.1, 0.3, 0.95), 0.07) == "open"
