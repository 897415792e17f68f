"""Which number a text is, and what a class that is a number is called."""

import math
import re
from collections.abc import Sequence

__all__ = ["class_name", "decimal_points", "number_hint", "number_of", "number_then_name"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CODE = re.compile(r"(-?)(0|[1-9]\d*)(?:\.(\d*))?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,.' \u00a0\u2009\u202f]\d{3})+", re.ASCII)


def number_of(text: str) -> float | None:
    """The finite number that a text is, in plain digits with a decimal point; None where it is none."""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def class_name(value: str) -> str:
    """A class as it is called: `1` and `1.0` are one, a code keeps all its digits and its leading zeros."""
    found = _CODE.fullmatch(value)
    if found is None:
        return value
    sign, whole, part = found[1], found[2], (found[3] or "").rstrip("0")
    digits = f"{whole}.{part}" if part else whole
    return digits if digits == "0" else sign + digits


def number_then_name(name: str) -> tuple[int, float, str]:
    """Sorts numbers by size before names by alphabet."""
    number = number_of(name)
    return (1, 0.0, name) if number is None else (0, number, name)


def decimal_points(values: Sequence[str]) -> tuple[str, ...] | None:
    """The numbers with points, where all have a decimal comma or none at all; None where that is not certain.

    Three digits after every comma could be thousands, and a point anywhere makes the comma something else.
    """
    with_comma = [value for value in values if "," in value]
    if not with_comma or not all(_DECIMAL_COMMA.fullmatch(value) for value in with_comma):
        return None
    if all(_THOUSANDS.fullmatch(value) for value in with_comma):
        return None
    if any("." in value or number_of(value) is None for value in values if "," not in value):
        return None
    return tuple(value.replace(",", ".") for value in values)


def number_hint(text: str) -> str:
    """What to write in place of a text that a person reads as a number; empty where nobody would."""
    if text.endswith("%") and number_of(text[:-1].strip()) is not None:
        return " Write shares without the percent sign."
    if _THOUSANDS.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text):
        return " Write numbers with a decimal point and without separators of thousands."
    if re.match(r"[<>~≤≥]\s*\d", text):
        return " Write a number, or leave the cell empty."
    if re.fullmatch(r"[+-]?[\d.]+\s*[^\W\d]+", text):
        return " Write numbers without their unit."
    return ""
