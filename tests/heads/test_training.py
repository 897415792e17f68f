"""What holds for every network: saved is loaded, columns and slides do not know of each other, tiny cohorts work."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal.cohort import Fold, Outcome
from parfocal.heads import (
    Fit,
    ProbeSettings,
    fit_attention,
    fit_bilinear,
    fit_mlp,
    fit_region_mlp,
    load_probe,
    training,
)

NETWORKS = [fit_attention, fit_mlp, fit_region_mlp, fit_bilinear]
QUICK = ProbeSettings(components=(4,), attention_steps=4, mlp_steps=4, bilinear_steps=4, growth=1)
ALL = np.arange(40)


@pytest.mark.parametrize("fit", NETWORKS)
def test_a_saved_and_loaded_network_gives_the_same_bits(fit: Fit, numbers: Any) -> None:
    bags, outcome = [numbers.coarse, numbers.fine], several(numbers)
    (fitted,) = fit(bags, outcome, numbers.folds(numbers.kind)[:1], QUICK)

    loaded = load_probe(fitted.state())

    assert loaded.chosen == fitted.chosen
    np.testing.assert_array_equal(loaded.score(bags, ALL), fitted.score(bags, ALL))


@pytest.mark.parametrize("fit", NETWORKS)
def test_a_slide_is_scored_the_same_alone_and_among_others(fit: Fit, numbers: Any) -> None:
    bags = [numbers.coarse, numbers.fine]
    (fitted,) = fit(bags, Outcome.binary(numbers.kind), numbers.folds(numbers.kind)[:1], QUICK)

    together = fitted.score(bags, np.array([3, 7, 5]))
    alone = fitted.score([bag.of_slides([7]) for bag in bags], np.array([0]))

    np.testing.assert_array_equal(together[1], alone[0])


@pytest.mark.parametrize("fit", NETWORKS)
def test_a_column_does_not_depend_on_the_others(fit: Fit, numbers: Any) -> None:
    bags, outcome = [numbers.coarse, numbers.fine], several(numbers)
    folds = numbers.folds(numbers.kind)[:2]

    together = fit(bags, outcome, folds, QUICK)[1].score(bags, ALL)
    alone = fit(bags, Outcome.binary(outcome.value == 1), folds, QUICK)[1].score(bags, ALL)

    # Float32 products of other blocks.
    np.testing.assert_allclose(together[:, 1], alone[:, 0], atol=1e-4)


@pytest.mark.parametrize("fit", NETWORKS)
def test_folds_that_do_not_fit_into_memory_are_trained_one_after_the_other(
    fit: Fit, numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags, outcome, folds = [numbers.coarse, numbers.fine], Outcome.binary(numbers.kind), numbers.folds(numbers.kind)[:2]
    together = [one.score(bags, ALL) for one in fit(bags, outcome, folds, QUICK)]

    monkeypatch.setattr(training, "_MOST_BYTES", 1)
    alone = [one.score(bags, ALL) for one in fit(bags, outcome, folds, QUICK)]

    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("fit", NETWORKS)
def test_labels_and_vectors_of_a_test_fold_have_no_say_though_other_folds_learn_from_them(
    fit: Fit, numbers: Any
) -> None:
    folds = numbers.folds(numbers.kind)[:2]
    bags, label, moved = [numbers.coarse, numbers.fine], numbers.kind.copy(), numbers.fine.mean.copy()
    regions, rows = numbers.fine.region_mean.copy(), numbers.fine.rows.copy()
    label[folds[0].test] = ~label[folds[0].test]
    for slide in map(int, folds[0].test):
        moved[slide] *= -3
        regions[numbers.fine.regions_of(slide)] *= -3
        rows[numbers.fine.start[slide] : numbers.fine.start[slide + 1]] *= -3
    other = [numbers.coarse, replace(numbers.fine, mean=moved, region_mean=regions, rows=rows)]

    before = fit(bags, Outcome.binary(numbers.kind), folds, QUICK)
    after = fit(other, Outcome.binary(label), folds, QUICK)

    assert after[0].chosen == before[0].chosen
    # 1e-5: float32 products of other blocks.
    np.testing.assert_allclose(after[0].score(bags, ALL), before[0].score(bags, ALL), atol=1e-5)


@pytest.mark.parametrize("fit", NETWORKS)
def test_the_unit_of_a_number_does_not_matter(fit: Fit, numbers: Any) -> None:
    bags, folds = [numbers.coarse, numbers.fine], numbers.folds(numbers.kind)[:1]
    value = numbers.kind + np.linspace(0, 1, 40)

    (small,) = fit(bags, continuous(value), folds, QUICK)
    (large,) = fit(bags, continuous(1000 + 50 * value), folds, QUICK)

    np.testing.assert_allclose(1000 + 50 * small.score(bags, ALL), large.score(bags, ALL), rtol=1e-5)


@pytest.mark.parametrize("fit", NETWORKS)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "continuous", "survival"])
def test_ten_slides_with_a_class_of_two_can_be_fitted(fit: Fit, kind: str, draw_numbers: Callable[..., Any]) -> None:
    numbers = draw_numbers(n=10, n_regions=3)
    value = np.array([1.0, 1, 2, 2, 2, 2, 2, 2, 2, 2]) if kind != "binary" else np.arange(10) < 2.0
    outcome = Outcome("t", kind, ("a", "b", "c"), value.astype(np.float64), np.arange(10) == 5)  # type: ignore[arg-type]
    # One inner fold holds no slide of the small class, and one no event.
    fold = Fold(0, 0, np.arange(8), np.array([8, 9]), np.array([0, 0, 1, 1, 1, 2, 2, 2]))

    (fitted,) = fit([numbers.coarse, numbers.fine], outcome, [fold], QUICK.model_copy(update={"balanced": True}))

    assert np.isfinite(fitted.score([numbers.coarse, numbers.fine], fold.test)).all()


@pytest.mark.parametrize("fit", NETWORKS)
def test_a_value_that_never_changes_can_be_fitted(fit: Fit, numbers: Any) -> None:
    bags = [numbers.coarse, numbers.fine]

    (fitted,) = fit(bags, continuous(np.full(40, 7.0)), numbers.folds(numbers.kind)[:1], QUICK)

    np.testing.assert_allclose(fitted.score(bags, ALL), 7.0, atol=3)


def test_training_that_diverges_says_what_to_change(numbers: Any) -> None:
    steep = QUICK.model_copy(update={"mlp_rate": 1e30})

    with pytest.raises(FloatingPointError, match="lower its learning rate"):
        fit_mlp([numbers.coarse], Outcome.binary(numbers.kind), numbers.folds(numbers.kind)[:1], steep)


def several(numbers: Any) -> Outcome:
    """Three classes."""
    value = numbers.kind.astype(np.float64) + numbers.pairing
    return Outcome("t", "multiclass", ("a", "b", "c"), value, np.ones(40, dtype=bool))


def continuous(value: np.ndarray) -> Outcome:
    return Outcome("t", "continuous", (), value, np.ones(len(value), dtype=bool))
