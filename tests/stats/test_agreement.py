"""Second numbers, by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from parfocal.stats import balanced_accuracy, explained_variance, quadratic_kappa, spearman


def test_balanced_accuracy_counts_every_class_alike() -> None:
    # 3 of 4 and 0 of 1; the plain share would be 3 of 5.
    assert balanced_accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 0])) == pytest.approx(0.375)
    # 0 of 1 and 1 of 2; a class that is only said, not there, is no share.
    assert balanced_accuracy(np.array([0, 2, 2]), np.array([1, 2, 0])) == pytest.approx(0.25)


def test_with_two_classes_quadratic_kappa_is_cohens_in_a_textbook_example() -> None:
    """Two readers of 50 proposals: both yes 20, both no 15, yes-no 5, no-yes 10; observed .7, by chance .5."""
    first = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    second = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])

    assert quadratic_kappa(first, second, 2) == pytest.approx(0.4)


def test_a_far_mistake_weighs_four_times_a_near_one() -> None:
    label = np.array([0, 1, 2, 2])

    # Squared distances 1 and 4 in one of four cases each; by chance, over all 16 pairs of a label and a prediction:
    # predictions 0 1 1 2: (0+1+1+4) + (1+0+0+1) + 2 (4+1+1+0) = 20, a mean of 20/16 against 1/4.
    assert quadratic_kappa(label, np.array([0, 1, 1, 2]), 3) == pytest.approx(1 - (1 / 4) / (20 / 16))
    # predictions 0 1 0 2: (0+1+0+4) + (1+0+1+1) + 2 (4+1+4+0) = 26.
    assert quadratic_kappa(label, np.array([0, 1, 0, 2]), 3) == pytest.approx(1 - (4 / 4) / (26 / 16))
    assert np.isnan(quadratic_kappa(np.array([1, 1]), np.array([1, 1]), 3))


def test_saying_the_training_mean_explains_nothing_and_worse_is_negative() -> None:
    value = np.array([1.0, 2.0, 4.0])

    assert explained_variance(value, np.full(3, 2.5), 2.5) == 0
    assert explained_variance(value, value, 2.5) == 1
    # Errors 1, 2, 4 squared are 21; about 2.5 they are 2.25 + .25 + 2.25 = 4.75.
    assert explained_variance(value, np.zeros(3), 2.5) == pytest.approx(1 - 21 / 4.75)


def test_spearman_is_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30), rng.normal(size=30)

    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert np.isnan(spearman(np.ones(3), np.arange(3)))
