"""Which slide belongs to whom and has which label."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.cohort.classes import outcome_as, outcome_of
from parfocal.cohort.outcome import Outcome, said_as_words
from parfocal.cohort.patients import PatientRule
from parfocal.cohort.reading import LabelledSlides, matched, one_site_each, read_labels
from parfocal.cohort.settings import CohortColumns, CountedBy, LabelColumns, Target
from parfocal.cohort.words import class_name, decimal_points, number_then_name, show_words
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.table import some_of
from parfocal.terminal import printable

_FEWEST_GROUPS = 3


@dataclass(frozen=True, eq=False)
class Cohort:
    """Slides, or patients, with the label of one target.

    Attributes:
        slides: ids, sorted; of patients where `rule` is there.
        groups: what stays together in a split, such as the patient; the slide itself where no column was named.
        outcome: the label.
        notes: what was dropped or is remarkable, one sentence each, with counts.
        sites: site of each slide; None where no column was named.
        by: further columns by name, by which results are shown; empty text is a missing value.
        count: what a metric counts once: the slides of a group with the same label, or every slide.
        rule: which patient a slide comes from, where a row is a patient; None where a row is a slide.
        missing: what was taken for a missing value, as it stands in the table, with how often.
        rest: the classes that one class is set against together; none where it has one rival.
        is_grouped: whether something says which slides come from one patient. Where nothing does, each slide is its own
            group, and no text calls it a patient.
    """

    slides: tuple[str, ...]
    groups: tuple[str, ...]
    outcome: Outcome
    notes: tuple[str, ...] = ()
    sites: tuple[str, ...] | None = None
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    count: CountedBy = "group"
    rule: PatientRule | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    rest: tuple[str, ...] = ()
    is_grouped: bool = True

    @property
    def target(self) -> str:
        """The name of the label's column."""
        return self.outcome.target

    @property
    def is_positive(self) -> Bool[np.ndarray, " slide"]:
        """The label where there are two classes.

        Raises:
            ValueError: the outcome is of another kind.
        """
        self._must_be_binary()
        return self.outcome.value > 0.5

    @property
    def positive(self) -> str:
        """The name of the positive one of two classes."""
        self._must_be_binary()
        return self.outcome.classes[1]

    @property
    def negative(self) -> str:
        """The name of the other one of two classes, `not ...` where it holds several."""
        self._must_be_binary()
        return self.outcome.classes[0]

    def _must_be_binary(self) -> None:
        if self.outcome.kind != "binary":
            raise ValueError(f"{self.target!r} is {self.outcome.kind}; no class of it is the positive one")

    @property
    def n_groups(self) -> int:
        """How many groups (patients) there are."""
        return len(set(self.groups))

    @property
    def size(self) -> str:
        """How many slides of how many patients there are, in words; no slide is called a patient unasked."""
        if self.is_grouped:
            return f"{len(self.slides)} slides of {self.n_groups} groups (patients)"
        return f"{len(self.slides)} slides, taken as independent"

    def worded(self, text: str) -> str:
        """A text about patients as it is, or about slides where nothing says whose they are."""
        return text if self.is_grouped else text.replace("patient", "slide").replace("Patient", "Slide")

    def restricted_to(self, available: Iterable[str], source: str) -> "Cohort":
        """The cohort of the slides that have embeddings, under the ids they have there; what is missing is a warning.

        Args:
            available: the slides that have embeddings.
            source: how to call the place they are in.

        Raises:
            ConfigError: no slide is left, an id fits in two ways or nearly, or a class has too few groups.
        """
        slides, keep, notes = matched(self.slides, self.groups, available, self.target, source, self.rule)
        result = replace(self.of(keep), slides=slides, notes=(*self.notes, *notes), rule=None)
        _check_numbers(result)
        return result

    def without(self, slides: Collection[str]) -> "Cohort":
        """The cohort without some slides, whose absence is said elsewhere.

        Raises:
            ConfigError: too few groups of a class are left.
        """
        if not set(slides) & set(self.slides):
            return self
        result = self.of([number for number, slide in enumerate(self.slides) if slide not in slides])
        _check_numbers(result)
        return result

    def of(self, numbers: Sequence[int]) -> "Cohort":
        """The cohort of some slides, by their numbers and in that order."""
        return replace(
            self,
            slides=tuple(self.slides[number] for number in numbers),
            groups=tuple(self.groups[number] for number in numbers),
            outcome=self.outcome.of(np.array(numbers, dtype=np.int64)),
            sites=None if self.sites is None else tuple(self.sites[number] for number in numbers),
            by={name: tuple(values[number] for number in numbers) for name, values in self.by.items()},
        )

    def sentence(self) -> str:
        """What the target holds, in one line: its kind, its classes with how many slides have them, what has none."""
        outcome, what = self.outcome, "slides" if self.rule is None else "patients"
        if outcome.classes:
            counts = [(name, int((outcome.value == place).sum())) for place, name in enumerate(outcome.classes)]
            held = ", ".join(f"{name}: {count}" for name, count in counts) + f" {what}"
            if outcome.kind == "binary":
                held += f"; {outcome.classes[1]} is positive"
                held += f", against {', '.join(self.rest)} together" if self.rest else ""
        else:
            low, high = float(outcome.value.min()), float(outcome.value.max())
            held = f"{len(self.slides)} {what} with values from {low:.12g} to {high:.12g}"
            held += f", {int(outcome.event.sum())} events" if outcome.kind == "survival" else ""
        if self.rule is None and (self.n_groups < len(self.slides) or not self.is_grouped):
            held += f"; {self.size}"
        gone = sum(self.missing.values())
        without = f"; {gone} rows without a value ({show_words(self.missing)})" if gone else ""
        return printable(f"target {self.target} ({outcome.kind}): {held}{without}")

    def group_notes(self) -> list[str]:
        """What is to be known where groups have several slides, or are not known; none where each has one."""
        if not self.is_grouped:
            return [
                f"{self.size}: nothing says which of them come from one patient (--group COLUMN, --patient-of REGEX). "
                "If some do, they stand on both sides of a fold, results look better than they are, and intervals are "
                "too narrow."
            ]
        labels: dict[str, set[tuple[float, bool]]] = {}
        for group, value, event in zip(self.groups, self.outcome.value, self.outcome.event, strict=True):
            labels.setdefault(group, set()).add((float(value), bool(event)))
        if len(labels) == len(self.slides):
            return []
        who = f"{len(self.slides)} slides come from {len(labels)} groups (patients)"
        if self.count == "group":
            notes = [f"{who}: scores of a group's slides with the same label are averaged in a fold and count once."]
        else:
            notes = [f"{who}, and every slide counts; slides of one group are not independent."]
        several = sum(len(values) > 1 for values in labels.values())
        if several:
            kinds = {"binary": "of both classes", "continuous": "with different values", "survival": "with other times"}
            what = kinds.get(self.outcome.kind, "of several classes")
            notes.append(f"{several} of {len(labels)} groups have slides {what} of {self.target!r}; each stays whole.")
        return notes

    def group_numbers(self) -> Int64[np.ndarray, " slide"]:
        """The groups as numbers from 0, in the order of their names."""
        return np.unique(np.array(self.groups), return_inverse=True)[1].astype(np.int64).reshape(-1)


