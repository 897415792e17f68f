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
        ConfigError: it is absent, or has no row.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = [name.strip() for name in table.fieldnames or []]
        rows = [
            {name.strip(): (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            for row in table
        ]
    if not rows:
        raise ConfigError(f"{path} has no rows below its header.")
    return rows, columns


def some_of(names: Collection[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
