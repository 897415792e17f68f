"""What every probe gives back: something that scores slides, inside the evaluation and years later."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.heads.settings import FoldPrediction, ProbeSettings


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


Fit = Callable[[Sequence[Bag], Outcome, Sequence[Fold], ProbeSettings], list[FittedProbe]]
"""What every way to pool is: bags, outcome, folds, settings in; one probe for each fold out, fitted on its training
slides alone."""


def predict(fits: Sequence[FittedProbe], bags: Sequence[Bag], folds: Sequence[Fold]) -> list[FoldPrediction]:
    """What each fold's probe says about the slides that the fold holds out."""
    return [FoldPrediction(fit.score(bags, fold.test), fit.chosen) for fit, fold in zip(fits, folds, strict=True)]


def average_predictions(of_arms: Sequence[Sequence[FoldPrediction]]) -> list[FoldPrediction]:
    """Late fusion of several arms over the same folds: the mean of their scores, column by column."""
    return [
        FoldPrediction(
            np.mean([one.score for one in fold], axis=0), " | ".join(dict.fromkeys(one.chosen for one in fold))
        )
        for fold in zip(*of_arms, strict=True)
    ]
