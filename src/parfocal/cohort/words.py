"""The words of a table: what people, portals, spreadsheets and statistics programs mean by a text.

- names that a person reads as one: they differ in case, blanks, dashes, a mark at the end, or look-alike letters;
- words that stand for no value;
- which number a text is, and what a class that is a number is called;
- what a spreadsheet made of a text before it was saved: dates, rounded numbers, errors of formulas.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from parfocal.errors import ConfigError

_PHRASES = (
    "unknown", "not available", "not applicable", "not evaluated", "not reported", "not assessed", "not determined",
    "not known", "not specified", "not recorded", "not provided", "not allowed to collect", "not requested",
)  # fmt: skip
MISSING = frozenset(
    {
        "", "na", "<na>", "n/a", "#n/a", "#na", "n.a.", "n.a", "n. a.", "nan", "-nan", "nat", "none", "null", "nil",
        ".", "..", "?", "??", "-", "--", "---", "'--", "'-", "missing", "(missing)", "(blank)", "unk", "no data",
        "[completed]", "[discrepancy]", "[pending]", "[na]", "[n/a]",
    }
    | {form for phrase in _PHRASES for form in (phrase, f"[{phrase}]", f"({phrase})")}
)  # fmt: skip
"""What a cell says, in lower case, that has no value: in TCGA, GDC, cBioPortal, spreadsheets and data frames."""

# They are the negative class of many columns: none, mild, severe; + and -.
_OFTEN_A_CLASS = frozenset({"none", "-", "nil"})


def word_of(text: str) -> str:
    """A cell as words are compared: lower case, plain dashes, single blanks."""
    plain = "".join("-" if unicodedata.category(char) == "Pd" or char == "\u2212" else char for char in text)
    return " ".join(plain.replace("\u2019", "'").casefold().split())


def missing_words(also: Iterable[str] = (), not_missing: Iterable[str] = ()) -> frozenset[str]:
    """The words that stand for no value: the usual ones, and those that somebody has named; an empty cell always does.

    Args:
        also: words beside the usual ones.
        not_missing: words that are values, although they are usual ones.
    """
    return (MISSING | set(map(word_of, also))) - set(map(word_of, not_missing)) | {""}


def may_be_class(words: Mapping[str, int], counts: Mapping[str, int]) -> str | None:
    """A word that was taken for a missing value and is rather a class of its own; None where no word is.

    That is `none` or `-` where it is as frequent as a class, and `-` wherever there is a `+`.

    Args:
        words: what was taken for a missing value, with how often.
        counts: the values that are left, likewise.
    """
    if not counts:
        return None
    for word, count in words.items():
        if word_of(word) in _OFTEN_A_CLASS and (
            count >= min(counts.values()) or (word_of(word) == "-" and "+" in counts)
        ):
            return word
    return None


def show_words(words: Mapping[str, int], most: int = 6) -> str:
    """The words with how often each is there, the most frequent first."""
    named = Counter(words).most_common()
    shown = ", ".join(f'"{word}" {count}' if word else f"empty {count}" for word, count in named[:most])
    return shown + (f" and {len(named) - most} more words" if len(named) > most else "")


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


_INNER = re.compile(r"(?<=[^\W\d])[-.](?=\w)|(?<=\w)[-.](?=[^\W\d])")
_WHOLE = re.compile(r"\+?0*(\d+)(?:\.0*)?", re.ASCII)
# Letters of Cyrillic and Greek that cannot be told from Latin ones, as they come from keyboards and scanned forms.
_OTHER_SCRIPTS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf\u03bd",
    "ABEKMHOPCTYXSIJaeopcyxsijABEZHIKMNOPTYXov",
)
_AFTER_A_NAME = ".,:;!?*"
_LOOK_ALIKE = str.maketrans({"l": "1", "I": "1", "|": "1", "O": "0", "o": "0"})


def id_key(text: str) -> str:
    """Equal for two ids that a person takes for one: case, blanks, dashes, alphabet, zeros around a whole number."""
    key = _plain(text).casefold()
    whole = _WHOLE.fullmatch(key)
    return whole[1] if whole else key


def class_key(text: str) -> str:
    """Equal for two classes that a person takes for one: as `id_key`, and `MSI-H` is `MSI H`, `neg.` `neg`, 1.0 1."""
    key = id_key(text)
    key = key.rstrip(_AFTER_A_NAME) or key
    number = number_of(key)
    if number is None:
        return _INNER.sub("", key)
    return key if key.isdigit() else f"{number:.17g}"  # a long code keeps its digits, which a float would lose


def check_spelling(where: str, counts: Mapping[str, int], *, classes: bool = False) -> None:
    """Check that no two values of a column are one that is written in two ways.

    They are neither joined nor kept apart silently: joined, two classes could be lost; apart, one class would be two,
    or a patient lie in two folds.

    Args:
        where: the column, as a message names it.
        counts: how often each value is there.
        classes: whether they are classes and not ids.

    Raises:
        ConfigError: two are so alike that a person has to say what they are.
    """
    keys: list[Callable[[str], str]] = [class_key, _look_alike] if classes else [id_key]
    for key in keys:
        for names in _alike(counts, key):
            listed = " and ".join(f"{name!r} ({counts[name]})" for name in names)
            raise ConfigError(
                f"{where} has {listed}, which differ only in {_difference(names)}. "
                "Write them alike in the table where they are one, and more apart where they are not."
            )


def _alike(names: Iterable[str], key: Callable[[str], str]) -> Iterable[tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return (tuple(several) for several in found.values() if len(several) > 1)


def _plain(text: str) -> str:
    """One spelling of letters (NFKC), one alphabet, one kind of dash and quote, no blanks, nothing that is not seen."""
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category in ("Cf", "Zs", "Cc"):
            continue
        if category == "Pd" or char in "\u2212_":
            char = "-"
        kept.append("" if char in "\"'`\u2018\u2019\u201c\u201d\u00b4" else char)
    return "".join(kept).translate(_OTHER_SCRIPTS)


def _look_alike(name: str) -> str:
    """The name with letters and digits that look alike as one; of digits alone nothing is taken for a letter."""
    key = _INNER.sub("", _plain(name))
    return key if key.isdigit() else key.translate(_LOOK_ALIKE).casefold()


def _difference(names: tuple[str, ...]) -> str:
    """In what the names differ, as the end of a sentence."""
    plain = {_plain(name) for name in names}
    if len({name.casefold() for name in names}) == 1:
        return "upper and lower case"
    if all(number_of(one) is not None for one in plain):
        return "how one number is written"
    if len(plain) == 1 and any(name.translate(_OTHER_SCRIPTS) != name for name in names):
        return "letters of two alphabets that look alike"
    if len(plain) == 1:
        return "blanks, dashes, quotes or the coding of letters"
    if len({class_key(name) for name in names}) == 1:
        return "case, blanks, dashes, alphabet or what stands at the end"
    return "letters and digits that look alike"
