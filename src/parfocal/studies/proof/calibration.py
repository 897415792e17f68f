"""Whether a predicted variance means what it says: how often the truth lies inside its intervals, and its ranking."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from scipy import stats

from parfocal.studies.proof.layout import Layout

__all__ = ["LEVELS", "Calibration", "calibrate"]

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Nominal shares of central intervals that are looked at."""


@dataclass(frozen=True)
class Calibration:
    """What a method's variance is worth at one magnification.

    Attributes:
        coverage: for each of `LEVELS`, the share of numbers that lie inside the interval of a normal law.
        spearman: rank correlation, over tiles, of the mean predicted variance with the mean squared error; NaN where
            all variances are equal.
        n_tiles: how many tiles were looked at.
    """

    coverage: tuple[float, ...]
    spearman: float
    n_tiles: int

    def at(self, nominal: float) -> float:
        """The coverage of one of `LEVELS`."""
        return self.coverage[LEVELS.index(nominal)]


def calibrate(
    predicted: Float32[np.ndarray, "region slot dim"],
    variance: Float32[np.ndarray, "region slot dim"],
    target: Float32[np.ndarray, "region slot dim"],
    hidden: Bool[np.ndarray, "region slot"],
    layout: Layout,
    level: int,
) -> Calibration | None:
    """Compare errors with variances over all hidden tiles of a magnification; None where there are fewer than two."""
    row, slot = np.nonzero(hidden & (layout.level == level))
    if len(row) < 2:
        return None
    dims = layout.dims[level]
    error = np.square(predicted[row, slot, :dims] - target[row, slot, :dims])
    variances = variance[row, slot, :dims]
    ratio = np.sqrt(error / np.maximum(variances, 1e-12))
    coverage = tuple(float((ratio <= stats.norm.ppf(0.5 + nominal / 2)).mean()) for nominal in LEVELS)
    of_tile = variances.mean(axis=1, dtype=np.float64)
    varies = np.ptp(of_tile) > 1e-6 * abs(float(of_tile.mean()))
    spearman = float(stats.spearmanr(of_tile, error.mean(axis=1, dtype=np.float64)).statistic) if varies else np.nan
    return Calibration(coverage, spearman, len(row))
