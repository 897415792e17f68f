"""The label's column of a table as text, with patient, site and further columns; whatever is left out is counted."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parfocal.cohort.matching import match_slides
from parfocal.cohort.patients import PatientRule, patient_rule, torn_tcga_patients
from parfocal.cohort.settings import CohortColumns, LabelColumns, Target
from parfocal.cohort.words import check_spelling, missing_words, show_words, spreadsheet_damage, word_of
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.table import Table, TableRow, one_line, read_table, some_of
from parfocal.terminal import printable


@dataclass(frozen=True, eq=False)
class LabelledSlides:
    """Slides, or patients, with the text of their label.

    Attributes:
        target: the column.
        slides: ids, sorted; of patients where `rule` is there.
        groups: what stays together, such as the patient; the slide itself where no column was named.
        sites: site of each slide; None where no column was named.
        values: the label as text.
        notes: what was left out or is remarkable.
        events: text of the event's column; None where none was named.
        by: further columns by name; empty text is a missing value.
        rule: which patient a slide comes from, where a row is a patient; None where a row is a slide.
        missing: what was taken for a missing value, as it stands there, with how often.
        settled: words of which somebody has said whether they stand for a missing value.
        is_grouped: whether something says which slides come from one patient; else each is taken for itself.
    """

    target: str
    slides: tuple[str, ...]
    groups: tuple[str, ...]
    sites: tuple[str, ...] | None
    values: tuple[str, ...]
    notes: tuple[str, ...] = ()
    events: tuple[str, ...] | None = None
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rule: PatientRule | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    is_grouped: bool = True

    def restricted_to(self, available: Iterable[str], source: str) -> "LabelledSlides":
        """Only the slides that have embeddings, under the ids they have there; what is missing is a warning.

        Raises:
            ConfigError: no slide is left, or an id fits in two ways or nearly.
        """
        slides, keep, notes = matched(self.slides, self.groups, available, self.target, source, self.rule)
        return replace(self.of(keep), slides=slides, notes=(*self.notes, *notes), rule=None)

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


def matched(
    ids: Sequence[str],
    groups: Sequence[str],
    available: Iterable[str],
    target: str,
    source: str,
    rule: PatientRule | None,
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """The slides that have a row and embeddings, the numbers of their rows, and notes; as `match_slides` finds them."""
    found, notes = match_slides(ids, set(available), target, source, rule)
    torn = torn_tcga_patients(found, [groups[row] for row in found.values()])
    if torn is not None:
        notes.append(torn)
        warnings.warn(torn, ParfocalWarning, stacklevel=3)
    return tuple(found), list(found.values()), notes


def read_labels(path: Path, target: Target | str, columns: LabelColumns | None = None) -> LabelledSlides:
    """Read the label of every slide; slides without one are left out with a warning that counts.

    Args:
        path: a CSV or an Excel workbook, with a header.
        target: the label's column, and what is known of it; its classes are values, whatever words they are.
        columns: the other columns, and which words are missing values. With a rule of patients the column of slides,
            or that of groups where there is no such column, may hold patients; where it holds slides, their patients
            are groups.

    Raises:
        ConfigError: the file or a column is absent, a slide is named twice, none has a label, one that has a label has
            no group or no site, or a column holds one name in two spellings.
    """
    asked, columns = Target(name=target) if isinstance(target, str) else target, columns or LabelColumns()
    target, event, group = asked.name, asked.event, columns.group
    site, by = (columns.site, columns.by) if isinstance(columns, CohortColumns) else (None, ())
    missing = columns.missing
    not_missing = (*columns.not_missing, *asked.order, *([] if asked.positive is None else [asked.positive]))
    table = read_table(path)
    rule = patient_rule(columns.patient_of) if columns.patient_of is not None else None
    id_column = _id_column(table, columns.slide_column, group, rule)
    table.needs(target, "--target")
    for column in (*(one for one in (group, site, event) if one), *by):
        table.needs(column)
    words, own_words = missing_words(missing), missing_words(missing, not_missing)
    needed = (target, *([event] if event else ()))
    rows_are_patients = rule is not None and _hold_patients(table, id_column, columns.slide_column, rule)
    what = "patients" if rows_are_patients else "slides"
    rows = _once_each(table, id_column, what, [*needed, *(one for one in (group, site) if one), *by])
    found = [(row, [row[column] for column in needed if word_of(row[column]) in own_words]) for row in rows]
    gone, labelled = [row for row, said in found if said], [row for row, said in found if not said]
    counts = Counter(said[0] for _, said in found if said)
    notes = []
    if gone:
        where = " or ".join(repr(column) for column in needed)
        notes.append(
            f"{len(gone)} of {len(rows)} {what} have no value in {where} ({show_words(counts)}) and are left out: "
            f"{some_of([row[id_column] for row in gone])}."
        )
        notes[-1] = printable(notes[-1])
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    if not labelled:
        raise ConfigError(f"no {what[:-1]} in {path} has a value in {target!r} ({show_words(counts)}).")
    for column in (one for one in (group, site) if one):
        homeless = [row[id_column] for row in labelled if word_of(row[column]) in words]
        if homeless:
            raise ConfigError(f"{len(homeless)} {what} in {path} have no value in {column!r}: {some_of(homeless)}.")
    for column in dict.fromkeys([*filter(None, [group, site]), *by]):
        there = Counter(row[column] for row in labelled if word_of(row[column]) not in words)
        check_spelling(f"the column {column!r} of {path}", there)
    for name, is_id in ((id_column, True), (group, True), (target, False)):
        if name is not None:
            _refuse_damage(table, labelled, name, is_id=is_id)
    ids = tuple(row[id_column] for row in labelled)
    return LabelledSlides(
        target=target,
        slides=ids,
        groups=_groups(labelled, ids, group, None if rows_are_patients else rule),
        sites=tuple(row[site] for row in labelled) if site else None,
        values=tuple(one_line(row[target]) for row in labelled),
        notes=tuple(notes),
        events=tuple(one_line(row[event]) for row in labelled) if event else None,
        by={name: tuple("" if word_of(row[name]) in words else row[name] for row in labelled) for name in by},
        rule=rule if rows_are_patients else None,
        missing=counts,
        settled=frozenset(map(word_of, (*missing, *not_missing))),
        is_grouped=group is not None or rule is not None,
    )


def read_groups(labels: Path | None, columns: LabelColumns, available: Collection[str], source: str) -> dict[str, str]:
    """The group, such as the patient, of slides that have embeddings, which pretraining holds out whole.

    Slides without a row are counted in a warning and have no group; where nothing says a group, none has one.

    Args:
        labels: a table with the column of the group.
        columns: the columns of slide and group, and the rule of patients, which needs no table.
        available: the ids that have embeddings.
        source: what has them, for messages.

    Raises:
        ConfigError: the table or a column is absent, no slide of it has embeddings, or the rule does not fit.
    """
    if labels is not None and columns.group is not None:
        grouped = read_labels(labels, columns.group, columns).restricted_to(available, source)
        return dict(zip(grouped.slides, grouped.groups, strict=True))
    return {} if columns.patient_of is None else patient_rule(columns.patient_of).patients(sorted(available), source)


def _id_column(table: Table, slide: str, group: str | None, rule: PatientRule | None) -> str:
    """The column that says what a row is about."""
    if slide in table.columns:
        return slide
    if group is None or group not in table.columns:
        table.needs(slide, "--slide-column")
    elif rule is None:
        raise ConfigError(
            f"{table.path} has no column {slide!r}; it has {', '.join(table.columns)}. If a row of it is a patient, "
            "say how a slide's id names its patient, such as --patient-of 'TCGA-..-....'; else name "
            "the column of slides: --slide-column COLUMN."
        )
    return str(group)


def _hold_patients(table: Table, column: str, slide: str, rule: PatientRule) -> bool:
    """Whether a row is a patient and not a slide: then the rule finds in its id the whole of it, or nothing.

    Raises:
        ConfigError: some rows are patients and some are slides.
    """
    if column != slide:
        return True
    ids = [row[column] for row in table.rows]
    slides = [one for one in ids if rule.patient(one) not in (None, one)]
    if not slides:
        return True
    others = [one for one in ids if rule.patient(one) in (None, one)]
    if others:
        raise ConfigError(
            f"the column {column!r} of {table.path} names slides, such as {slides[0]}, and what the rule of patients "
            f"finds no patient in or is a patient itself, such as {others[0]}. Keep one kind of rows."
        )
    return False


def _once_each(table: Table, column: str, what: str, read: Sequence[str]) -> list[TableRow]:
    """The rows sorted by what they are about, each of which is there once.

    A patient may stand in several rows that say the same, as in a table of samples.
    """
    first: dict[str, TableRow] = {}
    for row in table.rows:
        one = row[column]
        if not one:
            raise ConfigError(f"line {row.line} of {table.path} names no {what[:-1]} in the column {column!r}.")
        before = first.setdefault(one, row)
        if before is row:
            continue
        if what == "slides":
            raise ConfigError(
                f"{table.path} names the slide {one} twice, in lines {before.line} and {row.line}. Keep one."
            )
        differ = [name for name in read if before[name] != row[name]]
        if differ:
            raise ConfigError(
                f"{table.path} names the patient {one} in lines {before.line} and {row.line} with other values in "
                f"{differ[0]!r} ({before[differ[0]]!r}, {row[differ[0]]!r}). A patient has one."
            )
    return [first[one] for one in sorted(first)]


def _groups(
    rows: Sequence[TableRow], ids: Sequence[str], group: str | None, rule: PatientRule | None
) -> tuple[str, ...]:
    """What stays together: the column, which the rule must not contradict, else what the rule says, else the slide."""
    if rule is None:
        return tuple(row[group] for row in rows) if group else tuple(ids)
    patients = rule.patients(ids, "the labels")
    if group is None:
        return tuple(patients[one] for one in ids)
    found: dict[str, str] = {}
    torn = [
        one for one, row in zip(ids, rows, strict=True) if found.setdefault(patients[one], row[group]) != row[group]
    ]
    if torn:
        raise ConfigError(
            f"the column {group!r} puts slides of one patient, by the rule of patients, into several groups: "
            f"{some_of([patients[one] for one in torn])}. Leave one of both out."
        )
    return tuple(row[group] for row in rows)


def _refuse_damage(table: Table, rows: Sequence[TableRow], column: str, *, is_id: bool) -> None:
    for row in rows:
        damage = spreadsheet_damage(row[column], is_id=is_id)
        if damage is not None:
            raise ConfigError(f"{row[column]!r} in {column!r}, line {row.line} of {table.path}, {damage}.")


def one_site_each(groups: Sequence[str], sites: Sequence[str]) -> None:
    """Check that no group (patient) comes from two sites.

    Raises:
        ConfigError: one does.
    """
    found: dict[str, str] = {}
    torn = sorted({group for group, site in zip(groups, sites, strict=True) if found.setdefault(group, site) != site})
    if torn:
        raise ConfigError(f"{len(torn)} patients have slides from two sites: {some_of(torn)}. A patient has one site.")
