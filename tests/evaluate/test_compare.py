"""Metrics, intervals and comparisons of arms whose signal is known."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.arm import arm_label
from parfocal.evaluate.compare import choose_primary
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.metric import METRICS
from parfocal.stats import auc, standard_error

from .drawn import ARMS, cohort_of, drawn

KINDS = tuple(METRICS)


@pytest.mark.parametrize("kind", KINDS)
def test_arms_of_every_kind_of_outcome_are_ranked_by_their_signal(kind: str) -> None:
    result = drawn(cohort_of(kind, n=160)).result()
    estimates = [run.interval.estimate for run in result.runs]

    assert result.metric is METRICS[result.cohort.outcome.kind]
    assert estimates[0] < estimates[1] < estimates[4]
    assert all(run.interval.low < run.interval.estimate < run.interval.high for run in result.runs)
    assert (result.runs[0].calibration is not None) == (kind == "binary")
    assert 0 < result.detectable < 0.5


def test_an_arm_is_the_mean_of_its_folds_and_differences_are_paired() -> None:
    made = drawn(cohort_of("binary"))
    result = made.result()
    is_positive = made.cohort.is_positive
    by_hand = [
        [auc(is_positive[fold.test], one.score[:, 0]) for fold, one in zip(made.folds, fits.predictions, strict=True)]
        for fits in made.fits
    ]

    assert [run.interval.estimate for run in result.runs] == pytest.approx(np.mean(by_hand, axis=1).tolist())
    best = max((0, 1, 2), key=lambda place: np.mean(by_hand[place]))
    assert result.best_single == best
    assert result.runs[best].against_best_single is None
    test = result.runs[4].against_best_single
    assert test is not None
    assert test.difference.estimate == pytest.approx(np.mean(by_hand[4]) - np.mean(by_hand[best]))
    assert (test.p_value < 0.05) == (0.0 not in test.difference)


@pytest.mark.parametrize("repeats", [3, 4])
def test_the_interval_adds_what_repeats_show_to_what_patients_vary(repeats: int) -> None:
    """By hand: a patient's share of won pairs less the mean, over its class in the fold, summed over repeats."""
    cohort = cohort_of("binary", n=120)
    made = drawn(cohort, repeats=repeats)
    result = made.result()
    predictions = result.runs[0].predictions
    is_positive = cohort.is_positive
    won = np.zeros((repeats, 120))
    own = np.zeros((repeats, 120))
    of_repeat = np.zeros((repeats, 4))
    for fold, one in zip(made.folds, predictions, strict=True):
        score = dict(zip(fold.test.tolist(), one.score[:, 0].tolist(), strict=True))
        for case in score:
            others = [score[case] - score[other] for other in score if is_positive[other] != is_positive[case]]
            won[fold.repeat, case] = np.mean([(gap if is_positive[case] else -gap) > 0 for gap in others])
            own[fold.repeat, case] = len(score) - len(others)
        of_repeat[fold.repeat, fold.number] = np.mean([won[fold.repeat, case] for case in score if is_positive[case]])
    mean = of_repeat.mean()
    pull = ((won - mean) / own).sum(axis=0) / (4 * repeats)
    smaller = int(min(is_positive.sum(), (~is_positive).sum()))
    over_patients = (pull**2).sum() * smaller / (smaller - 1)
    k = 1 + 1 / result.test_over_train
    over_fits = (k / 2 + 1 / repeats) * of_repeat.mean(axis=1).var(ddof=1)
    total = over_patients + over_fits if repeats == 4 else 2.5 * over_patients
    # Degrees of freedom: the patients' by the spread of their squares, at most 119; the fits' are the repeats less one.
    of_pulls = min(119, 2 / max((pull**4).sum() / (pull**2).sum() ** 2 - 1 / 120, 1e-9))
    degrees = total**2 / (over_patients**2 / of_pulls + over_fits**2 / 3) if repeats == 4 else of_pulls
    held_out = HeldOut.of(cohort, made.folds)
    found = held_out.over_folds(predictions)

    assert result.runs[0].interval.estimate == pytest.approx(mean)
    assert standard_error(found, smaller) == pytest.approx((np.sqrt(total), degrees))
    assert result.runs[0].interval == held_out.interval(found)


