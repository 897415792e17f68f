"""The corrected t interval and test of repeated cross-validation."""

import numpy as np
import pytest
from scipy import integrate, stats

from parfocal.report.statistics import (
    auc,
    auc_interval,
    concordance_interval,
    detectable_difference,
    nadeau_bengio_interval,
    nadeau_bengio_se,
    nadeau_bengio_test,
    newcombe_interval,
    rule_of_three,
)


def test_the_interval_is_the_one_worked_by_hand() -> None:
    """Values .5, .6, .7: mean .6, variance .01; (1/3 + 1/4) * .01 = .0058333; t(.975, 2) = 4.302653."""
    interval = nadeau_bengio_interval([0.5, 0.6, 0.7], 0.25)

    assert nadeau_bengio_se([0.5, 0.6, 0.7], 0.25) == pytest.approx(0.0763763, abs=1e-7)
    assert interval.estimate == pytest.approx(0.6)
    assert interval.half_width == pytest.approx(4.302653 * 0.0763763, abs=1e-6)


def test_the_test_is_the_one_worked_by_hand() -> None:
    """Differences .02, .06, .01, .03: mean .03, variance .0014/3; (1/4 + 1/3) * that has the root .0164992."""
    result = nadeau_bengio_test([0.82, 0.86, 0.91, 0.73], [0.80, 0.80, 0.90, 0.70], 1 / 3)

    assert result.difference.estimate == pytest.approx(0.03)
    assert result.t == pytest.approx(0.03 / 0.0164992, rel=1e-5)
    assert result.degrees_of_freedom == 3
    # Two-sided tail of t with 3 degrees of freedom in closed form.
    x = result.t / np.sqrt(3)
    assert result.p_value == pytest.approx(1 - 2 / np.pi * (x / (1 + x**2) + np.arctan(x)))


def test_it_is_wider_than_the_plain_t_interval_which_the_twin_shows() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 25)
    plain = stats.t.ppf(0.975, 24) * values.std(ddof=1) / 5

    # The correction is sqrt((1/25 + 1/4) * 25) = sqrt(7.25).
    assert nadeau_bengio_interval(values, 0.25).half_width == pytest.approx(plain * np.sqrt(7.25))


def test_p_and_interval_agree() -> None:
    values = np.array([0.03, 0.05, 0.01, 0.04, 0.02])
    result = nadeau_bengio_test(values, np.zeros(5), 0.25)

    assert (result.p_value < 0.05) == (0.0 not in result.difference)


def test_folds_that_are_all_perfect_do_not_make_a_point() -> None:
    interval = auc_interval([1.0] * 25, 0.25, n_positive=24, n_negative=24)

    assert nadeau_bengio_interval([1.0] * 25, 0.25).half_width == 0
    assert (interval.estimate, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(newcombe_interval(1.0, 24, 24).low)
    assert 0.90 < interval.low < 0.93
    assert "widened" in interval.method


def test_more_patients_narrow_the_interval_of_perfect_folds() -> None:
    lows = [auc_interval([1.0] * 5, 0.25, n_positive=n, n_negative=n).low for n in (4, 24, 240)]

    assert lows[0] < lows[1] < lows[2] < 1


def test_an_auc_interval_stays_inside_zero_and_one() -> None:
    interval = auc_interval([1.0, 0.9, 0.5, 1.0, 0.95], 0.25, n_positive=200, n_negative=200)

    assert interval.high == 1.0
    assert interval.method == "Nadeau-Bengio"
    assert interval.low == pytest.approx(nadeau_bengio_interval([1.0, 0.9, 0.5, 1.0, 0.95], 0.25).low)


def test_two_arms_that_agree_everywhere_have_no_difference_and_some_room() -> None:
    result = nadeau_bengio_test([1.0] * 10, [1.0] * 10, 0.25, n_patients=24)

    assert (result.t, result.p_value) == (0.0, 1.0)
    assert result.difference.high == -result.difference.low == pytest.approx(rule_of_three(24))
    # (1 - share)^24 = .025 by definition.
    assert (1 - rule_of_three(24)) ** 24 == pytest.approx(0.025)


def test_a_constant_gain_has_no_p_value() -> None:
    result = nadeau_bengio_test([1.0] * 5, [0.5] * 5, 0.25, n_patients=24)

    assert np.isnan(result.p_value)
    assert 0.0 not in result.difference


def test_the_detectable_difference_has_its_power_by_direct_integration() -> None:
    """Power = E over chi2 of the chance that a normal passes critical * chi, integrated numerically."""
    values = np.array([0.01, 0.03, -0.02, 0.05, 0.02, 0.04])
    effect = detectable_difference(values, 0.25)
    shift = effect / nadeau_bengio_se(values, 0.25)
    degrees = 5
    critical = stats.t.ppf(0.975, degrees)

    def rejected(chi2: float) -> float:
        edge = critical * np.sqrt(chi2 / degrees)
        return (stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)) * stats.chi2.pdf(chi2, degrees)

    assert integrate.quad(rejected, 0, 60)[0] == pytest.approx(0.8, abs=1e-4)


