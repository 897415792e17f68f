"""What every probe gives back: something that scores slides, inside the evaluation and years later."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.bags import Bag

__all__ = ["FittedProbe", "ProbeState"]


@dataclass(frozen=True, eq=False)
class ProbeState:
    """A fitted probe as plain data: arrays by name, and facts that JSON can hold.

    Attributes:
        probe: the name that `load_probe` knows it by, such as `mean`.
        facts: settings and choices.
        arrays: the numbers.
    """

    probe: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class FittedProbe(ABC):
    """A probe fitted on the training slides of one fold; it holds all it needs but the bags."""

    @property
    @abstractmethod
    def chosen(self) -> str:
        """The candidate that the inner folds preferred, for people to read."""

    @abstractmethod
    def score(self, bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"]) -> Float64[np.ndarray, "picked column"]:
        """The score of each column of the outcome for some slides, by their numbers in the bags.

        Only rows of these slides are read, so it is the same whatever other slides the bags hold.

        Args:
            bags: of the kinds it was fitted on, in that order.
            slides: numbers.
        """

    @abstractmethod
    def state(self) -> ProbeState:
        """All of it as plain data."""
