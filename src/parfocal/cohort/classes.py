"""From the text of labels to an `Outcome`: its kind is seen from the values where it is not named."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from parfocal.cohort.outcome import Outcome, OutcomeKind
from parfocal.cohort.reading import LabelledSlides
from parfocal.cohort.table import some_of
from parfocal.errors import ConfigError, ParfocalWarning

__all__ = ["AskedKind", "class_name", "number_of", "number_then_name", "outcome_as", "outcome_of"]

AskedKind = Literal["auto", OutcomeKind]

_MOST_CLASSES = 6  # more different values are a measurement, or names


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
    counts = Counter(names)
    listed = ", ".join(f"{name}: {counts[name]}" for name in sorted(counts, key=number_then_name)[:8])
    if len(counts) < 2:
        # A class that is called "none" was taken for a missing value: then the note says what is amiss.
        left_out = "".join(f" {note}" for note in given.notes)
        raise ConfigError(f"{given.target!r} has one class only ({listed}); two are needed to tell apart.{left_out}")
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


def class_name(value: str) -> str:
    """A class as it is called: `1` and `1.0` are one."""
    number = number_of(value)
    return value if number is None else f"{number:g}"


def number_of(text: str) -> float | None:
    """The finite number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def number_then_name(name: str) -> tuple[int, float, str]:
    """Sorts numbers by size before names by alphabet."""
    number = number_of(name)
    return (1, 0.0, name) if number is None else (0, number, name)


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
    found = {class_name(value) for value in given.values}
    if len(found) <= 2:
        return "binary"
    numbers = [number_of(name) for name in found]
    if all(number is not None for number in numbers):
        whole = all(number is not None and number == round(number) for number in numbers)
        return "multiclass" if whole and len(found) <= _MOST_CLASSES else "continuous"
    if len(found) > _MOST_CLASSES:
        raise ConfigError(
            f"{given.target!r} has {len(found)} classes ({some_of(sorted(found))}). Name the one to set against the "
            "rest (--positive NAME), or ask for all of them (--kind multiclass)."
        )
    return "multiclass"


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
    read = [number_of(value) for value in given.values]
    bad = [f"{value!r} ({slide})" for value, number, slide in zip(given.values, read, given.slides, strict=True)
           if number is None]  # fmt: skip
    if bad:
        raise ConfigError(f"{len(bad)} values of {given.target!r} are no numbers: {some_of(bad)}.")
    value = np.array(read, dtype=np.float64)
    if kind == "continuous":
        if not value.std() > 0:
            raise ConfigError(f"every slide has the value {value[0]:g} in {given.target!r}; there is nothing to learn.")
        return Outcome(given.target, kind, (), value, np.ones(len(value), dtype=bool))
    early = [f"{value[number]:g} ({given.slides[number]})" for number in np.flatnonzero(~(value > 0))]
    if early:
        raise ConfigError(f"{len(early)} times in {given.target!r} are not above 0: {some_of(early)}.")
    if given.events is None:
        raise ConfigError(f"{given.target!r} is to be survival, which needs the column of the event: --event COLUMN.")
    happened = [number_of(text) for text in given.events]
    odd = [
        f"{text!r} ({slide})"
        for text, number, slide in zip(given.events, happened, given.slides, strict=True)
        if number not in (0, 1)
    ]
    if odd:
        raise ConfigError(f"{len(odd)} events of {given.target!r} are neither 0 nor 1: {some_of(odd)}.")
    event = np.array(happened) == 1
    if not event.any():
        raise ConfigError(f"no slide has an event in {given.target!r}: all {len(event)} times are censored.")
    return Outcome(given.target, kind, (), value, event)
