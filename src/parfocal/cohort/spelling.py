"""Names that a person reads as one: they differ in case, in blanks, in the kind of dash, or in look-alike letters."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

from parfocal.cohort.numbers import number_of
from parfocal.errors import ConfigError

__all__ = ["check_spelling", "class_key", "id_key", "one_line"]

_INNER = re.compile(r"(?<=[^\W\d])[-.](?=\w)|(?<=\w)[-.](?=[^\W\d])")
_WHOLE = re.compile(r"\+?0*(\d+)(?:\.0*)?", re.ASCII)
_LOOK_ALIKE = str.maketrans({"l": "1", "I": "1", "|": "1", "O": "0", "o": "0"})


def one_line(text: str) -> str:
    """The text with every run of blanks and line ends as one blank, and without what is not seen."""
    return " ".join("".join(char for char in text if unicodedata.category(char) != "Cf").split())


def id_key(text: str) -> str:
    """Equal for two ids that a person takes for one: case, blanks, dashes, zeros around a whole number."""
    key = _plain(text).casefold()
    whole = _WHOLE.fullmatch(key)
    return whole[1] if whole else key


def class_key(text: str) -> str:
    """Equal for two classes that a person takes for one: as `id_key`, `MSI-H` is `MSI H`, and a number its value."""
    key = id_key(text)
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
    """One spelling of letters (NFKC), one kind of dash and quote, no blanks, nothing that is not seen."""
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category in ("Cf", "Zs", "Cc"):
            continue
        if category == "Pd" or char in "\u2212_":
            char = "-"
        kept.append("" if char in "\"'`\u2018\u2019\u201c\u201d\u00b4" else char)
    return "".join(kept)


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
    if len(plain) == 1:
        return "blanks, dashes, quotes or the coding of letters"
    if len({class_key(name) for name in names}) == 1:
        return "case, blanks or dashes"
    return "letters and digits that look alike"
