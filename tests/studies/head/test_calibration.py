"""A score means what the calibration says of it, checked against fits by other means."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from parfocal.cohort import Outcome, OutcomeKind
from parfocal.studies.head.calibration import Calibration, fit_calibration


def outcome(kind: OutcomeKind, value: np.ndarray, classes: tuple[str, ...] = ()) -> Outcome:
    return Outcome("t", kind, classes, value.astype(np.float64), np.ones(len(value), dtype=bool))


def test_two_classes_are_fitted_as_an_unpenalised_logistic_regression_on_platts_targets() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    score = 3 * truth + rng.normal(0, 2, 60) + 5
    ones, zeros = truth.sum(), (~truth).sum()
    target = np.where(truth, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    # Each slide once as positive and once as negative, weighted by its target: the same likelihood.
    twice = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(score, 2)[:, None], np.repeat([1, 0], 60), sample_weight=np.concatenate([target, 1 - target])
    )

    fitted = fit_calibration(Outcome.binary(truth), score[None, :, None])

    assert fitted.slope == pytest.approx(float(twice.coef_[0, 0]), rel=1e-4)
    np.testing.assert_allclose(fitted.probability(score[:, None]), twice.predict_proba(score[:, None]), atol=1e-5)


def test_a_cohort_without_an_error_does_not_promise_certainty() -> None:
    truth = np.arange(24) % 2 == 0
    score = np.where(truth, 10.0, -10.0)[:, None]

    probability = fit_calibration(Outcome.binary(truth), score[None]).probability(score)

    # Twelve right of twelve: the rule of succession says 13 of 14.
    np.testing.assert_allclose(probability[truth, 1], 13 / 14, atol=1e-4)
    np.testing.assert_allclose(probability[~truth, 1], 1 / 14, atol=1e-4)


def test_scores_that_fall_with_the_outcome_say_nothing_rather_than_the_contrary() -> None:
    truth = np.arange(40) % 4 == 0
    score = (-5.0 * truth + np.random.default_rng(1).normal(size=40))[:, None]

    fitted = fit_calibration(Outcome.binary(truth), score[None])

    assert fitted.slope == 0
    assert np.ptp(fitted.probability(score)[:, 1]) == 0


def test_the_same_score_everywhere_gives_the_shares_of_the_classes() -> None:
    value = np.repeat([0.0, 1.0, 2.0], [200, 100, 100])

    fitted = fit_calibration(outcome("multiclass", value, ("a", "b", "c")), np.zeros((1, 400, 3)))

    # Platt's targets and the small penalty on the biases move the shares by less than a hundredth.
    np.testing.assert_allclose(fitted.probability(np.zeros((1, 3)))[0], [0.5, 0.25, 0.25], atol=0.01)


def test_several_classes_find_the_temperature_and_the_biases_that_made_the_labels() -> None:
    rng = np.random.default_rng(2)
    score = rng.normal(0, 2, (20_000, 3))
    logit = 0.7 * score + np.array([0.5, 0.0, -0.5])
    true = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    value = (rng.random((len(score), 1)) > np.cumsum(true, axis=1)).sum(axis=1)

    fitted = fit_calibration(outcome("multiclass", value, ("a", "b", "c")), score[None])

    # 20,000 labels: the standard error of the slope is about 0.01.
    assert fitted.slope == pytest.approx(0.7, abs=0.03)
    np.testing.assert_allclose(fitted.probability(score), true, atol=0.03)
    np.testing.assert_allclose(fitted.probability(score).sum(axis=1), 1.0)


def test_ordered_classes_find_their_steps() -> None:
    rng = np.random.default_rng(3)
    latent = rng.normal(size=20_000)
    value = np.digitize(latent + rng.logistic(0, 0.5, 20_000), [-0.5, 1.0])
    score = np.stack([latent, latent], axis=1)

    fitted = fit_calibration(outcome("ordinal", value, ("low", "middle", "high")), score[None])

    # P(above step) = sigmoid((latent - step) / 0.5).
    assert fitted.slope == pytest.approx(2.0, abs=0.1)
    np.testing.assert_allclose(-fitted.intercept / fitted.slope, [-0.5, 1.0], atol=0.05)


def test_steps_that_cross_are_pooled_as_isotonic_regression_does() -> None:
    rng = np.random.default_rng(4)
    score = rng.normal(0, 2, (50, 4))
    raw = 1 / (1 + np.exp(-score))
    falling = np.stack([IsotonicRegression(increasing=False).fit_transform(np.arange(4), row) for row in raw])

    probability = Calibration("ordinal", 1.0, np.zeros(4), 0.0, 50, np.zeros(0)).probability(score)

    above = 1 - np.cumsum(probability, axis=1)[:, :-1]
    np.testing.assert_allclose(above, falling, atol=1e-9)
    assert (probability > -1e-12).all()


def test_a_number_is_recalibrated_by_least_squares_and_its_interval_holds_nine_of_ten_new_ones() -> None:
    rng = np.random.default_rng(5)
    score = rng.normal(size=30)
    fitted = fit_calibration(outcome("continuous", 2 * score + 1 + rng.normal(0, 0.5, 30)), score[None, :, None])
    again = np.polyfit(score, 2 * score + 1, 1)

    assert again[0] == pytest.approx(2)
    held = []
    for _ in range(400):
        value = 2 * score + 1 + rng.normal(0, 0.5, 30)
        one = fit_calibration(outcome("continuous", value), score[None, :, None])
        slope, intercept = np.polyfit(score, value, 1)
        assert one.value(np.array([[0.3]]))[0] == pytest.approx(slope * 0.3 + intercept)
        new = rng.normal(size=20)
        truth = 2 * new + 1 + rng.normal(0, 0.5, 20)
        held.append(np.abs(truth - one.value(new[:, None])) <= one.half_width)
    # 8,000 new values; those of one fit share its error, so the share is known to about one in a hundred.
    assert np.mean(held) == pytest.approx(0.9, abs=0.015)
    assert fitted.slope > 0


def test_a_risk_is_told_as_its_place_among_the_training_slides() -> None:
    fitted = fit_calibration(
        outcome("survival", np.array([3.0, 1.0, 2.0, 4.0])), np.array([[[0.1], [0.4], [0.2], [0.3]]])
    )

    np.testing.assert_allclose(fitted.value(np.array([[0.0], [0.25], [0.3], [9.0]])), [0.0, 50.0, 62.5, 100.0])


def test_a_percentile_is_no_probability() -> None:
    fitted = fit_calibration(outcome("survival", np.array([3.0, 1.0, 2.0])), np.zeros((1, 3, 1)))

    with pytest.raises(ValueError, match="no classes"):
        fitted.probability(np.zeros((1, 1)))


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_the_same_cross_validation_twice_says_no_more_than_once(kind: OutcomeKind) -> None:
    rng = np.random.default_rng(6)
    score = rng.normal(size=(1, 24, 1))
    label = outcome(kind, (score[0, :, 0] + rng.normal(size=24) > 0) * 1.0, ("a", "b") if kind == "binary" else ())

    once, twice = fit_calibration(label, score), fit_calibration(label, np.concatenate([score, score]))

    # The same likelihood; the two searches for its maximum stop within their tolerance.
    assert twice.slope == pytest.approx(once.slope, rel=1e-5)
    assert twice.spread == pytest.approx(once.spread)
    assert twice.half_width == pytest.approx(once.half_width)
