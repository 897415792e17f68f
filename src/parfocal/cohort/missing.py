"""Words that stand for no value, as public portals, spreadsheets and statistics programs write them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["MISSING", "may_be_class", "missing_words", "show_words", "word_of"]

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
