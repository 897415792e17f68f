"""How well a score ranks cases whose labels have an order: the share of pairs that stand the right way round.

Every number here is 0.5 for a score that knows nothing and 1 for one that is never wrong, so that kinds of labels can
stand in one table: of two classes it is the AUC, of times with censoring Harrell's concordance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

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
    share = tally_order(values, scores).share
    if np.isnan(share):
        raise ValueError(f"a concordance needs two different values; all {len(values)} cases have the same")
    return share


_ALL = slice(None)


def ordered_pairs(value: Shaped[np.ndarray, " case"], rows: slice = _ALL) -> Bool[np.ndarray, "row case"]:
    """Where the row's value is above the column's, so that its score should be too; for all rows or some."""
    return np.asarray(value[rows, None] > value)


def time_pairs(
    time: Shaped[np.ndarray, " case"], event: Shaped[np.ndarray, " case"], rows: slice = _ALL
) -> Bool[np.ndarray, "row case"]:
    """Where the row's event was seen before the column's time, or at it and the column is censored."""
    seen = np.asarray(event, dtype=bool)
    later = (time[rows, None] < time) | ((time[rows, None] == time) & ~seen)
    return np.asarray(later & seen[rows, None])


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


@dataclass(frozen=True, eq=False)
class PairTally:
    """How many pairs each case is in, and how many of them a score ranks right; a tie counts a half.

    Attributes:
        won: of each case.
        pairs: of each case that can be ranked by their labels.
    """

    won: Float64[np.ndarray, " case"]
    pairs: Float64[np.ndarray, " case"]

    @property
    def n_pairs(self) -> int:
        """Number of pairs; every one is in the tally of two cases."""
        return int(self.pairs.sum()) // 2

    @property
    def share(self) -> float:
        """The share of pairs that are ranked right; NaN where there is none."""
        total = float(self.pairs.sum())
        return float(self.won.sum()) / total if total else float("nan")

    def excess(self, expected: float) -> Float64[np.ndarray, " case"]:
        """How far each case moves the share: what it wins beyond the expected share of its pairs, over all pairs.

        With the share itself it is the derivative of the share by the case's weight, and adds up to zero.
        """
        return np.asarray((self.won - expected * self.pairs) / self.n_pairs)


def tally_classes(is_positive: Shaped[np.ndarray, " case"], score: Shaped[np.ndarray, " case"]) -> PairTally:
    """The pairs of a positive and a negative case, by places among the sorted scores of the other class."""
    truth = np.asarray(is_positive, dtype=bool)
    won, pairs = np.empty(len(truth)), np.empty(len(truth))
    for own in (truth, ~truth):
        others = np.sort(score[~own])
        below = np.searchsorted(others, score[own], "left") + np.searchsorted(others, score[own], "right")
        pairs[own] = len(others)
        won[own] = below / 2
    return PairTally(np.where(truth, won, pairs - won), pairs)


def tally_order(value: Shaped[np.ndarray, " case"], score: Shaped[np.ndarray, " case"]) -> PairTally:
    """The pairs of different values; the higher one should score higher."""
    return _tally(lambda rows: ordered_pairs(value, rows), score)


def tally_times(
    time: Shaped[np.ndarray, " case"], event: Shaped[np.ndarray, " case"], risk: Shaped[np.ndarray, " case"]
) -> PairTally:
    """The pairs of which one is known to have had the event first; it should have the higher risk."""
    return _tally(lambda rows: time_pairs(time, event, rows), risk)


def _tally(above: Callable[[slice], Bool[np.ndarray, "row case"]], score: Shaped[np.ndarray, " case"]) -> PairTally:
    """Count pairs by rows, because a matrix of all pairs of 20,000 cases would be 400 MB."""
    won, pairs = np.zeros((2, len(score)))
    for start in range(0, len(score), _BLOCK):
        rows = slice(start, start + _BLOCK)
        asked = above(rows)
        right = asked * ((score[rows, None] > score) + 0.5 * (score[rows, None] == score))
        for total, counted in ((won, right), (pairs, asked)):
            total[rows] += counted.sum(axis=1)
            total += counted.sum(axis=0)
    return PairTally(won, pairs)
