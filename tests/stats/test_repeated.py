"""Nadeau and Bengio's corrected t interval over folds, with which a benchmark compares ours."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "intervals.py"))
nadeau_bengio_interval, nadeau_bengio_se = BENCHMARK["nadeau_bengio_interval"], BENCHMARK["nadeau_bengio_se"]


def test_the_interval_is_the_one_worked_by_hand() -> None:
    """Values .5, .6, .7: mean .6, variance .01; (1/3 + 1/4) * .01 = .0058333; t(.975, 2) = 4.302653."""
    interval = nadeau_bengio_interval(np.array([0.5, 0.6, 0.7]), 0.25)

    assert nadeau_bengio_se(np.array([0.5, 0.6, 0.7]), 0.25) == pytest.approx(0.0763763, abs=1e-7)
    assert interval.estimate == pytest.approx(0.6)
    assert interval.half_width == pytest.approx(4.302653 * 0.0763763, abs=1e-6)


def test_it_is_wider_than_the_plain_t_interval_which_the_twin_shows() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 25)
    plain = stats.t.ppf(0.975, 24) * values.std(ddof=1) / 5

    # The correction is sqrt((1/25 + 1/4) * 25) = sqrt(7.25).
    assert nadeau_bengio_interval(values, 0.25).half_width == pytest.approx(plain * np.sqrt(7.25))
