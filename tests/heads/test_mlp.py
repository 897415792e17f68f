"""A hidden layer on slide means finds main effects, one on regions finds pairing, and absent regions stay unread."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.heads import Fit, Preparation, ProbeSettings, fit_mlp, fit_region_mlp, predict
from parfocal.heads.mlp import RegionNetwork
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(8,), inner_folds=3, growth=1)
QUICK = ProbeSettings(components=(4,), mlp_steps=8, growth=1)


def mean_auc(fit: Fit, bags: Sequence[Bag], label: np.ndarray, folds: Sequence[Fold]) -> float:
    predictions = predict(fit(bags, Outcome.binary(label), folds, SETTINGS), bags, folds)
    return float(
        np.mean([auc(label[fold.test], one.score[:, 0]) for fold, one in zip(folds, predictions, strict=True)])
    )


def test_slide_means_show_a_main_effect_and_no_pairing(numbers: Any) -> None:
    both = [numbers.coarse, numbers.fine]

    assert mean_auc(fit_mlp, both, numbers.kind, numbers.folds(numbers.kind)) > 0.85
    assert mean_auc(fit_mlp, both, numbers.pairing, numbers.folds(numbers.pairing)) < 0.75


def test_regions_of_both_magnifications_show_the_pairing(numbers: Any) -> None:
    folds = numbers.folds(numbers.pairing)

    assert mean_auc(fit_region_mlp, [numbers.coarse, numbers.fine], numbers.pairing, folds) > 0.85
    for bag in (numbers.coarse, numbers.fine):
        assert mean_auc(fit_region_mlp, [bag], numbers.pairing, folds) < 0.75


def test_risk_and_numbers_follow_what_slide_means_show(numbers: Any) -> None:
    rng = np.random.default_rng(0)
    fold = numbers.folds(numbers.kind)[0]
    hazard = np.where(numbers.kind, 4.0, 0.25)
    time = rng.exponential(1 / hazard)
    event = rng.random(40) < 0.8
    number = 20 + 3 * numbers.kind + rng.normal(0, 0.3, 40)

    for outcome in (
        Outcome("t", "survival", (), time, event),
        Outcome("t", "continuous", (), number, np.ones(40, dtype=bool)),
    ):
        (fit,) = fit_mlp([numbers.fine], outcome, [fold], SETTINGS)
        score = fit.score([numbers.fine], fold.test)[:, 0]
        assert auc(numbers.kind[fold.test], score) > 0.8
    assert abs(score.mean() - 21.5) < 1.5


def test_a_region_that_one_bag_lacks_is_left_out_and_its_vector_never_read(draw_numbers: Callable[..., Any]) -> None:
    numbers = draw_numbers(n=16, unread=0.3)
    coarse, fine = numbers.coarse, numbers.fine
    fold, outcome = numbers.folds(numbers.pairing)[0], Outcome.binary(numbers.pairing)
    filled = replace(fine, region_mean=np.where(fine.region_present[:, None], fine.region_mean, np.float32(1e6)))

    (before,) = fit_region_mlp([coarse, fine], outcome, [fold], QUICK)
    (after,) = fit_region_mlp([coarse, filled], outcome, [fold], QUICK)
    network = RegionNetwork()
    fitted = network.fit_preparation([coarse, filled], fold.train, Preparation(4), QUICK)
    (table,) = network.tables([coarse, filled], fold.test, fitted)

    np.testing.assert_array_equal(before.score([coarse, fine], fold.test), after.score([coarse, filled], fold.test))
    assert np.diff(table.start).tolist() == [
        fine.region_present[fine.regions_of(int(slide))].sum() for slide in fold.test
    ]


def test_a_slide_without_a_region_in_all_bags_is_scored_all_the_same(numbers: Any) -> None:
    fold = numbers.folds(numbers.pairing)[0]
    present, region_mean = numbers.fine.region_present.copy(), numbers.fine.region_mean.copy()
    for slide in (int(fold.test[0]), int(fold.train[0])):
        present[numbers.fine.regions_of(slide)] = False
        region_mean[numbers.fine.regions_of(slide)] = np.nan
    bags = [numbers.coarse, replace(numbers.fine, region_present=present, region_mean=region_mean)]

    (fit,) = fit_region_mlp(bags, Outcome.binary(numbers.pairing), [fold], QUICK)

    assert np.isfinite(fit.score(bags, fold.test)).all()


def test_bags_of_other_regions_are_refused(numbers: Any) -> None:
    other = replace(numbers.fine, region_start=numbers.fine.region_start + 1)

    with pytest.raises(ValueError, match="not of the same regions"):
        fit_region_mlp([numbers.coarse, other], Outcome.binary(numbers.kind), numbers.folds(numbers.kind)[:1], QUICK)


def test_bags_without_a_region_in_common_are_refused(numbers: Any) -> None:
    even = np.arange(len(numbers.fine.region_present)) % 2 == 0
    bags = [replace(numbers.coarse, region_present=even), replace(numbers.fine, region_present=~even)]

    with pytest.raises(ValueError, match="no training slide has a region in all of the bags"):
        fit_region_mlp(bags, Outcome.binary(numbers.kind), numbers.folds(numbers.kind)[:1], QUICK)
