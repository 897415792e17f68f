"""A table of text: a CSV or a workbook, each row with its line, and how lists of names are said in a message."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.cohort.delimited import read_delimited
from parfocal.cohort.spelling import one_line
from parfocal.cohort.workbook import is_workbook, read_workbook
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.tables import original_cell

__all__ = ["Table", "TableRow", "read_table", "some_of"]


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
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file.")
    try:
        lines = read_workbook(path) if is_workbook(path) else read_delimited(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}.") from error
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
