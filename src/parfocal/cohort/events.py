"""Whether a time is that of an event, in the words of the tables that people have."""

import re
from collections import Counter
from collections.abc import Sequence

from parfocal.cohort.missing import word_of
from parfocal.cohort.numbers import number_of

__all__ = ["happened", "said_as_words"]

# cBioPortal writes 1:DECEASED and 0:LIVING; the number counts, and a word that says the reverse makes it neither.
_NUMBERED = re.compile(r"([01])\s*:\s*(.+)")
_YES = frozenset({"true", "yes", "dead", "deceased", "died", "event", "progressed", "recurred", "relapsed"})
_NO = frozenset(
    {"false", "no", "alive", "living", "censored", "no event", "not progressed", "disease free", "diseasefree"}
)


def happened(text: str) -> bool | None:
    """Whether the event was seen; None where the text does not say it plainly."""
    number = number_of(text)
    if number is not None:
        return bool(number) if number in (0, 1) else None
    word, numbered = word_of(text), _NUMBERED.fullmatch(text)
    if numbered is None:
        return True if word in _YES else False if word in _NO else None
    said, rest = numbered[1] == "1", word_of(numbered[2])
    return None if rest in (_NO if said else _YES) else said


def said_as_words(texts: Sequence[str]) -> str | None:
    """Which words were read as an event and which as none, in a sentence; None where all are 0 and 1."""
    words = Counter(text for text in texts if number_of(text) is None)
    if not words:
        return None
    seen = ", ".join(f'"{word}" {count}' for word, count in words.items() if happened(word))
    unseen = ", ".join(f'"{word}" {count}' for word, count in words.items() if not happened(word))
    return f"read as an event: {seen or 'no word'}; as censored: {unseen or 'no word'}."
