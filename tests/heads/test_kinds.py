"""Closed-form probes predict every kind of outcome, choose by its own loss, and read no label of a test slide."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal.cohort import Column, Fold, Outcome
from parfocal.heads import FoldPrediction, ProbeSettings, fit_contrast, fit_mean, load_probe, predict
from parfocal.heads.regression import column_weight, held_out_loss
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(4, 8), lifted=(), inner_folds=3)
# Where it is asked what a fit depends on, and not how good it is.
QUICK = SETTINGS.model_copy(update={"components": (4,)})
KINDS = ("multiclass", "ordinal", "continuous", "survival")


def outcome_of(kind: str, numbers: Any) -> Outcome:
    """What the pairing and the main effect of the cohort say together."""
    rng = np.random.default_rng(0)
    pairing, main = numbers.pairing.astype(float), numbers.kind.astype(float)
    event = np.ones(len(pairing), dtype=bool)
    if kind == "multiclass":
        return Outcome("t", "multiclass", ("a", "b", "c", "d"), pairing + 2 * main, event)
    if kind == "ordinal":
        return Outcome("t", "ordinal", ("low", "middle", "high"), pairing + main, event)
    if kind == "continuous":
        return Outcome("t", "continuous", (), 500 + 40 * (pairing + main) + 5 * rng.standard_normal(len(main)), event)
    time = np.exp(-3 * (pairing + main)) * rng.exponential(1, len(main)) + 0.01
    return Outcome("t", "survival", (), time, rng.random(len(main)) < 0.8)


def scores(
    outcome: Outcome, numbers: Any, folds: Sequence[Fold], settings: ProbeSettings = SETTINGS
) -> list[FoldPrediction]:
    bags = [numbers.coarse, numbers.fine]
    return predict(fit_contrast(bags, outcome, folds, settings), bags, folds)


@pytest.mark.parametrize("kind", KINDS)
def test_pairing_and_main_effect_are_found_in_every_kind(kind: str, numbers: Any) -> None:
    outcome, folds = outcome_of(kind, numbers), numbers.folds(numbers.pairing)
    found = scores(outcome, numbers, folds)

    assert all(one.score.shape == (10, len(outcome.columns)) for one in found)
    if kind != "multiclass":
        for label in (numbers.pairing, numbers.kind):
            ranks = [
                auc(label[fold.test], outcome.rank_score(one.score)) for one, fold in zip(found, folds, strict=True)
            ]
            # Half of the outcome is the other one's: a perfect score has .75 in a fold of both halves.
            assert np.mean(ranks) > 0.62
    if kind == "multiclass":
        for number, column in enumerate(outcome.columns):
            truth = np.concatenate([column.value[fold.test] > 0 for fold in folds])
            assert auc(truth, np.concatenate([one.score[:, number] for one in found])) > 0.8
    if kind == "continuous":
        value = np.concatenate([outcome.value[fold.test] for fold in folds])
        left = value - np.concatenate([one.score[:, 0] for one in found])
        assert (left**2).mean() < 0.4 * value.var()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_the_test_fold_have_no_say_in_any_kind(kind: str, numbers: Any) -> None:
    outcome, fold = outcome_of(kind, numbers), numbers.folds(numbers.pairing)[0]
    value, event = outcome.value.copy(), outcome.event.copy()
    value[fold.test] = value[fold.test][::-1] if kind in ("multiclass", "ordinal") else 3.0
    event[fold.test] = ~event[fold.test] if kind == "survival" else event[fold.test]
    other = replace(outcome, value=value, event=event)

    before, after = (scores(one, numbers, [fold], QUICK)[0].score for one in (outcome, other))

    np.testing.assert_array_equal(before, after)


def test_a_probe_of_several_columns_survives_a_round_trip(numbers: Any) -> None:
    outcome, folds = outcome_of("multiclass", numbers), numbers.folds(numbers.pairing)[:1]
    bags = [numbers.coarse, numbers.fine]
    for probe in (fit_mean, fit_contrast):
        (fit,) = probe(bags, outcome, folds, QUICK)
        again = load_probe(fit.state())

        np.testing.assert_array_equal(again.score(bags, folds[0].test), fit.score(bags, folds[0].test))


def test_balanced_weights_make_both_classes_alike() -> None:
    column = Outcome.binary(np.arange(10) < 2).columns[0]

    weight = column_weight(column, balanced=True)

    assert weight[:2].sum() == pytest.approx(weight[2:].sum())
    assert weight.mean() == pytest.approx(1)
    np.testing.assert_array_equal(column_weight(column, balanced=False), 1)


def test_balanced_scores_of_a_rare_class_have_no_base_rate(numbers: Any) -> None:
    rare = numbers.kind & (np.arange(40) % 8 == 0)
    outcome, folds = Outcome.binary(rare), numbers.folds(rare, folds=2)
    means = []
    for balanced in (False, True):
        settings = SETTINGS.model_copy(update={"balanced": balanced})
        found = predict(fit_mean([numbers.fine], outcome, folds, settings), [numbers.fine], folds)
        means.append(np.mean([one.score.mean() for one in found]))

    # 5 of 40: the log odds of the base rate are -1.9, those of two classes alike are 0.
    assert means[0] < -1
    assert means[1] > means[0] + 0.8


def test_losses_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    inner, event = np.repeat([0, 1], 6), rng.random(12) < 0.7
    score = rng.standard_normal((2, 12))
    number = Column("t", "linear", rng.standard_normal(12), np.ones(12, dtype=bool))
    time = Column("t", "cox", rng.exponential(1, 12), event)

    squared = held_out_loss(score, number, inner, balanced=False)
    partial = held_out_loss(score, time, inner, balanced=False)

    np.testing.assert_allclose(squared, ((score - number.value) ** 2).mean(axis=1) / number.value.var())
    for row, found in zip(score, partial, strict=True):
        total = 0.0
        for slide in np.flatnonzero(event):
            at_risk = (time.value >= time.value[slide]) & (inner == inner[slide])
            total += np.log(np.exp(row[at_risk]).sum()) - row[slide]
        assert found == pytest.approx(total / event.sum())
    # Two models' log risks have no common zero.
    np.testing.assert_allclose(held_out_loss(score + 7 * inner, time, inner, balanced=False), partial)
