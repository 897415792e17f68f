"""Area under the ROC curve, of samples and of exact laws."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

__all__ = ["auc", "auc_of_laws"]


def auc(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """Chance that a positive scores above a negative; ties count half.

    Raises:
        ValueError: a class is empty.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise ValueError(f"an AUC needs both classes; there are {n_positive} positives and {n_negative} negatives")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auc_of_laws(positive: Float[np.ndarray, "outcome"], negative: Float[np.ndarray, "outcome"]) -> float:
    """The AUC of the best observer of a discrete outcome: its score is the likelihood ratio.

    Args:
        positive: probability of each outcome in the positive class.
        negative: the same in the negative class.
    """
    possible = (positive > 0) | (negative > 0)
    positive, negative = positive[possible], negative[possible]
    with np.errstate(divide="ignore"):
        ratio = np.log(positive) - np.log(negative)
    # Outcomes with one likelihood ratio are a tie; rounding keeps equal ratios together that differ in the last bits.
    _, group = np.unique(np.round(ratio, 9), return_inverse=True)
    mass_positive = np.bincount(group, positive)
    mass_negative = np.bincount(group, negative)
    below = np.cumsum(mass_negative) - mass_negative
    return float((mass_positive * (below + mass_negative / 2)).sum() / (positive.sum() * negative.sum()))
