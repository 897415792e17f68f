"""The interval and the test of repeated cross-validation: patients, fits, and the places where nothing varies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from parfocal.stats import (
    CrossValidated,
    PairTally,
    RankedPairs,
    TestedFold,
    auc,
    auc_interval,
    concordance,
    concordance_interval,
    cross_validated,
    delong_covariance,
    detectable_difference,
    newcombe_interval,
    ordered_pairs,
    paired_test,
    rule_of_three,
    standard_error,
    tally_classes,
    tally_order,
    tally_times,
    time_pairs,
    weighted_auc,
)


def of(value: list[float], pull: list[float], *, repeats: int = 4, ratio: float = 1.0) -> CrossValidated:
    repeat = np.repeat(np.arange(repeats), len(value) // repeats)
    return CrossValidated(np.array(value), repeat, np.array(pull), ratio)


BY_HAND = of([0.5, 0.7, 0.7, 0.9, 0.5, 0.7, 0.7, 0.9], [0.1, -0.1, 0.1, -0.1])


def test_the_standard_error_is_the_one_worked_by_hand() -> None:
    """Two folds, four repeats of means .6, .8, .6, .8, whose variance is .04/3: (2/2 + 1/4) * .04/3 = .0166667.

    Four pulls of .1, two patients of the smaller class: .04 * 2/1 = .08, with 3 degrees of freedom as all are alike.
    Satterthwaite: .0966667^2 / (.08^2 / 3 + .0166667^2 / 3) = .00934444 / .00222593 = 4.198.
    """
    se, degrees = standard_error(BY_HAND, 2)

    assert se == pytest.approx(np.sqrt(0.0966667), rel=1e-6)
    assert degrees == pytest.approx(4.198, rel=1e-4)


def test_p_value_and_interval_of_a_difference_are_those_of_its_t() -> None:
    zero = of([0.0] * 8, [0.0] * 4)
    result = paired_test(BY_HAND, zero, n_patients=2)

    assert result.t == pytest.approx(0.7 / np.sqrt(0.0966667), rel=1e-6)
    assert result.p_value == pytest.approx(2 * (1 - stats.t.cdf(result.t, 4.198)), rel=1e-3)
    # The ends stay inside what a difference can be.
    assert (result.difference.low, result.difference.high) == pytest.approx((0.7 - 2.7256 * 0.310913, 1.0), abs=2e-3)
    assert (result.p_value < 0.05) == (0.0 not in result.difference)
    assert paired_test(zero, BY_HAND, n_patients=2).t == -result.t


def test_the_interval_of_an_auc_is_taken_on_the_logit_scale() -> None:
    values = of([0.6, 0.8, 0.7, 0.7, 0.65, 0.75, 0.68, 0.72], [0.02, -0.02, 0.03, -0.03] * 10)
    se, degrees = standard_error(values, 20)
    interval = auc_interval(values, n_positive=20, n_negative=20)
    step = stats.t.ppf(0.975, degrees) * se / (0.7 * 0.3)

    assert [np.log(end / (1 - end)) for end in (interval.low, interval.high)] == pytest.approx(
        [np.log(7 / 3) - step, np.log(7 / 3) + step]
    )
    assert interval.method == "patients and fits, logit scale"


def test_few_repeats_take_the_variance_over_patients_two_and_a_half_times() -> None:
    two, three, four = (of([0.6, 0.8] * repeats, [0.1, -0.1, 0.1, -0.1], repeats=repeats) for repeats in (2, 3, 4))

    for few in (two, three):
        assert standard_error(few, 2) == pytest.approx((np.sqrt(2.5 * 0.08), 3.0))
        assert "2.5 times" in auc_interval(few, n_positive=2, n_negative=2).method
    # Four repeats that agree show that fits add nothing.
    assert standard_error(four, 2)[0] == pytest.approx(np.sqrt(0.08))


def test_a_patient_with_most_of_the_variance_leaves_few_degrees_of_freedom() -> None:
    even = of([0.5, 0.5] * 4, [0.1, -0.1] * 20)
    uneven = of([0.5, 0.5] * 4, [1.0, *[0.01] * 39])

    assert standard_error(even, 20)[1] == 39
    assert standard_error(uneven, 20)[1] < 3


def test_patients_of_one_site_that_rise_together_widen_it_where_sites_are_kept_apart() -> None:
    """By hand: four pulls of .1 have .04 * 2; two sites have .2^2 + .2^2 = .08 * 2."""
    alone = CrossValidated(np.full(8, 0.5), np.repeat([0, 1, 2, 3], 2), np.array([0.1, 0.1, -0.1, -0.1]), 1.0)
    together = CrossValidated(alone.value, alone.repeat, alone.pull, 1.0, np.array([0, 0, 1, 1]))
    apart = CrossValidated(alone.value, alone.repeat, alone.pull, 1.0, np.array([0, 1, 0, 1]))

    assert standard_error(alone, 2)[0] == pytest.approx(np.sqrt(0.08))
    assert standard_error(together, 2) == pytest.approx((np.sqrt(0.16), 1.0))
    assert standard_error(apart, 2)[0] == pytest.approx(np.sqrt(0.08))


def test_one_test_set_has_delongs_variance() -> None:
    """Folds that are all the same 16 against 16 patients: what patients vary is DeLong's, which is another code."""
    rng = np.random.default_rng(3)
    truth = np.arange(32) < 16
    score = np.round(rng.normal(size=32) + truth, 1)  # with ties
    fold = TestedFold(0, np.arange(32), (tally_classes(truth, score),))
    found = cross_validated([replace(fold, repeat=one) for one in range(4)], 0.25)
    values, covariance = delong_covariance(truth, score[None])

    assert found.mean == pytest.approx(values[0])
    assert standard_error(found, 16)[0] ** 2 == pytest.approx(covariance[0, 0])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
