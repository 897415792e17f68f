"""The bilinear head finds pairing, is the formula it says it is, and never reads an absent region."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, fit_bilinear, predict
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(8,), inner_folds=3)
QUICK = ProbeSettings(components=(4,), bilinear_steps=8, bilinear_rank=3)


def test_pairing_and_main_effects_are_found(numbers: Any) -> None:
    bags = [numbers.coarse, numbers.fine]
    for label in (numbers.pairing, numbers.kind):
        folds = numbers.folds(label)
        predictions = predict(fit_bilinear(bags, Outcome.binary(label), folds, SETTINGS), bags, folds)
        found = [auc(label[fold.test], one.score[:, 0]) for fold, one in zip(folds, predictions, strict=True)]
        assert np.mean(found) > 0.85


def test_the_score_is_the_formula_region_by_region(numbers: Any) -> None:
    bags, fold = [numbers.coarse, numbers.fine], numbers.folds(numbers.pairing)[0]
    (fit,) = fit_bilinear(bags, Outcome.binary(numbers.pairing), [fold], QUICK)
    slide = int(fold.test[0])

    found = fit.score(bags, np.array([slide]))[0, 0]

    arrays, (fact,) = fit.state().arrays, fit.state().facts["columns"]
    regions, means = [], []
    for number, bag in enumerate(bags):
        rows = bag.region_mean[bag.regions_of(slide)].astype(np.float64)
        regions.append((rows - rows.mean(axis=0)) @ arrays[f"0/fitted/region {number}.matrix"])
        mean = bag.mean[slide] - arrays[f"0/fitted/mean {number}.mean"]
        means.append(mean @ arrays[f"0/fitted/mean {number}.matrix"])
    u, v, w = (arrays[f"0/parameters/{name} 0"] for name in "uvw")
    of_region = ((regions[0] @ u) * (regions[1] @ v) * w).sum(axis=1)
    usual = (arrays["0/fitted/moment 0"] * ((u * w) @ v.T).reshape(-1)).sum()
    score = (of_region.mean() - usual) / arrays["0/fitted/spread 0"][0]
    score += np.concatenate(means) @ arrays["0/parameters/linear"] + arrays["0/parameters/bias"][0]
    np.testing.assert_allclose(found, fact["scale"] * score, rtol=1e-4, atol=1e-5)  # float32


def test_absent_regions_are_never_read(draw_numbers: Callable[..., Any]) -> None:
    numbers = draw_numbers(n=16, unread=0.3)
    fold, outcome = numbers.folds(numbers.pairing)[0], Outcome.binary(numbers.pairing)
    filled = np.where(numbers.fine.region_present[:, None], numbers.fine.region_mean, np.float32(1e6))

    (before,) = fit_bilinear([numbers.coarse, numbers.fine], outcome, [fold], QUICK)
    other = [numbers.coarse, replace(numbers.fine, region_mean=filled)]
    (after,) = fit_bilinear(other, outcome, [fold], QUICK)

    np.testing.assert_array_equal(
        before.score([numbers.coarse, numbers.fine], fold.test), after.score(other, fold.test)
    )


def test_one_bag_is_paired_with_itself(numbers: Any) -> None:
    fold = numbers.folds(numbers.kind)[0]

    (fit,) = fit_bilinear([numbers.fine], Outcome.binary(numbers.kind), [fold], QUICK)

    assert np.isfinite(fit.score([numbers.fine], fold.test)).all()
    assert {key for key in fit.state().arrays if "/u " in key} == {"0/parameters/u 0"}