def test_with_many_folds_it_nears_the_textbooks_2_8_standard_errors() -> None:
    values = np.random.default_rng(1).normal(size=4000)

    assert detectable_difference(values, 0.25) / nadeau_bengio_se(values, 0.25) == pytest.approx(2.8016, abs=0.01)


def test_folds_that_do_not_differ_say_nothing_about_power() -> None:
    assert np.isnan(detectable_difference([0.1, 0.1, 0.1], 0.25))


@pytest.mark.parametrize(
    ("values", "ratio", "message"),
    [
        ([0.5], 0.25, "at least 2 values"),
        ([0.5, float("nan")], 0.25, "1 of 2 values are not finite"),
        ([0.5, 0.6], 0.0, "size of a test fold over its training set"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nadeau_bengio_interval(values, ratio)


def test_arms_of_different_folds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="same folds in both arms, got 3 and 2"):
        nadeau_bengio_test([0.1, 0.2, 0.3], [0.1, 0.2], 0.25)


def test_the_interval_covers_over_simulated_cohorts_and_the_uncorrected_one_does_not() -> None:
    """48 cases, 2 features, one with a shift of one sd: the mean over all cohorts is taken as the truth."""
    rng = np.random.default_rng(1)
    truth = np.r_[np.ones(24), np.zeros(24)]
    cohorts = []
    for _ in range(120):
        features = rng.normal(size=(48, 2))
        features[:, 0] += truth
        values = []
        for _ in range(5):
            order = np.stack([rng.permutation(24), 24 + rng.permutation(24)])
            for fold in range(4):
                test = order[:, fold::4].ravel()
                train = np.setdiff1d(np.arange(48), test)
                known, labels = features[train], truth[train]
                weights = known[labels == 1].mean(axis=0) - known[labels == 0].mean(axis=0)
                values.append(auc(truth[test], features[test] @ weights))
        cohorts.append(values)
    expected = np.mean(cohorts)

    corrected = [expected in auc_interval(one, 1 / 3, n_positive=24, n_negative=24) for one in cohorts]
    plain = [expected in nadeau_bengio_interval(one, 1e-9) for one in cohorts]

    # 95 % less three standard errors of 120 cohorts; without the correction the interval is too short by 2.8.
    assert np.mean(corrected) > 0.89
    assert np.mean(plain) < 0.75


def test_two_folds_have_a_detectable_difference_too() -> None:
    # One degree of freedom: by scipy's own noncentral t, where it still gives a number, the power there is 80 %.
    values = [0.1, 0.2]
    found = detectable_difference(values, 1.0, level=0.8) / nadeau_bengio_se(values, 1.0)
    critical = stats.t.ppf(0.9, 1)
    power = stats.nct.sf(critical, 1, found) + stats.nct.cdf(-critical, 1, found)

    assert power == pytest.approx(0.8, abs=2e-3)
    assert detectable_difference(values, 1.0) > 10 * nadeau_bengio_se(values, 1.0)


def test_a_concordance_has_the_corrected_interval_and_room_where_folds_agree() -> None:
    values = [0.5, 0.9, 0.7, 0.8]

    varied, perfect = (
        concordance_interval(values, 0.25, n_patients=24),
        concordance_interval([1.0] * 5, 0.25, n_patients=24),
    )

    expected = nadeau_bengio_interval(values, 0.25)
    assert (varied.low, varied.high) == (pytest.approx(expected.low), min(1.0, expected.high))
    assert (perfect.low, perfect.high) == (pytest.approx(1 - rule_of_three(24)), 1.0)
    assert perfect.method == "rule of three"