@settings(max_examples=60)
def test_tallies_have_the_share_of_the_metric_and_its_derivative(cases: list[tuple[int, int, bool]]) -> None:
    value, score, event = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    truth = value > 1
    checks: list[tuple[PairTally, float, object]] = []
    if truth.any() and not truth.all():
        checks.append((tally_classes(truth, score), auc(truth, score), lambda w: weighted_auc(truth, score, w)))
    if len(set(value)) > 1:
        ranked = RankedPairs.of(ordered_pairs(value), score)
        checks.append((tally_order(value, score), concordance(value, score), ranked.share))
    if time_pairs(value, event).any():
        timed = RankedPairs.of(time_pairs(value, event), score)
        checks.append((tally_times(value, event, score), tally_times(value, event, score).share, timed.share))
    for tally, expected, weighted in checks:
        assert tally.share == pytest.approx(expected)
        assert tally.excess(tally.share).sum() == pytest.approx(0, abs=1e-12)
        # Central differences of the same metric with the case counted a little more and a little less, in float32.
        step = 1 / 8
        more, less = (1 + side * step * np.eye(len(value), dtype=np.float32) for side in (1, -1))
        slope = (weighted(more) - weighted(less)) / (2 * step)  # type: ignore[operator]
        assert tally.excess(tally.share) == pytest.approx(slope, abs=0.03)


def test_a_fold_of_two_cases_pulls_by_what_all_folds_would_expect() -> None:
    """Three folds, one pair each: right, right, wrong. The mean is 2/3, and the wrong pair pulls down by 2/9 twice."""
    two = np.array([True, False])
    folds = [
        TestedFold(number, np.array([2 * number, 2 * number + 1]), (tally_classes(two, np.array(score)),))
        for number, score in enumerate(([1.0, 0.0], [2.0, 1.0], [0.0, 1.0]))
    ]
    found = cross_validated(folds, 0.5)

    assert found.mean == pytest.approx(2 / 3)
    assert found.pull == pytest.approx([1 / 9] * 4 + [-2 / 9] * 2)


def test_a_patient_of_several_cases_and_repeats_pulls_once() -> None:
    tally = tally_classes(np.array([True, True, False]), np.array([3.0, 1.0, 2.0]))
    folds = [TestedFold(repeat, np.array([7, 7, 9]), (tally,)) for repeat in range(3)]
    found = cross_validated(folds, 0.5)

    assert len(found.pull) == 2
    assert found.pull == pytest.approx([0.0, 0.0])  # one won, one lost: the patient's own do not add up
    assert found.minus(found).pull == pytest.approx([0.0, 0.0])


