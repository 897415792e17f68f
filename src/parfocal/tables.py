"""Tables that people open in a spreadsheet: a cell of text stays text there, and reads back as it was."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parfocal.provenance import writing

__all__ = ["original_cell", "read_csv", "safe_cell", "write_csv"]

# What a spreadsheet takes for a formula; an apostrophe before it makes it text there. Apostrophes that stand there
# already count, so that taking one away gives back what was written.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n].", re.DOTALL)


def safe_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that looks like one gets an apostrophe before it.

    Numbers stay numbers, negative ones and those that are written as text included.
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    return value if _is_number(value) else f"'{value}"


def original_cell(text: str) -> str:
    """The text that `safe_cell` made `text` of."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole or not at all, in UTF-8, with safe cells.

    Names of files that are no UTF-8 keep their bytes.
    """
    with (
        writing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        table = csv.writer(text)
        table.writerow([safe_cell(name) for name in columns])
        table.writerows([safe_cell(cell) for cell in row] for row in rows)


def read_csv(path: Path) -> Iterator[list[str]]:
    """The rows of a table that `write_csv` wrote, as text, the names of the columns first."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        for row in csv.reader(text):
            yield [original_cell(cell) for cell in row]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text
