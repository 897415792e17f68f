"""Where the usual ends: at distances of patients from slides to which they do not belong, with a rate that is held.

Of a patient who is like those of the training cohort, the distance of the furthest slide is as likely to have any rank
among theirs as any other. So of n patients a slide may be called outside where it is further than all but k - 1 of
them: of new patients like these, k in n + 1 have such a slide (a conformal test). No fewer than 1 in n + 1 can be
promised, whatever is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

__all__ = ["FALSE_ALARMS", "Limit", "furthest_of_each"]

FALSE_ALARMS = 0.05
"""The share of new patients, like those of training, of whom a slide is called outside; where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Limit:
    """The distances of patients from what is usual in others.

    Attributes:
        patients: the distance of the furthest slide of each patient, sorted, by measures fitted without the patient.
        asked: the rate of false alarms that was asked for; None where only a cut is known, as of a head that an older
            parfocal has fitted.
    """

    patients: Float64[np.ndarray, " patient"]
    asked: float | None

    @property
    def n(self) -> int:
        """How many patients there are."""
        return len(self.patients)

    @property
    def smallest_rate(self) -> float:
        """The smallest rate of false alarms that so many patients can hold; NaN where only a cut is known."""
        return float("nan") if self.asked is None else 1 / (self.n + 1)

    @property
    def rate(self) -> float:
        """The rate that is held: the one that was asked for, to the next smaller one that can be, if there is one."""
        return self._place * self.smallest_rate

    @property
    def cut(self) -> float:
        """The distance beyond which a slide is outside."""
        return float(self.patients[-self._place])

    def rank(self, distance: float) -> int | None:
        """The place of a slide among the patients and itself, 1 where it is further than all; None without patients."""
        if self.asked is None:
            return None
        return 1 + int((self.patients >= distance).sum())

    def sentence(self, patients: str = "patients") -> str:
        """The rate, what it rests on, and the smallest one that so many can hold; that none is known of a mere cut.

        Args:
            patients: what they are called; slides where nothing says whose they are.
        """
        if self.asked is None:
            return "how often that is a mistake is not known: an older parfocal has fitted this head; fit it again"
        said = f"of new {patients} like the {self.n} of training, {self.rate:.2g} are called outside by mistake"
        least = f"the smallest rate that {self.n} {patients} can hold is {self.smallest_rate:.2g}, 1 in {self.n + 1}"
        return f"{said}; {least}"

    @cached_property
    def _place(self) -> int:
        # 1e-9: the twentieth of 19 + 1 is no less for being written as 0.05 * 20.
        return 1 if self.asked is None else max(1, int(np.floor(self.asked * (self.n + 1) + 1e-9)))


def furthest_of_each(distance: Sequence[float], groups: Sequence[str]) -> Float64[np.ndarray, " patient"]:
    """The largest distance of each group's slides, sorted."""
    largest: dict[str, float] = {}
    for one, group in zip(distance, groups, strict=True):
        largest[group] = max(one, largest.get(group, -np.inf))
    return np.sort(np.array(list(largest.values())))