def test_folds_that_are_all_perfect_do_not_make_a_point() -> None:
    perfect = of([1.0] * 8, [0.0] * 48)
    interval = auc_interval(perfect, n_positive=24, n_negative=24)

    assert (interval.estimate, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(newcombe_interval(1.0, 24, 24).low)
    assert "widened" in interval.method
    lows = [auc_interval(perfect, n_positive=n, n_negative=n).low for n in (4, 24, 240)]
    assert lows[0] < lows[1] < lows[2] < 1
    ranked = concordance_interval(perfect, n_patients=24)
    assert (ranked.low, ranked.high, ranked.method) == (pytest.approx(1 - rule_of_three(24)), 1.0, "rule of three")
    # (1 - share)^24 = .025 by definition.
    assert (1 - rule_of_three(24)) ** 24 == pytest.approx(0.025)


@pytest.mark.parametrize("n_repeats", [1, 5])
def test_one_patient_who_is_ranked_wrongly_leaves_an_interval_that_says_something(n_repeats: int) -> None:
    """Twelve positive and twelve negative patients in four folds; one positive patient is ranked last in its fold."""
    lows = []
    for n_wrong in (0, 1, 2, 12):
        folds = []
        for repeat in range(n_repeats):
            order = np.random.default_rng(repeat).permutation(12)
            for own in np.split(order, 4):
                positive = np.where(own < n_wrong, -1.0, 1.0)
                is_positive = np.repeat([True, False], 3)
                tally = tally_classes(is_positive, np.concatenate([positive, np.zeros(3)]))
                folds.append(TestedFold(repeat, np.concatenate([own, own + 12]), (tally,)))
        interval = auc_interval(cross_validated(folds, 1 / 3), n_positive=12, n_negative=12)
        assert interval.estimate == pytest.approx(1 - n_wrong / 12)
        lows.append(interval.low)

    assert lows == sorted(lows, reverse=True)
    # On the logit scale alone it would be .05 with one repeat and .23 with five. 4.8 is 12 / 2.5.
    assert lows[1] == pytest.approx(newcombe_interval(11 / 12, 4.8, 4.8).low)
    assert lows[2] > 0.35


def test_two_arms_that_agree_everywhere_have_no_difference_and_some_room() -> None:
    same = of([0.7, 0.9] * 4, [0.1, -0.1])
    result = paired_test(same, same, n_patients=24)

    assert (result.t, result.p_value) == (0.0, 1.0)
    assert result.difference.high == -result.difference.low == pytest.approx(rule_of_three(24))
    assert np.isnan(detectable_difference(same.minus(same), n_patients=24))


def test_a_constant_gain_has_no_p_value() -> None:
    result = paired_test(of([1.0] * 8, [0.0] * 4), of([0.5] * 8, [0.0] * 4), n_patients=24)

    assert np.isnan(result.p_value)
    assert 0.0 not in result.difference


def test_the_detectable_difference_has_its_power_by_direct_integration() -> None:
    """Power = E over chi2 of the chance that a normal passes critical * chi, integrated numerically."""
    values = of([0.01, 0.03, -0.02, 0.05, 0.02, 0.04, 0.03, 0.0], [0.01, -0.01] * 10)
    se, degrees = standard_error(values, 10)
    shift = detectable_difference(values, n_patients=10) / se
    critical = stats.t.ppf(0.975, degrees)

    def rejected(chi2: float) -> float:
        edge = critical * np.sqrt(chi2 / degrees)
        return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)) * stats.chi2.pdf(chi2, degrees))

    assert integrate.quad(rejected, 0, 200)[0] == pytest.approx(0.8, abs=1e-3)


def test_what_has_no_interval_is_refused() -> None:
    fold = TestedFold(0, np.arange(2), (tally_classes(np.array([True, False]), np.array([1.0, 0.0])),))
    one_class = TestedFold(1, np.arange(2), (tally_classes(np.array([True, True]), np.array([1.0, 0.0])),))

    with pytest.raises(ValueError, match="at least two, got 1"):
        cross_validated([fold], 0.25)
    with pytest.raises(ValueError, match="without a pair has no value"):
        cross_validated([fold, one_class], 0.25)
    with pytest.raises(ValueError, match="size of a test fold over its training set"):
        cross_validated([fold, fold], 0.0)
    with pytest.raises(ValueError, match="same folds and patients in both arms, got 8 and 4"):
        paired_test(BY_HAND, of([0.1, 0.2, 0.3, 0.4], [0.0] * 4), n_patients=2)


def test_it_covers_over_cohorts_that_say_nothing_where_fixed_scores_and_nadeau_bengio_do_not() -> None:
    """40 cases of 4 numbers without a label's trace: any fit has an AUC of exactly one half on all patients."""
    rng = np.random.default_rng(1)
    truth = np.arange(40) < 20
    held = {"now": 0, "fixed": 0, "nadeau": 0}
    differ = 0
    n = 160
    for _ in range(n):
        features = rng.normal(size=(2, 40, 4))
        folds: list[list[TestedFold]] = [[], []]
        for repeat in range(5):
            order = np.stack([rng.permutation(20), 20 + rng.permutation(20)])
            for number in range(5):
                test = order[:, number::5].ravel()
                train = np.ones(40, dtype=bool)
                train[test] = False
                for arm, x in enumerate(features):
                    weights = x[train & truth].mean(axis=0) - x[train & ~truth].mean(axis=0)
                    tally = tally_classes(truth[test], x[test] @ weights)
                    folds[arm].append(TestedFold(repeat, test, (tally,)))
        first, second = (cross_validated(one, 0.25) for one in folds)
        held["now"] += 0.5 in auc_interval(first, n_positive=20, n_negative=20)
        held["fixed"] += abs(first.mean - 0.5) < 1.96 * np.sqrt((first.pull**2).sum() * 20 / 19)
        reach = stats.t.ppf(0.975, 24) * np.sqrt((1 / 25 + 0.25) * first.value.var(ddof=1))
        held["nadeau"] += abs(first.mean - 0.5) < reach
        differ += paired_test(first, second, n_patients=20).p_value <= 0.05

    # 95 % less three standard errors of 160 cohorts, and 5 % with as many more.
    assert held["now"] / n > 0.90
    assert held["fixed"] / n < 0.88
    assert held["nadeau"] < held["now"]
    assert differ / n < 0.10
