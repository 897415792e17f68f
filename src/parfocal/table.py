"""A table that a user wrote: a CSV or a workbook as text, each row with its line.

A CSV is read whatever a spreadsheet made of it: separator, coding, comments at its head. The rows of a workbook come as
a person sees them there: whole numbers without `.0`, zeros in front.
"""

import codecs
import csv
import datetime
import io
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.files import original_cell
from parfocal.terminal import printable

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def one_line(text: str) -> str:
    """The text with every run of blanks and line ends as one blank, and without what is not seen."""
    return " ".join("".join(char for char in text if unicodedata.category(char) != "Cf").split())


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV or of the only sheet of a workbook that hold something, each with its number there.

    Raises:
        ConfigError: it is absent, or cannot be read as either.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file.")
    try:
        with path.open("rb") as file:
            is_workbook = file.read(4) in (_ZIP, _OLE)  # many programs write plain text and call it .xls
        return _read_workbook(path) if is_workbook else _read_delimited(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}.") from error


def _read_delimited(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that hold something, the header first, each with its number in the file.

    The separator is the one of comma, semicolon, tab and bar that the header has most of, outside quotes; a first line
    `sep=;` decides it. Lines before the header that begin with # are comments, as cBioPortal writes them.

    Raises:
        ConfigError: it is no text, in no UTF, a quote is not closed, or the header can be read in two ways.
    """
    text = _decoded(path, path.read_bytes())
    if text.lstrip().startswith("<"):
        raise ConfigError(
            f"cannot read {path}: it is a page of HTML or XML. Save it as a workbook (.xlsx) or as a CSV."
        )
    start, line, separator = _header(text)
    if separator is None:
        separator = _separator(path, text[start:])
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    return list(_lines(path, reader, line))


def _lines(path: Path, reader: Any, before: int) -> Iterator[tuple[int, list[str]]]:
    first = before + 1  # a quoted cell may hold line ends, and the line where a row begins is what a person looks for
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield first, cells
            first = before + reader.line_num + 1
    except csv.Error as error:
        cause = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise ConfigError(f"cannot read {path}: {cause}, in the row that begins in line {first}.") from error


def _decoded(path: Path, content: bytes) -> str:
    for mark, coding in _MARKS:
        if content.startswith(mark):
            return _as_text(path, content[len(mark) :], coding)
    head = content[:4096]
    if head.count(0) > len(head) // 8:  # UTF-16 without its mark: of plain letters every second byte is 0
        for coding, odd in (("utf-16-le", 1), ("utf-16-be", 0)):
            if head[odd::2].count(0) > len(head) // 4 and not head[1 - odd :: 2].count(0):
                return _as_text(path, content, coding)
        raise ConfigError(f"cannot read {path}: it holds no text. Expected is a CSV in UTF-8 or a workbook (.xlsx).")
    return _as_text(path, content, "utf-8")


def _as_text(path: Path, content: bytes, coding: str) -> str:
    try:
        return content.decode(coding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(coding, errors="replace")
        line = before.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
        raise ConfigError(
            f"cannot read {path}: line {line} holds bytes that are no {coding.upper()}, perhaps a letter with an "
            "accent in another coding. Save it as a CSV in UTF-8."
        ) from error


def _header(text: str) -> tuple[int, int, str | None]:
    """Where the header begins, how many lines stand before it, and the separator that a line `sep=` names."""
    start, number, separator = 0, 0, None
    for line in io.StringIO(text, newline=""):
        content = line.strip()
        if content.startswith("sep=") and len(line.rstrip("\r\n")) == 5:
            separator = line[4]
        elif content and not content.startswith("#"):
            break
        start, number = start + len(line), number + 1
    return start, number, separator


def _separator(path: Path, text: str) -> str:
    counts, quoted = dict.fromkeys(_SEPARATORS, 0), False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char in "\r\n" and not quoted:
            break
        elif char in counts and not quoted:
            counts[char] += 1
    first, second = sorted(counts, key=lambda one: -counts[one])[:2]
    if counts[first] and counts[first] == counts[second]:
        raise ConfigError(
            f"the header of {path} has as many {_SEPARATORS[first]} as {_SEPARATORS[second]} "
            f"({printable(text[:60].splitlines()[0])}). Separate the columns by one of them, and quote names that hold "
            "the other."
        )
    return first if counts[first] else ","


_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_DIGITS_KEPT = 10**15


def _read_workbook(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of the only sheet that holds something, the header first, each with its number in the sheet.

    Raises:
        ConfigError: it is no .xlsx, several sheets hold something, cells are merged, or a formula has no value.
    """
    if path.read_bytes().startswith(_OLE):
        raise ConfigError(f"cannot read {path}: it is an old or a locked Excel workbook. Save it as .xlsx or as a CSV.")
    values, formulas = _open(path, values=True), _open(path, values=False)
    sheets = {sheet.title: cells for sheet in values.worksheets if (cells := _cells(sheet))}
    if len(sheets) != 1:
        found = f"{len(sheets)} sheets that hold something ({', '.join(sheets)})" if sheets else "no sheet with a cell"
        raise ConfigError(f"{path} has {found}; a table of labels has one. Keep one sheet, or save it as a CSV.")
    [(title, cells)] = sheets.items()
    sheet = values[title]
    if sheet.merged_cells.ranges:
        merged = sorted(map(str, sheet.merged_cells.ranges))
        raise ConfigError(
            f"{path} has merged cells ({', '.join(merged[:3])}), of which only the first holds a value. Take them "
            "apart and fill every row."
        )
    empty = _cells(formulas[title]).keys() - cells.keys()
    if empty:
        place = formulas[title].cell(*min(empty)).coordinate
        raise ConfigError(
            f"the cell {place} of {path} is a formula without a value. Open and save the workbook in a "
            "spreadsheet, or write values in place of formulas."
        )
    width = max(column for _, column in cells)
    rows, hidden = [], 0
    for number in sorted({row for row, _ in cells}):
        rows.append((number, [cells.get((number, column), "") for column in range(1, width + 1)]))
        hidden += bool(sheet.row_dimensions[number].hidden)
    if hidden:
        warnings.warn(f"{path} hides {hidden} rows, which are read like the others.", ParfocalWarning, stacklevel=3)
    while rows and rows[0][1][0].startswith("#"):
        del rows[0]
    return rows


def _open(path: Path, *, values: bool) -> Any:
    import openpyxl  # only who reads a workbook waits for it

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of the looks of cells and of lists to choose from, which say nothing here
            return openpyxl.load_workbook(file, data_only=values)
    except Exception as error:  # whatever is in the file, a damaged one is one line
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ConfigError(
            f"cannot read {path} as an Excel workbook ({reason}). Save it as .xlsx or as a CSV."
        ) from error


def _cells(sheet: Any) -> dict[tuple[int, int], str]:
    """The text of the cells of a sheet that hold something, by row and column; none where the sheet is not shown.

    Only the cells that are there are looked at: a sheet whose last cell, with a format and no value, is at the bottom
    of the spreadsheet would else be walked for hours.
    """
    if sheet.sheet_state != "visible":
        return {}
    texts = {place: _text(cell) for place, cell in sheet._cells.items()}
    return {place: text for place, text in texts.items() if text.strip()}


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return _number(value, str(cell.number_format))
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def _number(value: int | float, shown_as: str) -> str:
    if value != int(value):
        return repr(value)
    if abs(value) >= _DIGITS_KEPT:  # Excel has rounded it; the exponent says so to whoever needs all digits
        return f"{value:.14e}"
    zeros = re.fullmatch("0{2,}", shown_as)
    return f"{int(value):0{len(zeros[0])}d}" if zeros and value >= 0 else str(int(value))


@dataclass(frozen=True)
class TableRow:
    """The cells of a row by their columns, without blanks around them, and the line that it begins in."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


@dataclass(frozen=True)
class Table:
    """The rows of a file below its header.

    Attributes:
        path: the file.
        columns: their names, those without a name left out.
        rows: those that hold something.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def needs(self, column: str, flag: str = "") -> None:
        """Check that a column is there.

        Args:
            column: its name.
            flag: how another one is named.

        Raises:
            ConfigError: it is not.
        """
        if column in self.columns:
            return
        alike = [
            name for name in self.columns if name.casefold().replace(" ", "") == column.casefold().replace(" ", "")
        ]
        hint = (
            f" Write {alike[0]!r} as it stands there."
            if alike
            else f" Name another one: {flag} COLUMN."
            if flag
            else ""
        )
        raise ConfigError(f"{self.path} has no column {column!r}; it has {', '.join(self.columns)}.{hint}")


def read_table(path: Path) -> Table:
    """Read a CSV (comma, semicolon, tab or bar; UTF-8, or UTF-16 as Excel's Unicode text) or the sheet of an .xlsx.

    Raises:
        ConfigError: it is absent or cannot be read, has no row, names a column twice, or a row has more or fewer cells
            than the header.
    """
    lines = read_lines(path)
    if not lines:
        raise ConfigError(f"{path} is empty.")
    header = _trimmed([one_line(name) for name in lines[0][1]])
    columns = [name for name in header if name]
    twice = sorted(name for name in set(columns) if columns.count(name) > 1)
    if twice:
        raise ConfigError(f"{path} has the column {twice[0]!r} twice: {', '.join(columns)}. Keep one.")
    rows, comments = [], []
    for line, cells in lines[1:]:
        if cells[0].lstrip().startswith("#"):
            comments.append(line)
        else:
            rows.append(_row(path, line, header, [cell.strip() for cell in cells]))
    if comments:
        some = some_of([str(line) for line in comments])
        warnings.warn(f"{path}: {len(comments)} rows begin with # and are left out (lines {some}).",
                      ParfocalWarning, stacklevel=3)  # fmt: skip
    if not rows:
        raise ConfigError(f"{path} has no rows below its header.")
    return Table(path, tuple(columns), tuple(rows))


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> TableRow:
    there = _trimmed(cells)
    # Empty cells at the end are what spreadsheets write; others mean that a separator has moved the cells before them.
    if len(there) > len(header):
        raise ConfigError(
            f"{path} has more cells than columns in line {line}. Put a cell that holds a comma into double quotes."
        )
    if len(cells) < len(header):
        raise ConfigError(
            f"{path} has {len(cells)} cells in line {line} and {len(header)} columns, so that a value may stand in the "
            "column of another. Write all cells, empty ones too."
        )
    same = [one_line(cell) == name for cell, name in zip(cells, header, strict=False) if name]
    if len(same) > 1 and sum(same) > len(same) / 2:
        raise ConfigError(f"line {line} of {path} repeats the header. Take it out.")
    return TableRow(line, {name: original_cell(cell) for name, cell in zip(header, cells, strict=False) if name})


def _trimmed(cells: Sequence[str]) -> list[str]:
    """The cells without empty ones at the end."""
    end = max((place for place, cell in enumerate(cells, start=1) if cell), default=0)
    return list(cells[:end])


def some_of(names: Collection[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
