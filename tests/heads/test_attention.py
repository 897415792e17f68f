"""Gated attention finds the rare instance that a mean drowns, and does not care about the order of instances."""

from dataclasses import replace
from typing import Any

import numpy as np

from parfocal.cohort import Cohort, Outcome, make_splits
from parfocal.heads import Fit, ProbeSettings, fit_attention, fit_mean, predict
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(8,), inner_folds=3, attention_steps=120, attention_rate=0.01, growth=1)
QUICK = ProbeSettings(components=(4,), attention_steps=8, growth=1)


def test_a_rare_instance_is_found(numbers: Any) -> None:
    rng = np.random.default_rng(0)
    n, per, dim = 60, 24, 8
    label = np.arange(n) % 2 == 0
    rows = rng.standard_normal((n, per, dim)).astype(np.float32)
    # One instance of 24 stands far out in positive slides; in negative ones it is balanced by an opposite drift of
    # all others, so that means know nothing.
    rows[label, 0, 0] += 8
    rows[~label, :, 0] += 8 / per
    flat = rows.reshape(-1, dim)
    bag = replace(
        numbers.fine,
        slides=tuple(f"s{number:02d}" for number in range(n)),
        rows=flat,
        start=np.arange(0, n * per + 1, per, dtype=np.int64),
        n_instances=np.full(n, per),
        mean=rows.mean(axis=1),
        region_mean=flat,
        region_start=np.arange(0, n * per + 1, per, dtype=np.int64),
        region_present=np.ones(n * per, dtype=bool),
    )
    outcome = Outcome.binary(label)
    cohort = Cohort(bag.slides, bag.slides, outcome)
    folds = make_splits(cohort, folds=3, repeats=1).folds(cohort, inner=3, seed=0)[:2]

    def found(fit: Fit) -> float:
        predictions = predict(fit([bag], outcome, folds, SETTINGS), [bag], folds)
        return float(
            np.mean([auc(label[fold.test], one.score[:, 0]) for fold, one in zip(folds, predictions, strict=True)])
        )

    assert found(fit_attention) > 0.9
    assert found(fit_mean) < 0.7


def test_the_order_of_instances_does_not_matter(numbers: Any) -> None:
    folds = numbers.folds(numbers.kind)[:1]
    (fit,) = fit_attention([numbers.fine], Outcome.binary(numbers.kind), folds, QUICK)
    rows = numbers.fine.rows.copy()
    for slide in folds[0].test:
        own = slice(int(numbers.fine.start[slide]), int(numbers.fine.start[slide + 1]))
        rows[own] = rows[own][::-1]

    before = fit.score([numbers.fine], folds[0].test)
    after = fit.score([replace(numbers.fine, rows=rows)], folds[0].test)

    np.testing.assert_allclose(before, after, atol=1e-5)


def test_bags_of_other_widths_make_one_union(numbers: Any) -> None:
    coarse = numbers.coarse
    narrow = replace(coarse, rows=coarse.rows[:, :5], mean=coarse.mean[:, :5], region_mean=coarse.region_mean[:, :5])
    folds = numbers.folds(numbers.kind)[:2]
    bags = [narrow, numbers.fine]

    fits = fit_attention(bags, Outcome.binary(numbers.kind), folds, QUICK)

    for fit, fold in zip(fits, folds, strict=True):
        score = fit.score(bags, fold.test)
        assert score.shape == (len(fold.test), 1)
        assert np.isfinite(score).all()
