"""Training slides that are shown more than once: the numbers, labels and folds of the showings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from parfocal.cohort import Fold, Outcome
from parfocal.heads import FoldPrediction


class Showings(ABC):
    """Every slide is shown equally often; its showings follow each other, the whole slide first.

    Those of one slide have its label and lie in its fold, outer and inner.
    """

    @property
    @abstractmethod
    def times(self) -> int:
        """How often a slide is shown."""

    def outcome(self, outcome: Outcome) -> Outcome:
        """The label of every showing."""
        return outcome.of(np.repeat(np.arange(len(outcome)), self.times))

    def fold(self, fold: Fold) -> Fold:
        """The fold with every showing of its slides in place of the slide."""
        train, test = self._showings(fold.train), self._showings(fold.test)
        return replace(fold, train=train, test=test, inner=np.repeat(fold.inner, self.times))

    def of_showing(self, predictions: Sequence[FoldPrediction], number: int) -> list[FoldPrediction]:
        """What is said of the test slides in one of their showings."""
        return [replace(one, score=one.score[number :: self.times]) for one in predictions]

    def _showings(self, slides: Int64[np.ndarray, " slide"]) -> Int64[np.ndarray, " showing"]:
        """The numbers of all showings of some slides."""
        return (slides[:, None] * self.times + np.arange(self.times)).ravel()
