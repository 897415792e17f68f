import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from parfocal.lab.synthetic.ceilings import auc, auc_of_laws


def test_auc_counts_ties_half() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 200).astype(float)
    positive = rng.random(200) < 0.3

    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_auc_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="0 negatives"):
        auc(np.zeros(3), np.ones(3, dtype=bool))


def test_auc_of_laws_is_the_auc_of_samples_scored_by_their_likelihood_ratio() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.dirichlet(np.ones(7), 2)
    ratio = np.log(positive / negative)
    outcomes = [rng.choice(7, 40_000, p=law) for law in (positive, negative)]

    sampled = auc(ratio[np.concatenate(outcomes)], np.repeat([True, False], 40_000))

    assert auc_of_laws(positive, negative) == pytest.approx(sampled, abs=0.01)  # standard error below .002


def test_auc_of_disjoint_and_of_equal_laws() -> None:
    assert auc_of_laws(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert auc_of_laws(np.array([0.3, 0.7, 0.0]), np.array([0.3, 0.7, 0.0])) == 0.5
