"""A CSV as rows of text, and how lists of names are said in a message."""

import csv
from collections.abc import Collection
from pathlib import Path

from parfocal.errors import ConfigError

__all__ = ["MISSING", "read_table", "some_of"]

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
"""What a cell says, in lower case, that has no value."""


def read_table(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV as text without blanks around it, and its columns.

    Raises:
        ConfigError: it is absent, no CSV in UTF-8, or has no row; a column stands there twice, or a row has more cells
            than there are columns.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = [name.strip() for name in table.fieldnames or []]
            rows = [_row(path, table.line_num, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}. Expected is a CSV in UTF-8.") from error
    twice = sorted(name for name in set(columns) if name and columns.count(name) > 1)
    if twice:
        raise ConfigError(f"{path} has the column {twice[0]!r} twice: {', '.join(columns)}. Keep one.")
    if not rows:
        raise ConfigError(f"{path} has no rows below its header.")
    return rows, columns


def _row(path: Path, line: int, row: dict[str | None, str | list[str] | None]) -> dict[str, str]:
    beyond = row.pop(None, None) or []
    # Empty cells at the end are what spreadsheets write; others mean that a comma has moved the cells before them.
    if any(cell.strip() for cell in beyond):
        raise ConfigError(
            f"{path} has more cells than columns in line {line}. Put a cell that holds a comma into double quotes."
        )
    return {name.strip(): value.strip() if isinstance(value, str) else "" for name, value in row.items() if name}


def some_of(names: Collection[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
