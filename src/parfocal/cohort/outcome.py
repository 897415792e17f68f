"""What is to be predicted of each slide: a class, an ordered class, a number, or a time with censoring.

Probes know three families of one-score models only. An `Outcome` says which scores it needs as `columns`: one for two
classes, one against the rest for each of several, "above this class" for each step of an ordered one (Frank and Hall
2001), one number, one log risk (Cox 1972). So a probe that can fit a column can predict every kind of outcome.

Beside it: whether a time is that of an event, in the words of the tables that people have, and what folds must hold
evenly (classes, quarters of a number, events early and late).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from parfocal.cohort.words import number_of, word_of

# cBioPortal writes 1:DECEASED and 0:LIVING; the number counts, and a word that says the reverse makes it neither.
_NUMBERED = re.compile(r"([01])\s*:\s*(.+)")
_YES = frozenset({"true", "yes", "dead", "deceased", "died", "event", "progressed", "recurred", "relapsed"})
_NO = frozenset(
    {"false", "no", "alive", "living", "censored", "no event", "not progressed", "disease free", "diseasefree"}
)


def happened(text: str) -> bool | None:
    """Whether the event was seen; None where the text does not say it plainly."""
    number = number_of(text)
    if number is not None:
        return bool(number) if number in (0, 1) else None
    word, numbered = word_of(text), _NUMBERED.fullmatch(text)
    if numbered is None:
        return True if word in _YES else False if word in _NO else None
    said, rest = numbered[1] == "1", word_of(numbered[2])
    return None if rest in (_NO if said else _YES) else said


def said_as_words(texts: Sequence[str]) -> str | None:
    """Which words were read as an event and which as none, in a sentence; None where all are 0 and 1."""
    words = Counter(text for text in texts if number_of(text) is None)
    if not words:
        return None
    seen = ", ".join(f'"{word}" {count}' for word, count in words.items() if happened(word))
    unseen = ", ".join(f'"{word}" {count}' for word, count in words.items() if not happened(word))
    return f"read as an event: {seen or 'no word'}; as censored: {unseen or 'no word'}."


OutcomeKind = Literal["binary", "multiclass", "ordinal", "continuous", "survival"]
Family = Literal["logistic", "linear", "cox"]


@dataclass(frozen=True, eq=False)
class Column:
    """What one score is fitted to.

    Attributes:
        name: the class, the step, or the target.
        family: `logistic` (the score is log odds), `linear` (the value itself), `cox` (log of the hazard's ratio).
        value: 0 or 1; the number; the time of the event or of censoring, in the unit of the labels, above 0.
        event: whether the time is an event's; all True where the family is not `cox`.
    """

    name: str
    family: Family
    value: Float64[np.ndarray, " slide"]
    event: Bool[np.ndarray, " slide"]

    def of(self, slides: Int64[np.ndarray, " picked"]) -> "Column":
        """The column of some slides, by their numbers and in that order."""
        return Column(self.name, self.family, self.value[slides], self.event[slides])

    def residual(self, weight: Float64[np.ndarray, "problem slide"]) -> Float64[np.ndarray, "problem slide"]:
        """What the model without any feature leaves unexplained, for each weighting of the slides.

        The value minus its weighted mean; for times the martingale residual, event - cumulative hazard
        (Nelson and Aalen's estimator over the weighted slides). It is what a score should correlate with. Where a
        weight is 0 the residual is 0.

        Args:
            weight: at least 0; 0 leaves a slide out.

        Raises:
            ValueError: a weighting leaves every slide out.
        """
        if not (weight.sum(axis=1) > 0).all():
            raise ValueError("every slide is left out")
        if self.family != "cox":
            mean = weight @ self.value / weight.sum(axis=1)
            left = self.value - mean[:, None]
        else:
            left = self.event - np.stack([self._hazard(one) for one in weight])
        return np.where(weight > 0, left, 0.0)

    def _hazard(self, weight: Float64[np.ndarray, " slide"]) -> Float64[np.ndarray, " slide"]:
        """Nelson and Aalen's cumulative hazard at each slide's own time."""
        times, place = np.unique(self.value, return_inverse=True)
        place = place.reshape(-1)
        events = np.bincount(place, weight * self.event, minlength=len(times))
        leaving = np.bincount(place, weight, minlength=len(times))
        at_risk = np.cumsum(leaving[::-1])[::-1]
        steps = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
        hazard: Float64[np.ndarray, " slide"] = np.cumsum(steps)[place]
        return hazard


@dataclass(frozen=True, eq=False)
class Outcome:
    """The label of every slide of a cohort, whatever its kind.

    Attributes:
        target: the label's column in the table.
        kind: binary, multiclass, ordinal, continuous or survival.
        classes: their names; binary: the negative one first; ordinal: in order; none for numbers and times.
        value: the class's number, the number, or the time.
        event: whether the time is an event's; all True for the other kinds.
    """

    target: str
    kind: OutcomeKind
    classes: tuple[str, ...]
    value: Float64[np.ndarray, " slide"]
    event: Bool[np.ndarray, " slide"]

    @staticmethod
    def binary(is_positive: Bool[np.ndarray, " slide"], *, target: str = "label") -> "Outcome":
        """Two classes, as True and False."""
        return Outcome(
            target, "binary", ("0", "1"), is_positive.astype(np.float64), np.ones(len(is_positive), dtype=bool)
        )

    def __len__(self) -> int:
        return len(self.value)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is fitted: one score each."""
        if self.kind == "binary":
            return (Column(self.classes[1], "logistic", self.value, self.event),)
        if self.kind == "multiclass":
            return tuple(
                Column(name, "logistic", (self.value == number).astype(np.float64), self.event)
                for number, name in enumerate(self.classes)
            )
        if self.kind == "ordinal":
            return tuple(
                Column(f"above {name}", "logistic", (self.value > number).astype(np.float64), self.event)
                for number, name in enumerate(self.classes[:-1])
            )
        family: Family = "linear" if self.kind == "continuous" else "cox"
        return (Column(self.target, family, self.value, self.event),)

    def of(self, slides: Int64[np.ndarray, " picked"]) -> "Outcome":
        """The outcome of some slides, by their numbers and in that order."""
        return Outcome(self.target, self.kind, self.classes, self.value[slides], self.event[slides])

    def rank_score(self, score: Float64[np.ndarray, "slide column"]) -> Float64[np.ndarray, " slide"]:
        """One number that rises with the outcome, from the scores of its columns.

        Binary: the log odds. Ordinal: the expected class, the sum of P(above). Continuous: the number. Survival: the
        log risk, which rises as the time falls.

        Raises:
            ValueError: the outcome is multiclass, which has no order.
        """
        if self.kind == "multiclass":
            raise ValueError(f"the classes of {self.target!r} have no order")
        if self.kind == "ordinal":
            return np.asarray((0.5 * (1 + np.tanh(0.5 * score))).sum(axis=1))
        return score[:, 0]


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
