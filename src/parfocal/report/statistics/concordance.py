"""How well a score ranks cases whose labels have an order: the share of pairs that stand the right way round.

Every number here is 0.5 for a score that knows nothing and 1 for one that is never wrong, so that kinds of labels can
stand in one table: of two classes it is the AUC, of times with censoring Harrell's concordance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from parfocal.report.statistics.auc import auc

__all__ = ["RankedPairs", "concordance", "one_against_rest_auc", "ordered_pairs", "time_pairs"]

_BLOCK = 512  # rows of the matrix of all pairs at a time


def concordance(value: Shaped[np.ndarray, " case"], score: Shaped[np.ndarray, " case"]) -> float:
    """The share of pairs with different values in which the higher value has the higher score; a tie counts a half.

    With two values it is the AUC; it is (1 + Somers' D of the score given the value) / 2.

    Raises:
        ValueError: all values are the same, or a number is not finite.
    """
    values, scores = np.asarray(value, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if not (np.isfinite(values).all() and np.isfinite(scores).all()):
        raise ValueError("values and scores of a concordance must be finite")
    won, pairs = 0.0, 0
    for start in range(0, len(values), _BLOCK):
        rows = slice(start, start + _BLOCK)
        above = values[rows, None] > values
        pairs += int(above.sum())
        won += float(
            (above & (scores[rows, None] > scores)).sum() + 0.5 * (above & (scores[rows, None] == scores)).sum()
        )
    if not pairs:
        raise ValueError(f"a concordance needs two different values; all {len(values)} cases have the same")
    return won / pairs


def one_against_rest_auc(
    label: Int64[np.ndarray, " case"], score: Shaped[np.ndarray, "case label"], classes: Sequence[int] | None = None
) -> float:
    """The mean over classes of the AUC of a class's own score against all other cases.

    Every class counts alike, however rare. A class that no case has, or that all have, is left out.

    Args:
        label: the number of each case's class.
        score: one score for each class.
        classes: which to average; all where None.

    Raises:
        ValueError: fewer than two classes are there.
    """
    wanted = range(score.shape[1]) if classes is None else classes
    areas = [auc(label == one, score[:, one]) for one in wanted if 0 < int((label == one).sum()) < len(label)]
    if not areas:
        raise ValueError(f"a mean AUC needs cases of two classes; all {len(label)} cases are of one")
    return float(np.mean(areas))


def ordered_pairs(value: Shaped[np.ndarray, " case"]) -> Bool[np.ndarray, "case case"]:
    """Where the row's value is above the column's, so that its score should be too."""
    return np.asarray(value[:, None] > value)


def time_pairs(time: Shaped[np.ndarray, " case"], event: Shaped[np.ndarray, " case"]) -> Bool[np.ndarray, "case case"]:
    """Where the row's event was seen before the column's time, or at it and the column is censored."""
    seen = np.asarray(event, dtype=bool)
    later = (time[:, None] < time) | ((time[:, None] == time) & ~seen)
    return np.asarray(later & seen[:, None])


@dataclass(frozen=True, eq=False)
class RankedPairs:
    """All pairs of a set of cases that say something, and which of them a score ranks right.

    It answers for cases that count several times or not at all, as a bootstrap draws them, by two products with a
    matrix in place of comparing all pairs again.

    Attributes:
        comparable: 1 where the row should score above the column.
        won: of these, 1 where it does, a half at a tie.
    """

    comparable: Float32[np.ndarray, "case case"]
    won: Float32[np.ndarray, "case case"]

    @staticmethod
    def of(pairs: Bool[np.ndarray, "case case"], score: Shaped[np.ndarray, " case"]) -> "RankedPairs":
        """The pairs with what a score makes of them."""
        comparable = pairs.astype(np.float32)
        right = (score[:, None] > score).astype(np.float32) + np.float32(0.5) * (score[:, None] == score)
        return RankedPairs(comparable, comparable * right)

    def share(self, weight: Float32[np.ndarray, "draw case"]) -> Float64[np.ndarray, " draw"]:
        """The share of pairs that stand right for each row of weights, a pair as often as its two cases together.

        0.5 where a row leaves no pair.
        """
        pairs = np.einsum("dc,dc->d", weight @ self.comparable, weight, dtype=np.float64)
        won = np.einsum("dc,dc->d", weight @ self.won, weight, dtype=np.float64)
        return np.asarray(np.divide(won, pairs, out=np.full_like(won, 0.5), where=pairs > 0))
