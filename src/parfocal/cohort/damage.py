"""What a spreadsheet made of a text before it was saved: dates, rounded numbers, errors of formulas."""

import re

__all__ = ["spreadsheet_damage"]

_MONTH = r"(jan|feb|mar|m[aä]r|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zä]{0,6}"
_DATE = re.compile(
    rf"\d{{1,2}}[-. ]+{_MONTH}\.?|{_MONTH}[-. ]+\d{{2}}(\d{{2}})?|\d{{4}}-\d\d-\d\d \d\d:\d\d(:\d\d)?", re.IGNORECASE
)
_ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
_ERROR = re.compile(r"#(REF|VALUE|NAME|DIV/0|NUM|NULL)[!?]")


def spreadsheet_damage(text: str, *, is_id: bool) -> str | None:
    """How a spreadsheet has spoilt a cell, as the end of a sentence; None where nothing looks like that.

    Args:
        text: an id or a class.
        is_id: whether it is an id, which must have all of its digits.
    """
    if _ERROR.fullmatch(text):
        return "is the error of a formula. Mend it in the spreadsheet"
    if _DATE.fullmatch(text):
        return "looks like a date that a spreadsheet made of a name or a range. Write the column as text"
    if is_id and _ROUNDED.fullmatch(text):
        return "looks like a long number that a spreadsheet has rounded. Write the column as text"
    return None
