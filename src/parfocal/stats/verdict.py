"""Whether a difference is shown: the one rule by which every table and every sentence says so."""

from typing import Literal

from parfocal.stats.interval import Interval, Number

Verdict = Literal["better", "worse", "open"]
"""What a comparison shows of its first side; open where chance can explain the difference at this size."""


def verdict(difference: Interval, p_value: Number = float("nan")) -> Verdict:
    """Better or worse where the interval leaves out 0 and the p-value is below what it leaves out, else open.

    Both are asked because they may be about different things: the interval is one comparison's, the p-value that after
    a correction for several.

    Args:
        difference: first minus second; one without ends leaves everything open.
        p_value: after correction; where it is NaN, because no test could be made, the interval decides.
    """
    # Rounded, for 1 - 0.95 is a little more than 0.05, and five times 0.01 is not below it.
    if not difference.has_ends or 0.0 in difference or p_value >= round(1 - difference.level, 12):
        return "open"
    return "better" if difference.low > 0 else "worse"
