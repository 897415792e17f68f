"""Agreement of a risk score with times that are partly censored."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

__all__ = ["Concordance", "harrell_concordance"]


@dataclass(frozen=True)
class Concordance:
    """Harrell's C and the pairs behind it."""

    value: float
    concordant: int
    discordant: int
    tied_risk: int

    @property
    def comparable(self) -> int:
        """Number of pairs that say anything."""
        return self.concordant + self.discordant + self.tied_risk


def harrell_concordance(
    time: Shaped[np.ndarray, "case"], event: Shaped[np.ndarray, "case"], risk: Shaped[np.ndarray, "case"]
) -> Concordance:
    """The share of comparable pairs in which the higher risk has the earlier event; a tied risk counts a half.

    A pair is comparable when the case with the earlier time had its event, or when the times are equal and only one of
    the two had it (the other was seen to live longer). Two events at one time say nothing.

    Args:
        time: time of the event or of the last look, in any unit, not negative.
        event: 1 where the event was seen, 0 where the case is censored.
        risk: larger means earlier.

    Raises:
        ValueError: no comparable pair, a negative time, an event that is not 0/1, or a number that is not finite.
    """
    times = np.asarray(time, dtype=np.float64)
    risks = np.asarray(risk, dtype=np.float64)
    if not (np.isfinite(times).all() and np.isfinite(risks).all()) or (times < 0).any():
        raise ValueError("times and risks must be finite, and times not negative")
    if not np.isin(event, (0, 1)).all():
        raise ValueError("events are 1 (seen) or 0 (censored)")
    seen = np.asarray(event, dtype=bool)
    concordant = discordant = tied = 0
    # One row at a time: a matrix of all pairs of 20,000 cases would be 400 MB.
    for case in np.flatnonzero(seen):
        later = (times > times[case]) | ((times == times[case]) & ~seen)
        concordant += int((risks[later] < risks[case]).sum())
        discordant += int((risks[later] > risks[case]).sum())
        tied += int((risks[later] == risks[case]).sum())
    comparable = concordant + discordant + tied
    if not comparable:
        raise ValueError(f"no two of the {len(times)} cases can be compared: {int(seen.sum())} events were seen")
    return Concordance((concordant + tied / 2) / comparable, concordant, discordant, tied)
