"""A table is declared once, as fields with a name, a value and a format; files, terminal and page follow from them.

A result is a frozen dataclass. `Field` says how one of its values is called and read; `write_table` makes the CSV of
many records, `to_records` their JSON, `terminal_table` and `page_table` what people read. `plain` turns any nested
results into what JSON can hold, `pick` only some of their values, under other names where they are asked for so.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from rich.table import Table as TerminalTable

from parfocal.files import write_csv, writing
from parfocal.report.page import Column, Row, RowKind, Table
from parfocal.stats.interval import Interval, Number


@dataclass(frozen=True)
class Field:
    """One column of a table of records.

    Attributes:
        name: of the column in a CSV, of the key in JSON, and the heading where `title` names no other.
        value: what it holds: a path of attributes, keys and places such as `run.arm.id` or `arms.0`, which has no value
            where a part of it has none, or a function of the record; the attribute `name` where empty.
        title: its heading for people.
        show: how people read a value: a format such as `.3f`, or a function; what `show` makes of it where empty.
        help: a sentence under the pointer, on a page.
        align: where cells stand; where empty, text at the left and everything else at the right.
        missing: what people read where there is no value.
        is_optional: whether the column is left out for people where no record has a value.
    """

    name: str
    value: str | Callable[[Any], Any] = ""
    title: str = ""
    show: str | Callable[[Any], str] = ""
    help: str = ""
    align: Literal["", "left", "right", "center"] = ""
    missing: str = "–"
    is_optional: bool = False

    def of(self, record: Any) -> Any:
        """The value of a record; None where it has none."""
        return self.value(record) if callable(self.value) else read(record, self.value or self.name)

    def cell(self, record: Any) -> str:
        """The value of a record as people read it."""
        value = self.of(record)
        if is_missing(value):
            return self.missing
        if callable(self.show):
            return self.show(value)
        return format(value, self.show).replace("-", "\u2212") if self.show else show(value)


def read(record: Any, path: str) -> Any:
    """What a path of attributes, keys and numbers of places leads to; None after a part that is None or not there."""
    for part in path.split("."):
        if record is None:
            return None
        if isinstance(record, Mapping):
            record = record.get(part)
        else:
            record = record[int(part)] if part.isdigit() else getattr(record, part)
    return record


def columns(*names: str, of: str = "", **renamed: str) -> list[Field]:
    """Fields for a file: attributes of what `of` leads to, by their names, and `name=path` where they get others."""
    paths = {name: name for name in names} | renamed
    return [Field(name, f"{of}.{path}" if of else path) for name, path in paths.items()]


def interval_columns(of: str, name: str, prefix: str = "") -> list[Field]:
    """Three fields for an interval: its estimate under `name`, and its ends with `prefix` before their names."""
    return columns(of=of, **{name: "estimate", f"{prefix}low": "low", f"{prefix}high": "high"})


def write_table(path: Path, columns: Sequence[Field], records: Iterable[Any], *, keep_empty: bool = True) -> None:
    """Write a CSV, whole or not at all; a value that is None or not finite is an empty cell.

    Without `keep_empty` nothing is written where there is no record, and a file of an earlier run does not stay.
    """
    rows = ([_csv_cell(field.of(record)) for field in columns] for record in records)
    first = list(islice(rows, 1))
    if first or keep_empty:
        write_csv(path, [field.name for field in columns], chain(first, rows))
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write nested results as JSON, whole or not at all."""
    with writing(path) as temporary:
        text = json.dumps(plain(content), indent=2, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def to_records(columns: Sequence[Field], records: Sequence[Any]) -> list[dict[str, Any]]:
    """The records as plain values, each under the names of its fields."""
    return [{field.name: plain(field.of(record)) for field in columns} for record in records]


def terminal_table(
    columns: Sequence[Field], records: Sequence[Any], *, title: str = "", by: str | Callable[[Any], Any] = ""
) -> TerminalTable:
    """A table for a terminal, which folds long text; a line stands between records that differ in `by`."""
    shown = _with_values(columns, records)
    table = TerminalTable(title=title or None)
    for field in shown:
        table.add_column(field.title or field.name, justify=_align(field, records), overflow="fold")
    for _, several in groupby(records, Field("", by or (lambda _: None)).of):
        for record in several:
            table.add_row(*(field.cell(record) for field in shown))
        table.add_section()
    return table


def page_table(
    caption: str,
    columns: Sequence[Field],
    records: Sequence[Any],
    *,
    by: str | Callable[[Any], Any] = "",
    kind: Callable[[Any], RowKind] | None = None,
    footnotes: Sequence[str] = (),
) -> Table:
    """A table for a page.

    Args:
        caption: what stands above it.
        columns: its columns.
        records: its rows.
        by: as the value of a field; where it is another one than in the row before, it is a heading over the rows.
        kind: how a row is set off.
        footnotes: sentences to stand below.
    """
    shown, rows = _with_values(columns, records), []
    for heading, several in groupby(records, Field("", by or (lambda _: None)).of):
        if by:
            rows.append(Row((str(heading),), "group"))
        rows += [Row(tuple(field.cell(one) for field in shown), kind(one) if kind else "plain") for one in several]
    heads = (Column(field.title or field.name, _align(field, records), field.help) for field in shown)
    return Table(caption, tuple(heads), tuple(rows), tuple(footnotes))


def plain(value: Any) -> Any:
    """A value as JSON can hold it, through dataclasses, mappings, sequences and arrays; None where it is not finite."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


@overload
def pick(record: None, *names: str, **renamed: str) -> None: ...


@overload
def pick(record: object, *names: str, **renamed: str) -> dict[str, Any]: ...


def pick(record: Any, *names: str, **renamed: str) -> dict[str, Any] | None:
    """Some values of a record as plain values; None for no record.

    Args:
        record: a result.
        names: attributes that keep their names.
        renamed: key -> the path that `read` follows.
    """
    if record is None:
        return None
    return {name: plain(read(record, path)) for name, path in ({name: name for name in names} | renamed).items()}


def is_missing(value: Any) -> bool:
    """Whether there is no value: None, or a number that is not one."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def show(value: Any) -> str:
    """A value as people read it: two decimals of a number, an interval with its ends, yes or no."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return show_number(float(value))
    if isinstance(value, Interval):
        return f"{value.estimate:.2f}" + (f" ({show_interval(value)})" if value.has_ends else "")
    return str(value)


def show_interval(interval: Interval) -> str:
    """The two ends, with two decimals."""
    return f"{interval.low:.2f} to {interval.high:.2f}"


def show_signed(value: Number) -> str:
    """A difference with its sign; the minus is the typographic one, as wide as the plus."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\u2212") + text


def show_number(value: Number) -> str:
    """Two decimals with a typographic minus, and a dash for what has no value."""
    return "–" if value != value else f"{value:.2f}".replace("-", "\u2212")


def show_difference(interval: Interval) -> str:
    """A difference with its sign, and the two ends with theirs where it has any."""
    if not interval.has_ends:
        return show_signed(interval.estimate)
    return f"{show_signed(interval.estimate)} ({show_signed(interval.low)} to {show_signed(interval.high)})"


def show_p(value: Number) -> str:
    """A p-value with two figures, "< 0.001" below that, and a dash where no test could be made."""
    if value != value:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _csv_cell(value: Any) -> Any:
    cell = plain(value)
    return "" if cell is None else cell


def _with_values(columns: Sequence[Field], records: Sequence[Any]) -> list[Field]:
    """The fields without those that are optional and have no value in any record."""
    return [
        field for field in columns if not field.is_optional or any(not is_missing(field.of(one)) for one in records)
    ]


def _align(field: Field, records: Sequence[Any]) -> Literal["left", "right", "center"]:
    if field.align:
        return field.align
    values = [value for record in records if not is_missing(value := field.of(record))]
    return "left" if all(isinstance(value, str) for value in values) else "right"
