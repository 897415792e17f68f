"""The lines of a CSV, whatever a spreadsheet made of it: separator, coding, comments at its head."""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parfocal.errors import ConfigError
from parfocal.terminal import printable

__all__ = ["read_delimited"]

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_delimited(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that hold something, the header first, each with its number in the file.

    The separator is the one of comma, semicolon, tab and bar that the header has most of, outside quotes; a first line
    `sep=;` decides it. Lines before the header that begin with # are comments, as cBioPortal writes them.

    Raises:
        ConfigError: it is no text, in no UTF, a quote is not closed, or the header can be read in two ways.
    """
    text = _decoded(path, path.read_bytes())
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
    if b"\0" in content[:4096]:  # UTF-16 without its mark: of plain letters every second byte is 0
        head = content[:4096]
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
