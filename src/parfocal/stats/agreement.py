"""How near predictions come to labels, beside how well they rank: classes, ordered classes and numbers."""

import numpy as np
from jaxtyping import Int64, Shaped
from scipy import stats
from sklearn import metrics


def balanced_accuracy(label: Int64[np.ndarray, " case"], predicted: Int64[np.ndarray, " case"]) -> float:
    """The mean over the classes that are there of the share of their cases that is called right."""
    return float(metrics.recall_score(label, predicted, labels=np.unique(label), average="macro", zero_division=0))


def quadratic_kappa(label: Int64[np.ndarray, " case"], predicted: Int64[np.ndarray, " case"], n_classes: int) -> float:
    """Cohen's kappa with quadratic weights: 1 - mean squared distance over that of labels and predictions unpaired.

    1 is agreement, 0 what the two margins give by chance. NaN where labels and predictions are one and the same class
    throughout, which leaves nothing to agree on.
    """
    if len(np.unique(np.concatenate([label, predicted]))) < 2:
        return float("nan")
    return float(metrics.cohen_kappa_score(label, predicted, labels=np.arange(n_classes), weights="quadratic"))


def explained_variance(
    value: Shaped[np.ndarray, " case"], predicted: Shaped[np.ndarray, " case"], baseline: float
) -> float:
    """R2: 1 - squared error over the squared error of always saying `baseline`; below 0 where that is the better guess.

    The baseline is the mean of the training cases: a mean of the test cases would be known to nobody beforehand.
    """
    spread = float(((value - baseline) ** 2).sum())
    return 1 - float(((value - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")


def spearman(value: Shaped[np.ndarray, " case"], predicted: Shaped[np.ndarray, " case"]) -> float:
    """The correlation of ranks, ties with their mean rank; NaN where either does not vary."""
    if np.ptp(value) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(stats.spearmanr(value, predicted).statistic)
