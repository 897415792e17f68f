"""The label's column of a CSV as text, with patient, site and further columns; whatever is left out is counted."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parfocal.cohort.table import MISSING, read_table, some_of
from parfocal.errors import ConfigError, ParfocalWarning

__all__ = ["LabelledSlides", "match_slides", "one_site_each", "read_labels"]


@dataclass(frozen=True, eq=False)
class LabelledSlides:
    """Slides with the text of their label.

    Attributes:
        target: the column.
        slides: ids, sorted.
        groups: what stays together, such as the patient; the slide itself where no column was named.
        sites: site of each slide; None where no column was named.
        values: the label as text.
        notes: what was left out or is remarkable.
        events: text of the event's column; None where none was named.
        by: further columns by name; empty text is a missing value.
    """

    target: str
    slides: tuple[str, ...]
    groups: tuple[str, ...]
    sites: tuple[str, ...] | None
    values: tuple[str, ...]
    notes: tuple[str, ...] = ()
    events: tuple[str, ...] | None = None
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def restricted_to(self, available: Iterable[str], source: str) -> "LabelledSlides":
        """Only the slides that have embeddings; what is missing on either side is a warning.

        Raises:
            ConfigError: no slide is left.
        """
        keep, notes = match_slides(self.slides, set(available), self.target, source)
        return replace(self.of(keep), notes=(*self.notes, *notes))

    def without(self, slides: Collection[str]) -> "LabelledSlides":
        """Without some slides, whose absence is said elsewhere."""
        return self.of([number for number, slide in enumerate(self.slides) if slide not in slides])

    def of(self, numbers: Sequence[int]) -> "LabelledSlides":
        """Some slides, by their numbers and in that order."""

        def kept(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[number] for number in numbers)

        return replace(
            self,
            slides=kept(self.slides),
            groups=kept(self.groups),
            sites=None if self.sites is None else kept(self.sites),
            values=kept(self.values),
            events=None if self.events is None else kept(self.events),
            by={name: kept(values) for name, values in self.by.items()},
        )


def read_labels(
    path: Path,
    target: str,
    *,
    slide: str = "slide",
    group: str | None = None,
    site: str | None = None,
    event: str | None = None,
    by: Sequence[str] = (),
) -> LabelledSlides:
    """Read the label of every slide; slides without one are left out with a warning that counts.

    Args:
        path: the CSV, with a header.
        target: the label's column; empty, `na`, `n/a`, `nan`, `none`, `null` are missing.
        slide: the column of the slide's id.
        group: the column of what stays together; None takes every slide for itself.
        site: the column of the site that a slide comes from.
        event: the column that says whether the target is the time of an event.
        by: columns by which results are to be shown; their values may be missing.

    Raises:
        ConfigError: the file or a column is absent, a slide is named twice, none has a label, or one that has a label
            has no group or no site.
    """
    rows, columns = read_table(path)
    for column in [slide, target, *(one for one in (group, site, event) if one), *by]:
        if column not in columns:
            raise ConfigError(f"{path} has no column {column!r}; it has {', '.join(columns)}.")
    first: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if not row[slide]:
            raise ConfigError(f"line {line} of {path} names no slide in the column {slide!r}.")
        if row[slide] in first:
            raise ConfigError(
                f"{path} names the slide {row[slide]} twice, in lines {first[row[slide]]} and {line}. Keep one."
            )
        first[row[slide]] = line
    needed = [target, *([event] if event else [])]
    rows.sort(key=lambda row: row[slide])
    labelled = [row for row in rows if not any(_is_missing(row[column]) for column in needed)]
    notes = []
    if len(labelled) < len(rows):
        gone = [row[slide] for row in rows if any(_is_missing(row[column]) for column in needed)]
        what = " or ".join(repr(column) for column in needed)
        notes.append(
            f"{len(gone)} of {len(rows)} slides have no value in {what} (empty, na, nan, none or null) and are left "
            f"out: {some_of(gone)}."
        )
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    if not labelled:
        raise ConfigError(f"no slide in {path} has a value in {target!r}.")
    for column in filter(None, [group, site]):
        homeless = [row[slide] for row in labelled if _is_missing(row[column])]
        if homeless:
            raise ConfigError(f"{len(homeless)} slides in {path} have no value in {column!r}: {some_of(homeless)}.")
    return LabelledSlides(
        target=target,
        slides=tuple(row[slide] for row in labelled),
        groups=tuple(row[group or slide] for row in labelled),
        sites=tuple(row[site] for row in labelled) if site else None,
        values=tuple(row[target] for row in labelled),
        notes=tuple(notes),
        events=tuple(row[event] for row in labelled) if event else None,
        by={name: tuple("" if _is_missing(row[name]) else row[name] for row in labelled) for name in by},
    )


def match_slides(
    slides: Sequence[str], available: Collection[str], target: str, source: str
) -> tuple[list[int], list[str]]:
    """The numbers of the slides that have embeddings; what is missing on either side is a warning, and a note.

    Args:
        slides: those with a label.
        available: those with embeddings.
        target: the label's column.
        source: how to call the place of the embeddings.

    Raises:
        ConfigError: no slide is left.
    """
    there = set(available)
    keep = [number for number, slide in enumerate(slides) if slide in there]
    unknown = [slide for slide in slides if slide not in there]
    unlabelled = sorted(there - set(slides))
    if not keep:
        stripped = any(slide.rsplit(".", 1)[0] in there for slide in unknown)
        hint = " Write the slides without their suffix." if stripped else " Use the ids of the embeddings."
        raise ConfigError(
            f"no slide with a label in {target!r} has embeddings in {source}: the labels name "
            f"{some_of(unknown)}, the embeddings {some_of(unlabelled) or 'none at all'}.{hint}"
        )
    notes = []
    if unknown:
        notes.append(f"{len(unknown)} slides with a label have no embeddings in {source}: {some_of(unknown)}.")
    if unlabelled:
        notes.append(f"{len(unlabelled)} slides in {source} have no label in {target!r}: {some_of(unlabelled)}.")
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=3)
    return keep, notes


def one_site_each(groups: Sequence[str], sites: Sequence[str]) -> None:
    """Check that no group (patient) comes from two sites.

    Raises:
        ConfigError: one does.
    """
    found: dict[str, str] = {}
    torn = sorted({group for group, site in zip(groups, sites, strict=True) if found.setdefault(group, site) != site})
    if torn:
        raise ConfigError(f"{len(torn)} patients have slides from two sites: {some_of(torn)}. A patient has one site.")


def _is_missing(value: str) -> bool:
    return value.lower() in MISSING
