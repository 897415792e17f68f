"""The rows of an Excel workbook as text, as a person sees them there: whole numbers without `.0`, zeros in front."""

import datetime
import re
import warnings
from pathlib import Path
from typing import Any

from parfocal.cohort.spelling import one_line
from parfocal.errors import ConfigError, ParfocalWarning

__all__ = ["is_workbook", "read_workbook"]

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_DIGITS_KEPT = 10**15


def is_workbook(path: Path) -> bool:
    """Whether a file is a workbook, by its first bytes: many programs write plain text and call it .xls."""
    with path.open("rb") as file:
        return file.read(4) in (_ZIP, _OLE)


def read_workbook(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of the only sheet that holds something, the header first, each with its number in the sheet.

    Raises:
        ConfigError: it is no .xlsx, several sheets hold something, cells are merged, or a formula has no value.
    """
    if path.read_bytes().startswith(_OLE):
        raise ConfigError(f"cannot read {path}: it is an old or a locked Excel workbook. Save it as .xlsx or as a CSV.")
    values, formulas = _open(path, values=True), _open(path, values=False)
    sheets = [one.title for one in values.worksheets if _holds_something(one)]
    if len(sheets) != 1:
        found = f"{len(sheets)} sheets that hold something ({', '.join(sheets)})" if sheets else "no sheet with a cell"
        raise ConfigError(f"{path} has {found}; a table of labels has one. Keep one sheet, or save it as a CSV.")
    sheet, written = values[sheets[0]], formulas[sheets[0]]
    if sheet.merged_cells.ranges:
        merged = sorted(map(str, sheet.merged_cells.ranges))
        raise ConfigError(
            f"{path} has merged cells ({', '.join(merged[:3])}), of which only the first holds a value. Take them "
            "apart and fill every row."
        )
    rows, hidden = [], 0
    for number, (cells, own) in enumerate(zip(sheet.iter_rows(), written.iter_rows(), strict=False), start=1):
        texts = [_text(path, cell, formula) for cell, formula in zip(cells, own, strict=False)]
        if any(text.strip() for text in texts):
            rows.append((number, texts))
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


def _holds_something(sheet: Any) -> bool:
    if sheet.sheet_state != "visible":
        return False
    return any(cell is not None and str(cell).strip() for row in sheet.iter_rows(values_only=True) for cell in row)


def _text(path: Path, cell: Any, formula: Any) -> str:
    value = cell.value
    if value is None:
        if formula.value is not None:
            raise ConfigError(
                f"the cell {cell.coordinate} of {path} is a formula without a value. Open and save the workbook in a "
                "spreadsheet, or write values in place of formulas."
            )
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