def test_sites_are_known_to_the_interval_where_they_are_kept_apart() -> None:
    """Ten sites; in one of them the score is turned round, so that its patients fall together."""
    cohort = cohort_of("binary", n=200)
    site = np.arange(200) % 10
    made = drawn(cohort, repeats=4)
    turned = tuple(
        replace(one, score=np.where(site[fold.test, None] == 0, -one.score, one.score))
        for fold, one in zip(made.folds, made.fits[4].predictions, strict=True)
    )
    fits = [replace(one, predictions=turned) if place == 4 else one for place, one in enumerate(made.fits)]
    alone = replace(made, fits=fits).result().runs[4].interval
    named = replace(cohort, sites=tuple(f"site {one}" for one in site))
    together = replace(made, fits=fits, cohort=named).result().runs[4].interval

    assert together.estimate == alone.estimate
    assert together.half_width > 1.2 * alone.half_width


def test_a_patient_counts_once_however_many_slides_there_are() -> None:
    """Five slides of every patient, all with the patient's score: the same numbers as one slide each."""
    once, often = cohort_of("binary", n=48), cohort_of("binary", n=48, per_patient=5)
    single = drawn(once)
    splits = replace(single.splits, slides=often.slides, fold=np.repeat(single.splits.fold, 5, axis=1))
    folds = splits.folds(often, inner=3, seed=0)
    by_patient = [
        dict(zip(fold.test.tolist(), one.score, strict=True))
        for fold, one in zip(single.folds, single.fits[4].predictions, strict=True)
    ]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(48, 5))
    noise -= noise.mean(axis=1, keepdims=True)  # slides of a patient differ, and their mean is the patient's score
    copies = tuple(
        replace(one, score=np.array([own[slide // 5] + noise[slide // 5, slide % 5] for slide in fold.test]))
        for fold, own, one in zip(folds, by_patient, single.fits[4].predictions, strict=True)
    )
    fits = [replace(one, predictions=copies) if place == 4 else one for place, one in enumerate(single.fits)]
    repeated = replace(single, cohort=often, splits=splits, folds=folds, fits=[fits[4]] * len(ARMS)).result()

    np.testing.assert_allclose(repeated.runs[4].fold_value, single.result().runs[4].fold_value)
    assert repeated.runs[4].interval.high == pytest.approx(single.result().runs[4].interval.high)
    # The twin: slides counted one by one would give other areas, because the noise reorders them.
    slide_by_slide = replace(often, count="slide")
    counted = replace(single, cohort=slide_by_slide, splits=splits, folds=folds, fits=[fits[4]] * len(ARMS)).result()
    assert (counted.runs[4].fold_value != repeated.runs[4].fold_value).any()


def test_the_primary_comparison_is_named_by_order_and_not_by_results() -> None:
    # Tokens with attention have the weakest signal of the mixed arms, and still are the primary arm.
    result = drawn(cohort_of("binary"), signal=(0.2, 0.9, 1.5, 0.7, 2.0, 0.1)).result()

    assert result.primary is not None
    assert result.primary.mixed == 5
    assert result.primary.single == 1  # the best of those with gated attention, though the mean is better
    assert result.picked is not None
    assert (result.picked.mixed, result.picked.single) == (4, 2)


def test_the_user_may_name_the_primary_arm_and_only_a_mixed_one() -> None:
    made = drawn(cohort_of("binary"))

    named = made.result(primary="contextual tokens: mean").primary
    assert named is not None
    assert named.mixed == 4
    with pytest.raises(ConfigError, match="2 mixed arms are called so"):
        made.result(primary="contextual tokens")
    by_id = made.result(primary="mem/tokens/mean").primary
    assert by_id is not None
    assert by_id.mixed == 4
    with pytest.raises(ConfigError, match="Name one of: mem/tokens/mean; mem/tokens/gated-attention"):
        made.result(primary="20x")


def test_the_sd_over_seeds_is_not_that_over_patients() -> None:
    made = drawn(cohort_of("binary", n=80), seeds=4)
    result = made.result()
    run = result.runs[4]
    outcome = made.cohort.is_positive
    means = [
        np.mean([auc(outcome[fold.test], one.score[:, 0]) for fold, one in zip(made.folds, seed, strict=True)])
        for seed in made.fits[4].by_seed
    ]

    assert run.seed_sd == pytest.approx(np.std(means, ddof=1))
    assert drawn(cohort_of("binary")).result().runs[4].seed_sd is None


def test_probabilities_that_are_right_have_a_slope_of_one() -> None:
    """The log odds of a normal shift of d: d x - d^2 / 2 + log odds of the class, exact by Bayes' rule."""
    cohort = cohort_of("binary", n=1200)
    made = drawn(cohort, repeats=1)
    rng = np.random.default_rng(7)
    label = cohort.outcome.value
    x = rng.normal(size=1200) + label
    logit = x - 0.5 + np.log(label.mean() / (1 - label.mean()))
    honest = tuple(
        replace(one, score=logit[fold.test][:, None])
        for fold, one in zip(made.folds, made.fits[0].predictions, strict=True)
    )
    loud = tuple(replace(one, score=2 * one.score) for one in honest)
    fits = [replace(one, predictions=loud if place else honest) for place, one in enumerate(made.fits)]
    runs = replace(made, fits=fits).result().runs

    assert runs[0].calibration is not None
    assert runs[1].calibration is not None
    # 1,200 patients: the standard error of the slope is about .07.
    assert runs[0].calibration.slope == pytest.approx(1.0, abs=0.2)
    assert runs[1].calibration.slope == pytest.approx(runs[0].calibration.slope / 2, rel=1e-3)
    assert runs[1].calibration.brier > runs[0].calibration.brier
    assert sum(one.n for one in runs[0].calibration.bins) == 1200


def test_folds_without_an_order_are_left_out_counted_and_two_must_remain() -> None:
    cohort = cohort_of("survival", n=40)
    few = replace(cohort, outcome=replace(cohort.outcome, event=np.arange(40) % 40 == cohort.outcome.value.argmin()))
    made = drawn(cohort, repeats=1)

    with pytest.raises(ConfigError, match=r"only 1 of 4 folds .* whose labels differ.* Use fewer folds"):
        replace(made, cohort=few).result()
    two = replace(
        cohort,
        outcome=replace(
            cohort.outcome,
            event=np.isin(
                np.arange(40),
                [
                    np.argmin(cohort.outcome.value),
                    made.folds[0].test[np.argsort(cohort.outcome.value[made.folds[0].test])[0]],
                    made.folds[1].test[np.argsort(cohort.outcome.value[made.folds[1].test])[0]],
                ],
            ),
        ),
    )
    with pytest.warns(ParfocalWarning, match="folds of 't' test no two slides"):
        result = replace(made, cohort=two).result()
    assert np.isnan(result.runs[0].fold_value).sum() >= 1
    assert any("are left out" in note for note in result.notes)


def test_a_control_with_random_weights_is_not_what_the_comparison_is_about() -> None:
    control = [replace(arm, family="Region encoder none", source="none/tokens", is_control=True) for arm in ARMS[4:]]
    arms = [*ARMS[:4], *control, *ARMS[4:]]

    assert choose_primary(arms, None)[0] == 7
    assert arm_label(arms, 7) == "Region encoder mem, contextual tokens: gated attention"
    assert arm_label(arms, 0) == "5x: gated attention"
