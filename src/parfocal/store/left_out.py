"""Slides whose rows cannot be used: named and left out of a cohort, which goes on without them.

What most slides of a cohort are like decides, whichever comes first; the others are named.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from parfocal.errors import MismatchError, ParfocalWarning, StoreError
from parfocal.store.set import EmbeddingSet
from parfocal.table import some_of

Kind = TypeVar("Kind", bound=Hashable)


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
            f"{count} have {describe(one)} ({some_of([slide for slide, own in kinds.items() if own == one])})"
            for one in (kind, others[0][0])
        )
        raise MismatchError(
            f"{what}: there are as many slides of one kind as of another, so neither is the odd one. {groups}. "
            "Keep one kind there, or make a store of each."
        )
    return kind


_NAMED = 20


class LeftOut:
    """Which slides of a cohort could not be read, each with its reason.

    A features file that is damaged, is absent, is not the one that was indexed, or has rows that are not finite costs
    a cohort one slide. Nothing stands in for it, and it is never left out without a word.
    """

    def __init__(self, *, strict: bool = False) -> None:
        """Begin with none; a strict one leaves nothing out and raises instead, for callers who named the slides."""
        self.reasons: dict[str, str] = {}
        self._strict = strict

    @contextmanager
    def reading(self, slide: str) -> Iterator[None]:
        """Leave the slide out where its files cannot be read; all that is done with it belongs into the block."""
        try:
            yield
        except (StoreError, OSError) as error:
            if self._strict:
                raise
            self.reasons.setdefault(slide, " ".join(str(error).split()))

    def keep(self, slides: Iterable[str]) -> tuple[str, ...]:
        """The slides that can be used, in their order."""
        return tuple(slide for slide in slides if slide not in self.reasons)

    def note(self) -> str | None:
        """One sentence that names them; None where there are none."""
        if not self.reasons:
            return None
        named = [f"{slide} ({reason.rstrip('.')})" for slide, reason in sorted(self.reasons.items())]
        more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        slides = "1 slide cannot be read and is" if len(named) == 1 else f"{len(named)} slides cannot be read and are"
        return f"{slides} left out: {'; '.join(named[:_NAMED])}{more}."

    def notes(self, *, stacklevel: int = 2) -> list[str]:
        """The sentence, said as a warning too; nothing where there are none."""
        note = self.note()
        if note is None:
            return []
        warnings.warn(note, ParfocalWarning, stacklevel=stacklevel + 1)
        return [note]

    def refuse_none_left(self, slides: Collection[str], source: str) -> None:
        """Refuse a cohort of which no slide is left.

        Raises:
            StoreError: none is.
        """
        lost = sorted(slide for slide in slides if slide in self.reasons)
        if lost and not self.keep(slides):
            raise StoreError(
                f"none of the {len(lost)} slides of {source} can be read; the first, {lost[0]}: {self.reasons[lost[0]]}"
            )


def with_readable_index(source: EmbeddingSet, left_out: LeftOut) -> EmbeddingSet:
    """The set without the slides whose index cannot be read; features are not opened.

    Raises:
        StoreError: no slide is left.
    """
    return _checked(source, left_out, source.n_tiles if source.kind == "tiles" else source.n_regions)


def with_readable_rows(
    source: EmbeddingSet, left_out: LeftOut, read: Callable[[str], object] | None = None
) -> EmbeddingSet:
    """The set without the slides whose rows cannot be read; for whoever reads them many times afterwards.

    Args:
        source: the set.
        left_out: takes the others.
        read: reads a slide of the set, where that is done through a cache.

    Raises:
        StoreError: no slide is left.
    """
    return _checked(source, left_out, read or (source.read if source.kind == "tiles" else source.read_regions))


def _checked(source: EmbeddingSet, left_out: LeftOut, read: Callable[[str], object]) -> EmbeddingSet:
    for slide in source.slides:
        if slide not in left_out.reasons:
            with left_out.reading(slide):
                read(slide)
    left_out.refuse_none_left(source.slides, source.name)
    return replace(source, slides=left_out.keep(source.slides))
