"""Reliability, by hand."""

import numpy as np
import pytest
from scipy import special

from parfocal.stats import brier_score, calibration_line, expected_calibration_error, reliability_bins, wilson_interval


def test_bins_error_and_brier_are_those_worked_by_hand() -> None:
    truth = np.array([0, 1, 1, 1, 0])
    predicted = np.array([0.1, 0.3, 0.7, 0.9, 0.6])

    lower, upper = reliability_bins(truth, predicted, bins=2)

    assert (lower.n, upper.n) == (2, 3)
    assert (lower.mean_prediction, lower.observed.estimate) == (pytest.approx(0.2), 0.5)
    assert upper.mean_prediction == pytest.approx(2.2 / 3)
    # (2 * |.2 - .5| + 3 * |.7333 - .6667|) / 5
    assert expected_calibration_error(truth, predicted, bins=2) == pytest.approx(0.16)
    # (.01 + .49 + .09 + .01 + .36) / 5
    assert brier_score(truth, predicted) == pytest.approx(0.192)


def test_a_probability_of_one_belongs_to_the_last_bin() -> None:
    (only,) = reliability_bins(np.array([1, 1]), np.array([1.0, 1.0]))

    assert (only.low, only.high, only.n) == (0.9, 1.0, 2)


def test_honest_probabilities_have_a_small_error_and_exaggerated_ones_a_large_one() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=20_000)
    truth = (rng.uniform(size=20_000) < predicted).astype(int)

    assert expected_calibration_error(truth, predicted) < 0.02
    # 0 or 1 in place of p: the mean distance is E min(p, 1 - p) = .25.
    assert expected_calibration_error(truth, np.round(predicted)) == pytest.approx(0.25, abs=0.02)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263 gives .2553 to .3662; 0 of 20 gives 0 to .1611."""
    common, none = wilson_interval(81, 263), wilson_interval(0, 20)

    assert (common.low, common.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert (none.low, none.high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.1611, abs=5e-5))


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, got -2 to 0\.5"):
        brier_score(np.array([0, 1]), np.array([-2.0, 0.5]))


def test_the_slope_between_two_groups_is_that_of_their_log_odds() -> None:
    """Log odds -1 for ten cases of which 4 are positive and 2 for ten of which 8 are: a line through two points."""
    logit = np.repeat([-1.0, 2.0], 10)
    truth = np.array([1] * 4 + [0] * 6 + [1] * 8 + [0] * 2)

    line = calibration_line(truth, logit)

    assert line.slope == pytest.approx((special.logit(0.8) - special.logit(0.4)) / 3, abs=1e-5)
    # The intercept makes the mean probability right.
    assert special.expit(logit + line.intercept).mean() == pytest.approx(0.6)


def test_exaggerated_log_odds_have_the_slope_that_undoes_it() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(size=40_000)
    truth = (rng.uniform(size=40_000) < special.expit(logit - 0.5)).astype(int)

    honest, tripled = calibration_line(truth, logit), calibration_line(truth, 3 * logit)

    # 40,000 cases: the standard errors are about .013.
    assert (honest.slope, honest.intercept) == (pytest.approx(1, abs=0.04), pytest.approx(-0.5, abs=0.04))
    assert tripled.slope == pytest.approx(honest.slope / 3, rel=1e-3)


def test_a_slope_without_a_finite_value_is_none() -> None:
    assert np.isnan(calibration_line(np.array([0, 0, 1, 1]), np.array([-1.0, 0.0, 0.0, 3.0])).slope)
    assert np.isnan(calibration_line(np.array([0, 1, 1]), np.zeros(3)).slope)
    assert calibration_line(np.array([0, 1, 1]), np.zeros(3)).intercept == pytest.approx(special.logit(2 / 3))
    with pytest.raises(ValueError, match="0 negative"):
        calibration_line(np.array([1, 1]), np.array([0.0, 1.0]))