def read_cohort(path: Path, target: Target | str, columns: LabelColumns | None = None) -> Cohort:
    """Read the labels of one target from a table; slides whose label is missing are dropped with a warning that counts.

    Args:
        path: a CSV or an Excel workbook, with a header.
        target: the label's column, and what it holds; a text stands for a target whose kind is seen from its values.
            `1` and `1.0` are one class; empty cells and the words of `MISSING` are missing.
        columns: the other columns, and how cells are read.

    Raises:
        ConfigError: a column is absent, a slide is named twice or has no group, a patient comes from two sites, or
            the labels do not make the kind, or make too few groups of a class.
    """
    asked = Target(name=target) if isinstance(target, str) else target
    labels = read_labels(path, asked, columns)
    outcome = outcome_of(labels, kind=asked.kind, positive=asked.positive, order=asked.order)
    cohort = cohort_of(labels, outcome, columns.count if isinstance(columns, CohortColumns) else "group")
    _check_numbers(cohort)
    return cohort


def read_test_cohort(
    path: Path,
    like: Cohort,
    available: Iterable[str],
    source: str,
    columns: LabelColumns | None = None,
    *,
    event: str | None = None,
) -> Cohort:
    """Read the labels of an external cohort that is only tested: the kind and the classes are those of `like`.

    Args:
        path: a CSV or an Excel workbook, with a header.
        like: the cohort that is learnt from.
        available: the slides that have embeddings.
        source: how to call the place they are in.
        columns: as of the training cohort; sites and further columns are not read.
        event: the column of the event, as of the training cohort.

    Raises:
        ConfigError: what `read_cohort` refuses, a class that `like` has not, a slide or patient that `like` has too,
            or labels that nothing can be measured on.
    """
    shared = (
        LabelColumns()
        if columns is None
        else LabelColumns(**columns.model_dump(include=set(LabelColumns.model_fields)))
    )
    known_words = shared.model_copy(update={"not_missing": (*shared.not_missing, *like.outcome.classes)})
    given = read_labels(path, Target(name=like.target, event=event), known_words)
    given = given.restricted_to(available, source)
    for what, own, known in (("slides", given.slides, like.slides), ("patients", given.groups, like.groups)):
        both = sorted(set(own) & set(known))
        if both:
            raise ConfigError(
                f"{len(both)} {what} of the test cohort are in the training cohort too: {', '.join(both[:8])}"
                f"{' and more' if len(both) > 8 else ''}. Leave them out of one of the two."
            )
    cohort = cohort_of(given, outcome_as(given, like.outcome), like.count)
    outcome = cohort.outcome
    if outcome.kind == "survival" and not outcome.event.any():
        raise ConfigError(f"no slide of the test cohort has an event in {like.target!r}; nothing can be ranked.")
    if outcome.kind != "survival" and len(np.unique(outcome.value)) < 2:
        raise ConfigError(f"every slide of the test cohort has the same {like.target!r}; nothing can be told apart.")
    return cohort


