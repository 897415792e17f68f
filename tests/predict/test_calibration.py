"""A score means what the calibration says of it, checked against fits by other means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from parfocal.cohort import Fold, Outcome, OutcomeKind
from parfocal.predict.calibration import Calibration, fit_calibration, held_out_brier


def outcome(kind: OutcomeKind, value: np.ndarray, classes: tuple[str, ...] = ()) -> Outcome:
    return Outcome("t", kind, classes, value.astype(np.float64), np.ones(len(value), dtype=bool))


def alone(n: int) -> list[str]:
    """Each slide a patient of its own."""
    return [f"p{number}" for number in range(n)]


def test_two_classes_are_fitted_as_an_unpenalised_logistic_regression_on_platts_targets() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    score = 3 * truth + rng.normal(0, 2, 60) + 5
    ones, zeros = truth.sum(), (~truth).sum()
    target = np.where(truth, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    # The bounded probability, 1/62 + (1 - 2/62) p, is to meet the target.
    target = (target - 1 / 62) / (1 - 2 / 62)
    # Each slide once as positive and once as negative, weighted by its target: the same likelihood.
    twice = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(score, 2)[:, None], np.repeat([1, 0], 60), sample_weight=np.concatenate([target, 1 - target])
    )

    fitted = fit_calibration(Outcome.binary(truth), score[None, :, None], alone(60))

    assert fitted.slope == pytest.approx(float(twice.coef_[0, 0]), rel=1e-4)
    expected = 1 / 62 + (1 - 2 / 62) * twice.predict_proba(score[:, None])
    np.testing.assert_allclose(fitted.probability(score[:, None]), expected, atol=1e-5)


def test_a_cohort_without_an_error_does_not_promise_certainty() -> None:
    truth = np.arange(24) % 2 == 0
    score = np.where(truth, 10.0, -10.0)[:, None]

    probability = fit_calibration(Outcome.binary(truth), score[None], alone(len(score))).probability(score)

    # Twelve right of twelve: the rule of succession says 13 of 14.
    np.testing.assert_allclose(probability[truth, 1], 13 / 14, atol=1e-4)
    np.testing.assert_allclose(probability[~truth, 1], 1 / 14, atol=1e-4)


def test_scores_that_fall_with_the_outcome_say_nothing_rather_than_the_contrary() -> None:
    truth = np.arange(40) % 4 == 0
    score = (-5.0 * truth + np.random.default_rng(1).normal(size=40))[:, None]

    fitted = fit_calibration(Outcome.binary(truth), score[None], alone(len(score)))

    assert fitted.slope == 0
    assert np.ptp(fitted.probability(score)[:, 1]) == 0


def test_the_same_score_everywhere_gives_the_shares_of_the_classes() -> None:
    value = np.repeat([0.0, 1.0, 2.0], [200, 100, 100])

    fitted = fit_calibration(outcome("multiclass", value, ("a", "b", "c")), np.zeros((1, 400, 3)), alone(400))

    # Platt's targets and the small penalty on the biases move the shares by less than a hundredth.
    np.testing.assert_allclose(fitted.probability(np.zeros((1, 3)))[0], [0.5, 0.25, 0.25], atol=0.01)


def test_several_classes_find_the_temperature_and_the_biases_that_made_the_labels() -> None:
    rng = np.random.default_rng(2)
    score = rng.normal(0, 2, (20_000, 3))
    logit = 0.7 * score + np.array([0.5, 0.0, -0.5])
    true = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    value = (rng.random((len(score), 1)) > np.cumsum(true, axis=1)).sum(axis=1)

    fitted = fit_calibration(outcome("multiclass", value, ("a", "b", "c")), score[None], alone(len(score)))

    # 20,000 labels: the standard error of the slope is about 0.01.
    assert fitted.slope == pytest.approx(0.7, abs=0.03)
    np.testing.assert_allclose(fitted.probability(score), true, atol=0.03)
    np.testing.assert_allclose(fitted.probability(score).sum(axis=1), 1.0)


def test_ordered_classes_find_their_steps() -> None:
    rng = np.random.default_rng(3)
    latent = rng.normal(size=20_000)
    value = np.digitize(latent + rng.logistic(0, 0.5, 20_000), [-0.5, 1.0])
    score = np.stack([latent, latent], axis=1)

    fitted = fit_calibration(outcome("ordinal", value, ("low", "middle", "high")), score[None], alone(len(score)))

    # P(above step) = sigmoid((latent - step) / 0.5).
    assert fitted.slope == pytest.approx(2.0, abs=0.1)
    np.testing.assert_allclose(-fitted.intercept / fitted.slope, [-0.5, 1.0], atol=0.05)


def test_steps_that_cross_are_pooled_as_isotonic_regression_does() -> None:
    rng = np.random.default_rng(4)
    score = rng.normal(0, 2, (50, 4))
    raw = 1 / (1 + np.exp(-score))
    falling = np.stack([IsotonicRegression(increasing=False).fit_transform(np.arange(4), row) for row in raw])

    probability = Calibration("ordinal", 1.0, np.zeros(4), 0.0, 50, np.zeros(0), np.zeros(0)).probability(score)

    above = 1 - np.cumsum(probability, axis=1)[:, :-1]
    np.testing.assert_allclose(above, falling, atol=1e-9)
    assert (probability > -1e-12).all()


def test_a_number_is_recalibrated_by_least_squares_and_its_interval_holds_nine_of_ten_new_ones() -> None:
    rng = np.random.default_rng(5)
    score = rng.normal(size=30)
    fitted = fit_calibration(
        outcome("continuous", 2 * score + 1 + rng.normal(0, 0.5, 30)), score[None, :, None], alone(30)
    )
    again = np.polyfit(score, 2 * score + 1, 1)

    assert again[0] == pytest.approx(2)
    held = []
    for _ in range(400):
        value = 2 * score + 1 + rng.normal(0, 0.5, 30)
        one = fit_calibration(outcome("continuous", value), score[None, :, None], alone(30))
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
        outcome("survival", np.array([3.0, 1.0, 2.0, 4.0])), np.array([[[0.1], [0.4], [0.2], [0.3]]]), alone(4)
    )

    np.testing.assert_allclose(fitted.value(np.array([[0.0], [0.25], [0.3], [9.0]])), [0.0, 50.0, 62.5, 100.0])


def test_a_percentile_is_no_probability() -> None:
    fitted = fit_calibration(outcome("survival", np.array([3.0, 1.0, 2.0])), np.zeros((1, 3, 1)), alone(3))

    with pytest.raises(ValueError, match="no classes"):
        fitted.probability(np.zeros((1, 1)))


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_the_same_cross_validation_twice_says_no_more_than_once(kind: OutcomeKind) -> None:
    rng = np.random.default_rng(6)
    score = rng.normal(size=(1, 24, 1))
    label = outcome(kind, (score[0, :, 0] + rng.normal(size=24) > 0) * 1.0, ("a", "b") if kind == "binary" else ())

    once, twice = (fit_calibration(label, one, alone(24)) for one in (score, np.concatenate([score, score])))

    # The same likelihood; the two searches for its maximum stop within their tolerance.
    assert twice.slope == pytest.approx(once.slope, rel=1e-5)
    assert twice.spread == pytest.approx(once.spread)
    assert twice.half_width == pytest.approx(once.half_width)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "continuous"])
def test_the_slides_of_a_patient_weigh_as_much_as_the_only_slide_of_another(kind: OutcomeKind) -> None:
    rng = np.random.default_rng(7)
    names = {"binary": ("a", "b"), "multiclass": ("a", "b", "c"), "ordinal": ("a", "b", "c")}.get(kind, ())
    value = np.arange(18) % max(len(names), 1) if names else rng.normal(size=18)
    columns = {"binary": 1, "multiclass": 3, "ordinal": 2, "continuous": 1}[kind]
    score = rng.normal(size=(2, 18, columns)) + (value[:, None] if columns < 3 else np.eye(3)[value.astype(int)])
    times = rng.integers(1, 9, 18)  # the same slide again and again, as the fields of one patient are nearly

    once = fit_calibration(outcome(kind, value, names), score, alone(18))
    again = fit_calibration(
        outcome(kind, np.repeat(value, times), names),
        np.repeat(score, times, axis=1),
        np.repeat(alone(18), times).tolist(),
    )

    # The same likelihood; scores are scaled by another spread, so the two searches for its maximum end nearly alike.
    assert again.slope == pytest.approx(once.slope, rel=1e-3)
    np.testing.assert_allclose(again.intercept, once.intercept, atol=1e-3)
    assert (again.n, again.least) == (once.n, once.least)
    assert again.half_width == pytest.approx(once.half_width)


def test_a_percentile_counts_patients() -> None:
    risk = np.array([[[0.1], [0.2], [0.2], [0.2], [0.2], [0.9]]])

    fitted = fit_calibration(outcome("survival", np.arange(1.0, 7.0)), risk, ["a", "b", "b", "b", "b", "c"])

    # One patient of three has 0.1, one 0.2; half of those that are as high count as below.
    np.testing.assert_allclose(fitted.value(np.array([[0.15], [0.2], [0.5]])), [100 / 3, 50.0, 200 / 3])


@settings(max_examples=30)
@given(st.integers(3, 12), st.integers(1, 12), st.sampled_from(["binary", "multiclass", "ordinal"]), st.integers(0, 99))
def test_no_probability_is_nearer_to_certainty_than_the_number_of_patients_allows(
    patients: int, slides: int, kind: OutcomeKind, seed: int
) -> None:
    names = ("a", "b") if kind == "binary" else ("a", "b", "c")
    rng = np.random.default_rng(seed)
    value = np.repeat(np.arange(patients) % len(names), slides)
    truth = np.stack([column.value for column in outcome(kind, value, names).columns], axis=1)
    score = 20 * (truth - 0.5) + rng.normal(size=truth.shape)
    fitted = fit_calibration(outcome(kind, value, names), score[None], np.repeat(alone(patients), slides).tolist())

    probability = fitted.probability(np.concatenate([score, 1000 * score, -1000 * score]))

    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    assert probability.min() >= 1 / (patients + 2) - 1e-12
    assert probability.max() <= 1 - 1 / (patients + 2) + 1e-12


def test_the_bound_keeps_the_order_of_slides() -> None:
    truth = np.arange(8) % 2 == 0
    fitted = fit_calibration(Outcome.binary(truth), np.where(truth, 1.0, -1.0)[None, :, None], alone(8))
    reach = 8 / fitted.slope  # beyond that the order is lost to rounding long after it has ceased to matter

    probability = fitted.probability(np.linspace(-reach, reach, 41)[:, None])[:, 1]

    assert (np.diff(probability) > 0).all()


def test_more_classes_than_patients_allow_still_make_probabilities() -> None:
    value = np.tile(np.arange(6), 3)
    score = 50 * np.eye(6)[value][None]

    fitted = fit_calibration(outcome("multiclass", value, tuple("abcdef")), score, np.repeat(alone(3), 6).tolist())

    probability = fitted.probability(score[0])
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    assert (probability.argmax(axis=1) == value).all()


def test_the_brier_score_of_a_head_comes_from_patients_who_were_not_calibrated_on() -> None:
    """Scores that say nothing: the probability is the share among Platt's targets of the others, by hand."""
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    rest = {0: [0, 3, 4], 1: [1, 5, 6], 2: [2, 7, 8]}
    folds = [
        Fold(0, number, np.setdiff1d(np.arange(9), test), np.array(test), np.zeros(6, dtype=np.int64))
        for number, test in rest.items()
    ]

    found = held_out_brier(Outcome.binary(truth), np.zeros((1, 9, 1)), alone(9), folds)

    # Two positive and four negative others: targets 3/4 and 1/6, their mean over six is (2 * 3/4 + 4 * 1/6) / 6.
    share = (2 * 3 / 4 + 4 / 6) / 6
    assert found == pytest.approx((3 * (1 - share) ** 2 + 6 * share**2) / 9, abs=1e-5)
