"""An estimate with its interval, the one result that every statistic of this folder gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped

# Where people write 1 for 1.0; and a short list written by hand, or an array.
Number = float | int
Numbers = Sequence[Number] | Shaped[np.ndarray, "_"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the true value with probability `level`, by `method`."""

    estimate: Number
    low: Number
    high: Number
    level: Number = 0.95
    method: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.estimate <= self.high:
            raise ValueError(f"an interval holds its estimate; got {self.low} to {self.high} about {self.estimate}")

    def __contains__(self, value: Number) -> bool:
        return bool(self.low <= value <= self.high)

    @property
    def half_width(self) -> float:
        """Half of the distance between the two ends."""
        return (self.high - self.low) / 2

    @property
    def has_ends(self) -> bool:
        """Whether anything is known of how far the true value may lie: too few units have an infinite interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def clipped(self, lowest: Number, highest: Number) -> "Interval":
        """The same interval with its ends moved into the range that the quantity can have; itself without ends."""
        if not self.has_ends:
            return self
        return Interval(self.estimate, max(self.low, lowest), min(self.high, highest), self.level, self.method)

    def to_dict(self) -> dict[str, Number | str]:
        """The five fields, for JSON and CSV."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "method": self.method,
        }


def finite_numbers(values: Numbers, what: str, at_least: int = 1) -> Float64[np.ndarray, "_"]:
    """The values as a float64 vector.

    Raises:
        ValueError: fewer than `at_least` values, or one that is not finite: a fold without an AUC has to be left out,
            and counted, by whoever made the folds.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < at_least:
        raise ValueError(f"{what}: a vector of at least {at_least} values is needed, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: {int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
    return array


def rule_of_three(n_patients: int, level: float = 0.95) -> float:
    """The largest share of patients that can still be otherwise when none of `n_patients` was.

    Two-sided and exact, (1 - share)^n = (1 - level)/2: about 3.7/n at 95 %, where the one-sided rule has 3/n.
    """
    if n_patients < 1:
        raise ValueError(f"the rule of three needs a patient, got {n_patients}")
    return float(1 - ((1 - level) / 2) ** (1 / n_patients))
