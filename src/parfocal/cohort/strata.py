"""What folds must hold evenly: classes, quarters of a number, events early and late."""

import numpy as np
from jaxtyping import Int64

from parfocal.cohort.outcome import Outcome

__all__ = ["strata"]


def strata(outcome: Outcome) -> Int64[np.ndarray, " slide"]:
    """The stratum of each slide, as a number from 0.

    Classes are strata themselves. Numbers are cut at their quartiles. Times are cut at the median of the events and
    at that of the censored ones, because a fold with late events only could not be ranked by risk.
    """
    if outcome.kind not in ("continuous", "survival"):
        return outcome.value.astype(np.int64)
    if outcome.kind == "continuous":
        return _cut(outcome.value, (0.25, 0.5, 0.75))
    result = 2 * outcome.event.astype(np.int64)
    for happened in (False, True):
        own = outcome.event == happened
        if own.any():
            result[own] += _cut(outcome.value[own], (0.5,))
    return result


def _cut(value: np.ndarray, at: tuple[float, ...]) -> Int64[np.ndarray, " slide"]:
    # The lower side takes ties: of 0, 0, 0, 1 the median is 0 and the one is above it.
    return np.searchsorted(np.quantile(value, at), value, side="left").astype(np.int64)
