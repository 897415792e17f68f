"""Areas under the curve, against published values and the definition counted pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.stats import (
    auc,
    delong_covariance,
    delong_interval,
    delong_test,
    mean_roc,
    newcombe_interval,
    roc_curve,
)

# Hanley and McNeil 1982, table I: 109 CT images rated 1 (definitely normal) to 5 (definitely abnormal).
_NORMAL = np.repeat([1, 2, 3, 4, 5], [33, 6, 6, 11, 2])
_ABNORMAL = np.repeat([1, 2, 3, 4, 5], [3, 2, 2, 11, 33])
CT_TRUTH = np.r_[np.zeros(len(_NORMAL)), np.ones(len(_ABNORMAL))]
CT_RATING = np.r_[_NORMAL, _ABNORMAL]


def pair_matrix(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """1, a half or 0 for each (positive, negative) pair: the definition, all pairs at once."""
    positive, negative = score[truth == 1], score[truth == 0]
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def brute_delong(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's covariance by its structural components, n squared."""
    pairs = np.stack([pair_matrix(truth, one) for one in scores])
    of_positives, of_negatives = pairs.mean(axis=2), pairs.mean(axis=1)
    n_pos, n_neg = pairs.shape[1:]
    return np.atleast_2d(np.cov(of_positives)) / n_pos + np.atleast_2d(np.cov(of_negatives)) / n_neg


def cohort(seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.r_[np.ones(17), np.zeros(26)]
    scores = rng.normal(size=(3, 43)) + np.array([[1.5], [0.7], [0.0]]) * truth + rng.normal(size=43)
    return truth, scores if levels is None else np.round(scores * levels)


def test_the_published_area_of_hanley_and_mcneil_comes_out() -> None:
    assert auc(CT_TRUTH, CT_RATING) == pytest.approx(0.893, abs=5e-4)


def test_delong_agrees_with_statas_manual_on_the_same_images() -> None:
    """[R] roctab on these data: ROC area .8932, standard error .0307, interval .83295 to .95339 (plain scale)."""
    values, covariance = delong_covariance(CT_TRUTH, CT_RATING[None])
    se = np.sqrt(covariance[0, 0])

    assert values[0] == pytest.approx(0.8932, abs=5e-5)
    assert se == pytest.approx(0.0307, abs=5e-5)
    assert values[0] - 1.959964 * se == pytest.approx(0.83295, abs=1e-5)
    assert values[0] + 1.959964 * se == pytest.approx(0.95339, abs=1e-5)


@given(st.integers(0, 10_000), st.sampled_from([None, 1, 2]))
@settings(max_examples=40)
def test_midranks_give_what_counting_all_pairs_gives(seed: int, levels: int | None) -> None:
    truth, scores = cohort(seed, levels)

    values, covariance = delong_covariance(truth, scores)

    assert values == pytest.approx([pair_matrix(truth, one).mean() for one in scores], abs=1e-12)
    assert [auc(truth, one) for one in scores] == pytest.approx(values.tolist(), abs=1e-12)
    assert covariance == pytest.approx(brute_delong(truth, scores), abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_only_the_order_of_the_scores_matters_and_turning_it_mirrors_the_area(seed: int) -> None:
    truth, scores = cohort(seed, 2)

    assert auc(truth, np.exp(scores[0])) == auc(truth, scores[0])
    assert auc(truth, -scores[0]) == pytest.approx(1 - auc(truth, scores[0]), abs=1e-12)


def test_delongs_test_is_paired_and_antisymmetric() -> None:
    truth, scores = cohort(3)
    covariance = brute_delong(truth, scores[:2])
    expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])

    forward, backward = delong_test(truth, scores[0], scores[1]), delong_test(truth, scores[1], scores[0])

    assert forward.z == pytest.approx(forward.difference.estimate / expected)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward.difference.estimate == -backward.difference.estimate


def test_an_arm_does_not_differ_from_itself() -> None:
    truth, scores = cohort(1)

    result = delong_test(truth, scores[0], scores[0] * 3 + 1)

    assert (result.z, result.p_value, result.difference.half_width) == (0.0, 1.0, 0.0)


