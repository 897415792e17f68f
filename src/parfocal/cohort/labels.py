"""Which slide belongs to whom and has which label."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.cohort.table import MISSING, read_table, some_of
from parfocal.errors import ConfigError, ParfocalWarning

__all__ = ["Cohort", "read_cohort"]

_FEWEST_GROUPS = 3
# More different numbers than this are a measurement, not classes.
_MOST_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Cohort:
    """Slides with the label of one target.

    Attributes:
        target: name of the label's column.
        positive: the class that counts as positive.
        negative: the other class, or `not ...` where there are several.
        slides: ids, sorted.
        groups: what stays together in a split, such as the patient; the slide itself where no column was named.
        is_positive: the label.
        notes: what was dropped or is remarkable, one sentence each, with counts.
    """

    target: str
    positive: str
    negative: str
    slides: tuple[str, ...]
    groups: tuple[str, ...]
    is_positive: Bool[np.ndarray, " slide"]
    notes: tuple[str, ...] = ()

    def restricted_to(self, available: Iterable[str], source: str) -> "Cohort":
        """The cohort without the slides that have no embeddings; what is missing on either side is a warning.

        Args:
            available: the slides that have embeddings.
            source: how to call the place they are in.

        Raises:
            ConfigError: no slide is left, or one class or too few groups.
        """
        there = set(available)
        keep = np.array([slide in there for slide in self.slides], dtype=bool)
        unknown = [slide for slide in self.slides if slide not in there]
        unlabelled = sorted(there - set(self.slides))
        if not keep.any():
            hint = ""
            if any(slide.rsplit(".", 1)[0] in there for slide in unknown):
                hint = " Write the slides without their suffix."
            raise ConfigError(
                f"no slide with a label in {self.target!r} has embeddings in {source}: the labels name "
                f"{some_of(unknown)}, the embeddings {some_of(sorted(there)) or 'none at all'}.{hint}"
            )
        notes = list(self.notes)
        if unknown:
            notes.append(f"{len(unknown)} slides with a label have no embeddings in {source}: {some_of(unknown)}.")
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
        if unlabelled:
            notes.append(
                f"{len(unlabelled)} slides in {source} have no label in {self.target!r}: {some_of(unlabelled)}."
            )
            warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
        result = replace(
            self,
            slides=tuple(slide for slide in self.slides if slide in there),
            groups=tuple(group for group, kept in zip(self.groups, keep, strict=True) if kept),
            is_positive=self.is_positive[keep],
            notes=tuple(notes),
        )
        _check_classes(result)
        return result

    def count_groups(self, *, positive: bool) -> int:
        """How many groups (patients) have a slide of this class."""
        return len({group for group, label in zip(self.groups, self.is_positive, strict=True) if label == positive})

    def group_numbers(self) -> Int64[np.ndarray, " slide"]:
        """The groups as numbers from 0, in the order of their names."""
        return np.unique(np.array(self.groups), return_inverse=True)[1].astype(np.int64).reshape(-1)


def read_cohort(
    path: Path, target: str, *, group: str | None = None, slide: str = "slide", positive: str | None = None
) -> Cohort:
    """Read the labels of one target from a CSV; slides whose label is missing are dropped with a warning that counts.

    Args:
        path: the CSV, with a header.
        target: the label's column. `1` and `1.0` are one class; empty, `na`, `nan`, `none`, `null` are missing.
        group: the column of what stays together in a split; None takes every slide for itself.
        slide: the column of the slide's id.
        positive: the class that counts as positive, against all others; of two classes the later one, by number or
            by alphabet, where None.

    Raises:
        ConfigError: a column is absent, a slide is named twice or has no group, or the classes do not make two.
    """
    rows, columns = read_table(path)
    for column in [slide, target, *([group] if group else [])]:
        if column not in columns:
            raise ConfigError(f"{path} has no column {column!r}; it has {', '.join(columns)}.")
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if not row[slide]:
            raise ConfigError(f"line {number} of {path} names no slide in the column {slide!r}.")
        if row[slide] in first:
            raise ConfigError(
                f"{path} names the slide {row[slide]} twice, in lines {first[row[slide]]} and {number}. Keep one."
            )
        first[row[slide]] = number
    labelled = [row for row in rows if row[target].lower() not in MISSING]
    notes = []
    if len(labelled) < len(rows):
        gone = [row[slide] for row in rows if row[target].lower() in MISSING]
        notes.append(
            f"{len(gone)} of {len(rows)} slides have no value in {target!r} and are left out: {some_of(gone)}."
        )
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    if group:
        homeless = [row[slide] for row in labelled if row[group].lower() in MISSING]
        if homeless:
            raise ConfigError(f"{len(homeless)} slides in {path} have no value in {group!r}: {some_of(homeless)}.")
    values = {row[slide]: _class_name(row[target]) for row in labelled}
    chosen, other = _two_classes(path, target, Counter(values.values()), positive)
    slides = tuple(sorted(values))
    by_slide = {row[slide]: row[group] if group else row[slide] for row in labelled}
    cohort = Cohort(
        target=target,
        positive=chosen,
        negative=other,
        slides=slides,
        groups=tuple(by_slide[name] for name in slides),
        is_positive=np.array([values[name] == chosen for name in slides], dtype=bool),
        notes=tuple(notes),
    )
    _check_classes(cohort)
    both = cohort.count_groups(positive=True) + cohort.count_groups(positive=False) - len(set(cohort.groups))
    if both:
        note = (
            f"{both} of {len(set(cohort.groups))} groups have slides of both classes of {target!r}; each stays whole."
        )
        cohort = replace(cohort, notes=(*cohort.notes, note))
    return cohort


def _class_name(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _two_classes(path: Path, target: str, counts: Counter[str], positive: str | None) -> tuple[str, str]:
    """The names of the positive and of the negative class."""
    listed = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items())[:8])
    if len(counts) < 2:
        raise ConfigError(
            f"{target!r} in {path} has one class only ({listed or 'no label at all'}); two are needed to tell apart."
        )
    if positive is not None:
        chosen = _class_name(positive)
        if chosen not in counts:
            raise ConfigError(f"{target!r} in {path} has no class {positive!r}; it has {listed}.")
        others = [name for name in counts if name != chosen]
        return chosen, others[0] if len(others) == 1 else f"not {chosen}"
    if len(counts) > _MOST_CLASSES and all(_number_then_name(name)[0] == 0 for name in counts):
        raise ConfigError(
            f"{target!r} in {path} holds {len(counts)} different numbers, and two classes are needed. "
            "Make a column of two classes of it, such as above and below a threshold."
        )
    if len(counts) > 2:
        raise ConfigError(
            f"{target!r} in {path} has {len(counts)} classes ({listed}). "
            "Name the one to set against the rest: --positive NAME (positive=...)."
        )
    negative, chosen = sorted(counts, key=_number_then_name)
    return chosen, negative


def _number_then_name(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _check_classes(cohort: Cohort) -> None:
    for positive, name in ((True, cohort.positive), (False, cohort.negative)):
        n = cohort.count_groups(positive=positive)
        if n < _FEWEST_GROUPS:
            raise ConfigError(
                f"{cohort.target!r} has {n} groups (patients) of the class {name!r}; "
                f"cross-validation needs {_FEWEST_GROUPS} of each."
            )
