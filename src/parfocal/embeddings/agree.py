"""What most slides of a cohort are like decides, whichever comes first; the others are named."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from parfocal.errors import MismatchError

__all__ = ["commonest", "listed"]

Kind = TypeVar("Kind", bound=Hashable)

_NAMED = 3


def commonest(kinds: Mapping[str, Kind], describe: Callable[[Kind], str], what: str) -> Kind:
    """The kind that most slides have.

    Args:
        kinds: of each slide.
        describe: a kind in words, as what a slide has.
        what: what cannot be done with two kinds, as the beginning of the message.

    Raises:
        MismatchError: no kind has more slides than every other one.
    """
    (kind, count), *others = Counter(kinds.values()).most_common()
    if others and others[0][1] == count:
        groups = "; ".join(
            f"{count} have {describe(one)} ({listed([slide for slide, own in kinds.items() if own == one])})"
            for one in (kind, others[0][0])
        )
        raise MismatchError(
            f"{what}: there are as many slides of one kind as of another, so neither is the odd one. {groups}. "
            "Keep one kind there, or make a store of each."
        )
    return kind


def listed(slides: list[str]) -> str:
    """A few names, and how many more there are."""
    more = len(slides) - _NAMED
    return ", ".join(slides[:_NAMED]) + (f" and {more} more" if more > 0 else "")