def test_delongs_test_rejects_at_its_level_under_the_null() -> None:
    rng = np.random.default_rng(11)
    truth = np.r_[np.ones(60), np.zeros(60)]
    p_values = []
    for _ in range(400):
        shared = rng.normal(size=120) + truth
        p_values.append(delong_test(truth, shared + rng.normal(size=120), shared + rng.normal(size=120)).p_value)

    # 400 draws: 5 % has a standard error of 1.1 points; three of them.
    assert 0.017 < np.mean(np.array(p_values) < 0.05) < 0.083


def test_an_interval_stays_inside_and_perfect_separation_still_has_one() -> None:
    truth, scores = cohort(5)
    few = np.r_[np.ones(4), np.zeros(6)]

    inside = delong_interval(truth, scores[0])
    perfect = delong_interval(few, few)

    assert 0 < inside.low < inside.estimate < inside.high < 1
    assert (perfect.estimate, perfect.high, perfect.method) == (1.0, 1.0, "Newcombe")
    assert perfect.low == pytest.approx(newcombe_interval(1.0, 4, 6).low)
    assert 0.5 < perfect.low < 0.85


def test_newcombes_bound_at_one_is_its_closed_form() -> None:
    """At an estimate of 1 and true A = 1 - q the equation is q m n = z^2 A (2N - 1 - (3N - 3)/((2 - A)(1 + A)))."""
    m, n, z = 24, 24, 1.959964
    low = newcombe_interval(1.0, m, n).low

    right = z**2 * low * (2 * 24 - 1 - (3 * 24 - 3) / ((2 - low) * (1 + low)))
    assert (1 - low) * m * n == pytest.approx(right, rel=1e-6)
    assert newcombe_interval(0.0, m, n).high == pytest.approx(1 - low)


def test_newcombes_interval_covers_near_the_edge() -> None:
    rng = np.random.default_rng(2)
    truth = np.r_[np.ones(20), np.zeros(20)]
    separation = 2.6
    true_auc = 0.96701  # Phi(2.6 / sqrt(2))
    inside = [
        true_auc in newcombe_interval(auc(truth, rng.normal(size=40) + separation * truth), 20, 20) for _ in range(600)
    ]

    assert np.mean(inside) > 0.93  # 95 % less two standard errors of 600 draws


def test_the_area_under_the_drawn_curve_is_the_auc() -> None:
    truth, scores = cohort(8, 1)
    curve = roc_curve(truth, scores[0])

    assert np.trapezoid(curve.sensitivity, curve.false_positive_rate) == pytest.approx(auc(truth, scores[0]))


def test_averaging_curves_does_not_compare_scores_of_two_folds() -> None:
    """Both folds separate perfectly, on scales that do not overlap: pooled scores would give .5 to .75."""
    truth = np.array([0, 0, 1, 1])
    mean = mean_roc([roc_curve(truth, truth * 1.0), roc_curve(truth, truth * 1.0 + 100)])

    assert np.trapezoid(mean.sensitivity, mean.false_positive_rate) == pytest.approx(1.0)
    assert mean.spread is not None
    assert mean.spread.max() == 0


def test_the_mean_curve_of_one_fold_has_nearly_its_area() -> None:
    truth, scores = cohort(4)
    mean = mean_roc([roc_curve(truth, scores[0])], steps=2001)

    assert np.trapezoid(mean.sensitivity, mean.false_positive_rate) == pytest.approx(auc(truth, scores[0]), abs=2e-3)


@pytest.mark.parametrize(
    ("truth", "score", "message"),
    [
        ([1, 1], [0.1, 0.2], "all 2 cases are positive"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "all 3 cases are negative"),
        ([0, 1], [0.1, np.nan], "1 of 2 scores are not finite"),
        ([0, 2], [0.1, 0.2], "labels of an AUC are 0 and 1"),
    ],
)
def test_what_has_no_area_is_refused(truth: list[int], score: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(np.array(truth), np.array(score))