def cohort_of(given: LabelledSlides, outcome: Outcome, count: CountedBy = "group") -> Cohort:
    """The cohort of labels that have become an outcome; what was read in a way to be told is a warning, and a note.

    Raises:
        ConfigError: a patient comes from two sites.
    """
    if given.sites is not None:
        one_site_each(given.groups, given.sites)
    notes = list(given.notes)
    if not outcome.classes and decimal_points(given.values) is not None:
        notes.append(f"the numbers of {given.target!r} have a decimal comma and are read so.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=3)
    words = said_as_words(given.events or ())
    if words is not None:
        notes.append(f"the event of {given.target!r}: {words}")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=3)
    for name, values in given.by.items():
        missing = sum(not value for value in values)
        if missing:
            notes.append(f"{missing} of {len(values)} slides have no value in {name!r}; they are in no group of it.")
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=3)
    rest: tuple[str, ...] = ()
    if outcome.kind == "binary":
        others = set(map(class_name, given.values)) - {outcome.classes[1]}
        rest = tuple(sorted(others, key=number_then_name)) if len(others) > 1 else ()
    return Cohort(
        slides=given.slides,
        groups=given.groups,
        outcome=outcome,
        notes=tuple(notes),
        sites=given.sites,
        by=given.by,
        count=count,
        rule=given.rule,
        missing=given.missing,
        rest=rest,
        is_grouped=given.is_grouped,
    )


def _check_numbers(cohort: Cohort) -> None:
    """Raise where a class, or what takes its place, has too few groups."""
    outcome, groups = cohort.outcome, np.array(cohort.groups)
    if outcome.kind == "continuous":
        parts = {"with a value": np.ones(len(groups), dtype=bool)}
    elif outcome.kind == "survival":
        parts = {"with an event": outcome.event}
    else:
        parts = {f"of the class {name!r}": outcome.value == number for number, name in enumerate(outcome.classes)}
    for name, part in parts.items():
        n = len(set(groups[part]))
        if n < _FEWEST_GROUPS:
            each = "; each needs at least 3." if outcome.classes else "; at least 3 are needed."
            who = some_of([slide for slide, own in zip(cohort.slides, part, strict=True) if own])
            remedy = " If that is no class, empty these cells or say so (--missing WORD...)." if outcome.classes else ""
            what = "groups (patients)" if cohort.is_grouped else "slides"
            raise ConfigError(f"{cohort.target!r} has {n} {what} {name} ({who or 'none'}){each}{remedy}")
