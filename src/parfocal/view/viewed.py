"""What is looked at: one set of a store, where its slides are, and what is known of each without reading its rows."""

import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from parfocal.errors import ParfocalError, SlideError
from parfocal.geometry import format_mpp
from parfocal.slides import SlideSource, find_slides
from parfocal.slides.on_disk import path_problem
from parfocal.store import EmbeddingSet, Source, open_sets, stored_file
from parfocal.store.choose import the_set
from parfocal.store.fingerprint import is_embedded_file, slide_state
from parfocal.store.reading import Reading


class NothingThereError(ParfocalError):
    """There is nothing at an address: no such slide, region, overlay or tile; the text says so."""


@dataclass(frozen=True)
class SlideFacts:
    """What a slide's index says.

    Attributes:
        n_regions: of the slide.
        n_tiles: of its regions, by magnification; nothing of a set of regions.
        shares_read: of its planned tiles, by magnification, coarse to fine; those that were read whole are left out.
        source: its file and resolution; None where nobody knows the file.
        slide_mpp: micrometres per pixel of level 0; None where it is not known.
        size_px: of level 0; None where it is not known.
        stored: the attributes of its index.
    """

    n_regions: int
    n_tiles: Mapping[str, int]
    shares_read: Mapping[str, float]
    source: SlideSource | None
    slide_mpp: float | None
    size_px: tuple[int, int] | None
    stored: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ViewedSet:
    """A set and the files of its slides.

    Attributes:
        embeddings: the set.
        named: slide files that were named beside it, by id.
        stopped: set when nobody looks any more, so that no file is read to its end.
    """

    embeddings: EmbeddingSet
    named: Mapping[str, SlideSource]
    stopped: threading.Event = field(default_factory=threading.Event)
    _facts: dict[int, SlideFacts] = field(default_factory=dict)
    _is_same: dict[tuple[int, str], bool] = field(default_factory=dict)
    _reading: defaultdict[int, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @cached_property
    def slides(self) -> tuple[str, ...]:
        """The ids; a slide's place among them is its number."""
        return self.embeddings.slides

    def facts(self, number: int) -> SlideFacts:
        """What is known of a slide.

        Raises:
            StoreError: its index is damaged.
        """
        if number not in self._facts:
            self._facts[number] = self._found(self.slides[number])
        return self._facts[number]

    def known(self, number: int) -> SlideFacts | None:
        """The same where it has been asked before."""
        return self._facts.get(number)

    def problem(self, number: int) -> str | None:
        """Why a slide's file cannot be shown, in one line; None where nothing is seen without reading it."""
        facts = self.facts(number)
        source = facts.source
        if source is None:
            return "the store does not say where the slide's file is. Name it or its folder: --slides."
        problem = path_problem(source.path)
        if problem is not None:
            return f"{source.path} cannot be shown: {problem}. Name where the slides are now: --slides."
        if not is_embedded_file(source.path, facts.stored, trust_times=True):
            return _changed(source.path)
        return None

    def checked_source(self, number: int) -> SlideSource:
        """The file of a slide, which is the one that was embedded: where only its times differ it is read whole, once.

        Raises:
            SlideError: it cannot be shown; the text says why.
        """
        facts, problem = self.facts(number), self.problem(number)
        if facts.source is None or problem is not None:
            raise SlideError(str(problem))
        path = facts.source.path
        with self._reading[number]:  # several threads ask for pictures of one slide
            key = number, slide_state(path).times
            if key not in self._is_same:
                self._is_same[key] = is_embedded_file(path, facts.stored, stop=self.stopped.is_set)
            if not self._is_same[key]:
                raise SlideError(_changed(path))
        return facts.source

    def _found(self, slide: str) -> SlideFacts:
        embeddings = self.embeddings
        stored = embeddings.attributes(slide)
        size = int(stored.get("level0_width", 0)), int(stored.get("level0_height", 0))
        of_tiles = embeddings.kind == "tiles"
        n_tiles = {format_mpp(mpp): count for mpp, count in embeddings.n_tiles(slide).items()} if of_tiles else {}
        return SlideFacts(
            embeddings.n_regions(slide),
            n_tiles,
            _shares_read(embeddings.mpps, Reading.of(stored)),
            stored_file(slide, stored, self.named),
            mpp if math.isfinite(mpp := float(stored["slide_mpp"])) else None,
            size if all(size) else None,
            stored,
        )


def _shares_read(mpps: Sequence[float], reading: Reading | None) -> dict[str, float]:
    """By magnification, coarse to fine, the share of its tiles that was read; nothing of those that were read whole."""
    if reading is None:
        return {}
    shares = (*reading.coarser, reading.budget)
    return {format_mpp(mpp): share for mpp, share in zip(mpps[-len(shares) :], shares, strict=False) if share < 1}


def _changed(path: Path) -> str:
    return (
        f"the file has changed since it was embedded: {path} is another one, and would lie wrongly under these "
        "regions. Put the right file there, or embed it again into a store of its own."
    )


def viewed_set(source: Source, name: str | None, slides: Sequence[Path]) -> ViewedSet:
    """The set of a store that is looked at.

    Args:
        source: a store, or a set of it.
        name: of the set, or the beginning of its name; the store's only set of tiles, or its only set, where None.
        slides: where slide files are now: files, folders and manifests.

    Raises:
        ConfigError: there is no such set, or several are meant.
        StoreError: the store holds no set.
    """
    found = the_set(open_sets(source), str(source), name, kind="tiles")
    return ViewedSet(found, {one.slide: one for one in find_slides(slides)} if slides else {})
