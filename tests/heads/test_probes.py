"""What holds for every probe: nothing of a test fold leaks, permuted labels teach nothing, and signals are found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.heads import (
    Fit,
    FoldPrediction,
    ProbeSettings,
    average_predictions,
    fit_attention,
    fit_contrast,
    fit_mean,
    load_probe,
    predict,
    preparations,
)
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(4, 8), lifted=(), inner_folds=3, attention_steps=24, growth=1)
# Where it is asked what a fit depends on, and not how good it is.
QUICK = SETTINGS.model_copy(update={"attention_steps": 4, "lifted": (6, 8)})
ONE_WIDTH = SETTINGS.model_copy(update={"components": (8,)})
PROBES = [fit_mean, fit_attention, fit_contrast]


def scores(
    probe: Fit, bags: Sequence[Bag], label: np.ndarray, folds: Sequence[Fold], settings: ProbeSettings = QUICK
) -> list[FoldPrediction]:
    return predict(probe(bags, Outcome.binary(label), folds, settings), bags, folds)


def mean_auc(
    probe: Fit, bags: Sequence[Bag], label: np.ndarray, folds: Sequence[Fold], settings: ProbeSettings = SETTINGS
) -> float:
    predictions = scores(probe, bags, label, folds, settings)
    return float(
        np.mean([auc(label[fold.test], one.score[:, 0]) for fold, one in zip(folds, predictions, strict=True)])
    )


@pytest.mark.parametrize("probe", PROBES)
def test_labels_of_the_test_fold_have_no_say(probe: Fit, numbers: Any) -> None:
    folds = numbers.folds(numbers.pairing)[:1]
    flipped = numbers.pairing.copy()
    flipped[folds[0].test] = ~flipped[folds[0].test]

    before = scores(probe, [numbers.coarse, numbers.fine], numbers.pairing, folds)
    after = scores(probe, [numbers.coarse, numbers.fine], flipped, folds)

    np.testing.assert_array_equal(before[0].score, after[0].score)
    assert before[0].chosen == after[0].chosen


@pytest.mark.parametrize("probe", PROBES)
def test_vectors_of_the_test_fold_change_only_their_own_prediction(probe: Fit, numbers: Any) -> None:
    folds = numbers.folds(numbers.pairing)[:1]
    moved = int(folds[0].test[0])
    fine = numbers.fine
    rows, mean, region_mean = fine.rows.copy(), fine.mean.copy(), fine.region_mean.copy()
    rows[fine.start[moved] : fine.start[moved + 1]] *= -3
    mean[moved] *= -3
    region_mean[fine.regions_of(moved)] *= -3
    other = replace(fine, rows=rows, mean=mean, region_mean=region_mean)

    before = scores(probe, [numbers.coarse, fine], numbers.pairing, folds)[0].score
    after = scores(probe, [numbers.coarse, other], numbers.pairing, folds)[0].score

    # 1e-5: float32 products of other blocks.
    np.testing.assert_allclose(before[1:], after[1:], atol=1e-5)


@pytest.mark.parametrize("probe", PROBES)
def test_a_slide_scores_the_same_alone_in_a_bag_and_after_a_round_trip(probe: Fit, numbers: Any) -> None:
    (fold,), both = numbers.folds(numbers.pairing)[:1], [numbers.coarse, numbers.fine]
    (fit,) = probe(both, Outcome.binary(numbers.pairing), [fold], QUICK)
    slide = int(fold.test[2])

    again = load_probe(fit.state())
    alone = again.score([bag.of_slides([slide]) for bag in both], np.array([0]))

    assert again.chosen == fit.chosen
    np.testing.assert_allclose(alone[0], fit.score(both, fold.test)[2], atol=1e-5)


@pytest.mark.parametrize("probe", PROBES)
def test_permuted_labels_teach_nothing(probe: Fit, numbers: Any) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6 if probe is not fit_attention else 4):
        label = rng.permutation(numbers.pairing)
        folds = numbers.folds(label, folds=2)
        found.append(mean_auc(probe, [numbers.coarse, numbers.fine], label, folds, ONE_WIDTH))

    # The mean of four or more AUCs over 40 slides has a standard error of about .05 (Hanley and McNeil: .09 each).
    assert abs(np.mean(found) - 0.5) < 0.15


@pytest.mark.parametrize("probe", PROBES)
def test_a_fold_does_not_depend_on_which_folds_it_is_fitted_with(probe: Fit, numbers: Any) -> None:
    folds = numbers.folds(numbers.pairing)[:3]
    bags = [numbers.coarse]

    together = scores(probe, bags, numbers.pairing, folds)
    alone = scores(probe, bags, numbers.pairing, folds[2:])

    assert together[2].chosen == alone[0].chosen
    np.testing.assert_allclose(together[2].score, alone[0].score, atol=1e-4)


def test_only_contrast_finds_what_only_the_pairing_knows(numbers: Any) -> None:
    folds, both = numbers.folds(numbers.pairing), [numbers.coarse, numbers.fine]

    assert mean_auc(fit_contrast, both, numbers.pairing, folds) > 0.95
    # Half the standard range of an AUC over 20 against 20 slides.
    for probe in (fit_mean, fit_attention):
        assert mean_auc(probe, both, numbers.pairing, folds) < 0.75
    for bag in both:
        assert mean_auc(fit_contrast, [bag], numbers.pairing, folds) < 0.75


def test_main_effects_are_found_by_means_and_kept_by_contrast(numbers: Any) -> None:
    folds, both = numbers.folds(numbers.kind), [numbers.coarse, numbers.fine]

    alone = mean_auc(fit_mean, [numbers.fine], numbers.kind, folds)

    assert alone > 0.9
    assert mean_auc(fit_contrast, both, numbers.kind, folds) > alone - 0.1
    longer = ONE_WIDTH.model_copy(update={"attention_steps": 96})
    assert mean_auc(fit_attention, [numbers.fine], numbers.kind, folds[:2], longer) > 0.75


def test_late_fusion_is_the_mean_of_scores() -> None:
    first = [FoldPrediction(np.array([[1.0, 0.0], [2.0, 4.0]]), "a")]
    second = [FoldPrediction(np.array([[3.0, 1.0], [-2.0, 0.0]]), "b")]

    (both,) = average_predictions([first, second])

    assert both.score.tolist() == [[2.0, 0.5], [0.0, 2.0]]
    assert both.chosen == "a | b"


def test_every_arm_is_offered_the_same_list() -> None:
    assert [one.label for one in preparations((32, 16, 16))] == ["as is", "16 whitened", "32 whitened"]
