"""Gated attention finds the rare instance that a mean drowns, and does not care about the order of instances."""

from dataclasses import replace
from typing import Any

import numpy as np

from parfocal.cohort import Cohort, make_splits
from parfocal.probes import ProbeSettings, fit_attention, fit_mean
from parfocal.report.statistics import auc

SETTINGS = ProbeSettings(components=(4, 8), inner_folds=3, attention_steps=120, attention_rate=0.01)


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
    cohort = Cohort("t", "1", "0", bag.slides, bag.slides, label)
    folds = make_splits(cohort, folds=3, repeats=1).folds(cohort, inner=3, seed=0)

    attention = fit_attention([bag], label, folds, SETTINGS)
    mean = fit_mean([bag], label, folds, SETTINGS)

    found = np.mean([auc(label[fold.test], one.logit) for fold, one in zip(folds, attention, strict=True)])
    drowned = np.mean([auc(label[fold.test], one.logit) for fold, one in zip(folds, mean, strict=True)])
    assert found > 0.9
    assert drowned < 0.7


def test_the_order_of_test_instances_does_not_matter(numbers: Any) -> None:
    folds = numbers.folds(numbers.kind)[:1]
    slide = int(folds[0].test[0])
    rows = numbers.fine.rows.copy()
    own = slice(int(numbers.fine.start[slide]), int(numbers.fine.start[slide + 1]))
    rows[own] = rows[own][::-1]

    before = fit_attention([numbers.fine], numbers.kind, folds, ProbeSettings(components=(4,), attention_steps=8))
    after = fit_attention(
        [replace(numbers.fine, rows=rows)], numbers.kind, folds, ProbeSettings(components=(4,), attention_steps=8)
    )

    np.testing.assert_allclose(before[0].logit, after[0].logit, atol=1e-5)


def test_bags_of_other_widths_make_one_union(numbers: Any) -> None:
    coarse = numbers.coarse
    narrow = replace(coarse, rows=coarse.rows[:, :5], mean=coarse.mean[:, :5], region_mean=coarse.region_mean[:, :5])
    folds = numbers.folds(numbers.kind)[:2]

    found = fit_attention([narrow, numbers.fine], numbers.kind, folds, ProbeSettings(attention_steps=4))

    assert [len(one.logit) for one in found] == [len(fold.test) for fold in folds]
