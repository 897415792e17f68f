"""From the text of labels to an `Outcome`: its kind is seen from the values where it is not named."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from parfocal.cohort.outcome import Outcome, OutcomeKind, happened
from parfocal.cohort.reading import LabelledSlides
from parfocal.cohort.settings import AskedKind
from parfocal.cohort.words import (
    check_spelling,
    class_key,
    class_name,
    decimal_points,
    may_be_class,
    number_hint,
    number_of,
    number_then_name,
    show_words,
    word_of,
)
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.table import some_of

MOST_CLASSES = 6
"""More different values than these are a measurement, or names."""
_LONG_CODE = 6
_RARE = 5  # a class this much rarer than the second largest may be a slip of the pen
# Grades and stages are often written as numbers and words in one column: 0, 1+, 2+; 3a, 3b; I, II, IV.
_GRADE = re.compile(r"\d+\s*(\+|[a-dA-D])?|[IVX]+[A-C]?\d?")
# What registers and statistics programs write for an unknown value: 99, -9, 888, 9998.
_CODE_OF_MISSING = re.compile(r"-?(77+|88+|99+|99+[78])(\.0+)?|-[789](\.0+)?")


def outcome_of(
    given: LabelledSlides, *, kind: AskedKind = "auto", positive: str | None = None, order: Sequence[str] = ()
) -> Outcome:
    """What is to be predicted.

    Where no kind is asked for: an event makes it survival, a positive class binary, an order ordinal. Two different
    values are two classes, the later one (by number or alphabet) positive; three to six that are text or whole numbers
    are classes without order; other numbers are a number.

    Args:
        given: the text of the labels, and of the events for survival.
        kind: what the target is.
        positive: the class that counts as positive, against all others.
        order: the classes of an ordinal target from low to high; numbers need none.

    Raises:
        ConfigError: the values do not make the kind, in one line that says why.
    """
    kind = _settled(given, kind, positive, order)
    if kind in ("continuous", "survival"):
        return _numbers(given, kind)
    names = [class_name(value) for value in given.values]
    counts = _class_counts(given)
    listed = _listed(counts)
    if len(counts) < 2:
        # A class that is called "none" was taken for a missing value: then the note says what is amiss.
        left_out = "".join(f" {note}" for note in given.notes)
        remedy = " If one of these words is a class, say so: --not-missing WORD."
        raise ConfigError(
            f"{given.target!r} has one class only ({listed}); two are needed to tell apart.{left_out}"
            f"{remedy if given.missing.keys() - {''} else ''}"
        )
    classes = _classes(given.target, counts, listed, kind, positive, order)
    if kind == "binary" and positive is not None:
        value = np.array([name == classes[1] for name in names], dtype=np.float64)
    else:
        number = {name: place for place, name in enumerate(classes)}
        value = np.array([number[name] for name in names], dtype=np.float64)
    return Outcome(given.target, kind, classes, value, np.ones(len(value), dtype=bool))


def outcome_as(given: LabelledSlides, like: Outcome) -> Outcome:
    """The labels of another cohort as those of the one that was learnt from: same kind, same classes, same numbers.

    Raises:
        ConfigError: they hold a class that `like` has not, or do not make its kind.
    """
    if like.kind in ("continuous", "survival"):
        return replace(_numbers(given, like.kind), target=like.target)
    names = [class_name(value) for value in given.values]
    number = {name: place for place, name in enumerate(like.classes)}
    known = {class_key(name): name for name in like.classes}
    alike = [(name, known[class_key(name)]) for name in names if known.get(class_key(name), name) != name]
    if alike:
        raise ConfigError(
            f"{given.target!r} of the test cohort has {alike[0][0]!r} ({names.count(alike[0][0])}), which may be "
            f"{alike[0][1]!r} of the training cohort. Write them alike in the table."
        )
    if like.kind == "binary" and like.classes[0] == f"not {like.classes[1]}":
        value = np.array([name == like.classes[1] for name in names], dtype=np.float64)
    else:
        strange = sorted(set(names) - set(number), key=number_then_name)
        if strange:
            raise ConfigError(
                f"{given.target!r} of the test cohort holds {some_of(strange)}, which the training cohort has not; "
                f"it has {', '.join(like.classes)}. Leave these slides out."
            )
        value = np.array([number[name] for name in names], dtype=np.float64)
    return Outcome(like.target, like.kind, like.classes, value, np.ones(len(value), dtype=bool))


def _class_counts(given: LabelledSlides) -> Counter[str]:
    """How many rows have each class.

    Raises:
        ConfigError: two classes may be one that is written in two ways, or a word that was taken for a missing value
            is rather a class.
    """
    counts = Counter(map(class_name, given.values))
    check_spelling(repr(given.target), counts, classes=True)
    words = {word: count for word, count in given.missing.items() if word_of(word) not in given.settled}
    word = may_be_class(words, counts)
    if word is not None and any(number_of(name) is None for name in counts):
        raise ConfigError(
            f"{word!r} ({given.missing[word]}) in {given.target!r} may be a missing value, or a class beside "
            f"{_listed(counts)}. Say which: --missing {word}, or --not-missing {word}."
        )
    return counts


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {counts[name]}" for name in sorted(counts, key=number_then_name)[:8])


def _settled(given: LabelledSlides, kind: AskedKind, positive: str | None, order: Sequence[str]) -> OutcomeKind:
    """The kind that is asked for, or seen."""
    if given.events is not None and kind not in ("auto", "survival"):
        raise ConfigError(f"the column of an event makes {given.target!r} survival, and it is to be {kind}. Drop one.")
    if positive is not None and (given.events is not None or kind not in ("auto", "binary")):
        asked = "survival" if given.events is not None else kind
        raise ConfigError(f"a positive class makes {given.target!r} binary, and it is to be {asked}. Drop one.")
    if order and (given.events is not None or positive is not None or kind not in ("auto", "ordinal")):
        raise ConfigError(f"an order makes {given.target!r} ordinal, and something else is asked for too. Drop one.")
    if given.events is not None:
        return "survival"
    if kind == "survival":
        raise ConfigError(f"{given.target!r} is to be survival, which needs the column of the event: --event COLUMN.")
    if kind != "auto":
        return kind
    if positive is not None:
        return "binary"
    if order:
        return "ordinal"
    counts = Counter(map(class_name, given.values))
    found = sorted(counts, key=number_then_name)
    if decimal_points(given.values) is not None and len(found) > 2:
        if len(found) > MOST_CLASSES:
            return "continuous"
        raise ConfigError(
            f"the values of {given.target!r} hold commas ({some_of(found)}). Name the kind: --kind continuous where "
            "they are numbers with a decimal comma, --kind multiclass where they are names."
        )
    # A code with zeros in front is a name: 007 is not 7.
    words = [name for name in found if number_of(name) is None or re.match(r"0\d", name)]
    if not words and len(found) > 2:
        whole = all(number is not None and number.is_integer() for number in map(number_of, found))
        if not whole or len(found) > MOST_CLASSES:
            _ask_about_long_codes(given, counts)
            return "continuous"
    _ask_about_mixture(given, _class_counts(given), words)
    if len(found) > MOST_CLASSES:
        raise ConfigError(
            f"{given.target!r} has {len(found)} classes ({some_of(found)}). Name the one to set against the "
            f"rest (--positive NAME), or ask for all of them (--kind multiclass).{number_hint(found[-1])}"
        )
    return "binary" if len(found) <= 2 else "multiclass"


def _ask_about_mixture(given: LabelledSlides, counts: Mapping[str, int], words: Sequence[str]) -> None:
    """Raise where one of the values is hardly a class like the others; whoever names a kind is not asked."""
    remedy = "If that is no class, empty these cells or say so (--missing WORD...); if it is, name the kind (--kind)."
    strange = [word for word in words if not _GRADE.fullmatch(word)]
    if strange and len(words) < len(counts):
        listed = ", ".join(f"{word!r} ({counts[word]})" for word in strange[:3])
        numbers = _listed({name: counts[name] for name in counts if name not in words})
        raise ConfigError(
            f"{given.target!r} holds numbers ({numbers}) and words: {listed}. {remedy}{number_hint(strange[0])}"
        )
    if len(counts) < 3 or len(counts) > MOST_CLASSES:
        return
    second = sorted(counts.values())[-2]
    rare = [name for name, count in counts.items() if count * _RARE < second]
    codes = _codes_of_missing(given, counts)
    if codes or (rare and len(counts) - len(rare) == 2):
        odd = ", ".join(f"{name!r} ({counts[name]})" for name in codes or rare)
        raise ConfigError(
            f"{given.target!r} would have {len(counts)} classes ({_listed(counts)}), {odd} among them. {remedy}"
        )


def _ask_about_long_codes(given: LabelledSlides, counts: Mapping[str, int]) -> None:
    """Raise where whole numbers of many digits, all as long, come back again and again, as codes of diagnoses do."""
    digits = {len(name) for name in counts}
    as_long = all(name.isdigit() for name in counts) and len(digits) == 1 and min(digits) >= _LONG_CODE
    if as_long and 2 * len(counts) <= sum(counts.values()):
        raise ConfigError(
            f"the numbers of {given.target!r} may be codes ({some_of(sorted(counts))}). Name the kind: --kind "
            "multiclass or --positive CODE where they are classes, --kind continuous where they are numbers."
        )


def _codes_of_missing(given: LabelledSlides, counts: Mapping[str, int]) -> list[str]:
    """Of whole numbers from 0 to 4, those such as 9 and 99, which many registers write for an unknown class."""
    codes = [name for name in counts if (name == "9" or _CODE_OF_MISSING.fullmatch(name)) and name not in given.settled]
    return codes if all(name in ("0", "1", "2", "3", "4") for name in counts.keys() - set(codes)) else []


def _classes(
    target: str, counts: Counter[str], listed: str, kind: OutcomeKind, positive: str | None, order: Sequence[str]
) -> tuple[str, ...]:
    """The classes in the order of their numbers."""
    by_name = sorted(counts, key=number_then_name)
    if kind == "binary":
        if positive is not None:
            chosen = class_name(positive)
            if chosen not in counts:
                raise ConfigError(f"{target!r} has no class {positive!r}; it has {listed}.")
            others = [name for name in by_name if name != chosen]
            return (others[0] if len(others) == 1 else f"not {chosen}", chosen)
        if len(counts) > 2:
            raise ConfigError(
                f"{target!r} has {len(counts)} classes ({listed}), and is to be binary. "
                "Name the one to set against the rest: --positive NAME (positive=...)."
            )
        return by_name[0], by_name[1]
    if len(counts) == 2:
        raise ConfigError(f"{target!r} has two classes ({listed}), which are binary and not {kind}.")
    if kind == "multiclass":
        return tuple(by_name)
    if not order:
        names = [name for name in by_name if number_of(name) is None]
        if names:
            raise ConfigError(
                f"the classes of {target!r} are names ({some_of(by_name)}), whose order cannot be guessed. "
                "Name them from low to high: --order LOW ... HIGH."
            )
        return tuple(by_name)
    asked = [class_name(one) for one in order]
    if len(set(asked)) < len(asked):
        raise ConfigError(f"the order of {target!r} names a class twice: {', '.join(asked)}.")
    strange = [name for name in by_name if name not in asked]
    if strange:
        raise ConfigError(f"the order of {target!r} does not name {some_of(strange)}. Name all classes, low to high.")
    absent = [name for name in asked if name not in counts]
    if absent:
        warnings.warn(f"no slide has the class {some_of(absent)} of {target!r}.", ParfocalWarning, stacklevel=4)
    return tuple(name for name in asked if name in counts)


def _numbers(given: LabelledSlides, kind: OutcomeKind) -> Outcome:
    """A number or a time for each slide."""
    read = [number_of(value) for value in decimal_points(given.values) or given.values]
    bad = [(value, slide) for value, number, slide in zip(given.values, read, given.slides, strict=True)
           if number is None]  # fmt: skip
    if bad:
        listed = some_of([f"{value!r} ({slide})" for value, slide in bad])
        raise ConfigError(f"{len(bad)} values of {given.target!r} are no numbers: {listed}.{number_hint(bad[0][0])}")
    value = np.array(read, dtype=np.float64)
    _ask_about_codes(given, value)
    if kind == "continuous":
        if not value.std() > 0:
            raise ConfigError(f"every slide has the value {value[0]:g} in {given.target!r}; there is nothing to learn.")
        return Outcome(given.target, kind, (), value, np.ones(len(value), dtype=bool))
    early = [f"{value[number]:g} ({given.slides[number]})" for number in np.flatnonzero(~(value > 0))]
    if early:
        raise ConfigError(f"{len(early)} times in {given.target!r} are not above 0: {some_of(early)}.")
    if given.events is None:
        raise ConfigError(f"{given.target!r} is to be survival, which needs the column of the event: --event COLUMN.")
    seen = [happened(text) for text in given.events]
    odd = [f"{text!r} ({slide})" for text, own, slide in zip(given.events, seen, given.slides, strict=True)
           if own is None]  # fmt: skip
    if odd:
        raise ConfigError(
            f"{len(odd)} events of {given.target!r} are neither 0 nor 1: {some_of(odd)}. Write 1 where the event was "
            "seen and 0 where the time is censored."
        )
    event = np.array(seen, dtype=bool)
    if not event.any():
        raise ConfigError(f"no slide has an event in {given.target!r}: all {len(event)} times are censored.")
    if len(np.unique(value)) < 2:
        raise ConfigError(f"every slide has the time {value[0]:g} in {given.target!r}; there is no order to learn.")
    return Outcome(given.target, kind, (), value, event)


def _ask_about_codes(given: LabelledSlides, value: Float64[np.ndarray, " slide"]) -> None:
    """Raise where a number such as -999, far from all others or alone below 0, may stand for a missing value."""
    is_code = np.array([_CODE_OF_MISSING.fullmatch(text) is not None and text not in given.settled
                        for text in given.values])  # fmt: skip
    others = value[~is_code]
    if not is_code.any() or len(others) == 0:
        return
    low, high = float(others.min()), float(others.max())
    below = (value < low - (high - low)) | ((value < 0) & (low >= 0))
    far = np.flatnonzero(is_code & (below | (value > high + (high - low))))
    if len(far):
        counts = Counter(given.values[number] for number in far)
        raise ConfigError(
            f"{given.target!r} holds {show_words(counts)} and else {low:g} to {high:g}. Say whether that stands for a "
            f"missing value (--missing {next(iter(counts))}) or is a number (--not-missing {next(iter(counts))})."
        )
