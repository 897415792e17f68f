"""The BCa interval over patients."""

import numpy as np
import pytest
from scipy import stats

from parfocal.stats import Interval, auc, patient_bootstrap, patient_draws, weighted_auc


def bootstrap_auc_difference(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    *,
    rng: np.random.Generator,
    draws: int = 2000,
) -> Interval:
    """The AUC of the first arm less that of the second, patients drawn within their class."""

    def difference(drawn: np.ndarray) -> float:
        return auc(truth[drawn], first[drawn]) - auc(truth[drawn], second[drawn])

    return patient_bootstrap(difference, patients, rng=rng, strata=truth, draws=draws)


def test_it_is_scipys_bca_where_each_patient_has_one_case() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    ours = patient_bootstrap(
        lambda drawn: float(values[drawn].mean()), np.arange(40), rng=np.random.default_rng(1), draws=4000
    )
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(2))

    # Two sets of 4,000 draws: an end moves by about 3 % of the width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_copies_of_a_slide_do_not_look_like_more_patients() -> None:
    values = np.random.default_rng(3).normal(size=30)
    patients = np.repeat(np.arange(30), 4)
    copied = np.repeat(values, 4)

    def width(of: np.ndarray) -> float:
        rng = np.random.default_rng(4)
        return patient_bootstrap(lambda drawn: float(copied[drawn].mean()), of, rng=rng, draws=800).half_width

    single = patient_bootstrap(
        lambda drawn: float(values[drawn].mean()), np.arange(30), rng=np.random.default_rng(4), draws=800
    )
    assert width(patients) == pytest.approx(single.half_width, rel=0.1)
    assert width(np.arange(120)) < 0.65 * single.half_width  # the mistake: half as wide, by the square root of 4


def test_a_better_arm_is_seen_because_the_comparison_is_paired() -> None:
    rng = np.random.default_rng(5)
    truth = np.r_[np.ones(40), np.zeros(40)]
    shared = rng.normal(size=80) * 2 + truth
    better = shared + 0.8 * truth
    patients = np.arange(80) // 2

    interval = bootstrap_auc_difference(truth, better, shared, patients, rng=rng, draws=500)

    assert 0.0 not in interval
    assert interval.low > 0


def test_no_draw_loses_a_class() -> None:
    truth = np.array([1, 0, 0, 0, 0, 0])
    score = np.array([0.5, 0.1, 0.2, 0.9, 0.3, 0.4])

    interval = bootstrap_auc_difference(truth, score, -score, np.arange(6), rng=np.random.default_rng(0), draws=200)

    assert np.isfinite([interval.low, interval.high]).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(6).normal(size=20)

    def once() -> tuple[float, float]:
        one = patient_bootstrap(
            lambda drawn: float(values[drawn].mean()), np.arange(20), rng=np.random.default_rng(7), draws=200
        )
        return one.low, one.high

    assert once() == once()


def test_one_patient_has_no_spread() -> None:
    with pytest.raises(ValueError, match="needs two of them, got 1"):
        patient_bootstrap(lambda drawn: 0.0, np.zeros(5), rng=np.random.default_rng(0))


def test_draws_as_weights_give_the_interval_of_drawn_cases() -> None:
    rng = np.random.default_rng(8)
    truth = np.repeat([1, 0], [24, 36])
    first, second = rng.normal(size=60) + truth, rng.normal(size=60) + 0.3 * truth
    patients = np.arange(60) // 2
    draws = patient_draws(patients, rng=np.random.default_rng(1), strata=truth, draws=4000)

    weighted = draws.interval(lambda w: weighted_auc(truth, first, w) - weighted_auc(truth, second, w))
    drawn = bootstrap_auc_difference(truth, first, second, patients, rng=np.random.default_rng(2), draws=4000)

    # Two sets of 4,000 draws, as above.
    width = drawn.high - drawn.low
    assert weighted.estimate == pytest.approx(drawn.estimate)
    assert weighted.low == pytest.approx(drawn.low, abs=0.06 * width)
    assert weighted.high == pytest.approx(drawn.high, abs=0.06 * width)
    # Whole patients: both slides of one are there equally often; no draw changes how many of a class there are.
    assert (draws.weight[:, ::2] == draws.weight[:, 1::2]).all()
    assert (draws.weight[:, :24].sum(axis=1) == 24).all()
    assert len(draws.spared) == 30


def test_sums_in_another_order_are_ties_and_move_no_end() -> None:
    # Few patients are often drawn as they are; whether such a draw equals the estimate must not hang on rounding.
    values = np.random.default_rng(7).normal(size=6)

    def ends(scale: float) -> Interval:
        rng = np.random.default_rng(8)
        statistic = lambda drawn: float((values[drawn] * scale).sum() / scale / len(drawn))  # noqa: E731
        return patient_bootstrap(statistic, np.arange(6), rng=rng, draws=200)

    reference, others = ends(1.0), [ends(scale) for scale in (3.0, 0.1, 7.7, 1e3)]
    assert all((one.low, one.high) == pytest.approx((reference.low, reference.high), abs=1e-12) for one in others)
