"""Batches of training regions, streamed: never more in memory than two windows of regions and the slides being read.

The order in which they come is a pure function of a few integers. A stream goes through *visits*: one slide, a fixed
number of its regions. Every slide has one visit in a pass, so that slides weigh the same whatever their size. A
*window* of visits is shuffled and cut into batches; it is all that has to be in memory. Any batch of any stream can be
named without going through those before it: that is what makes a run resumable, and the same whatever the number of
loading threads. A run of several processes has a *stream* for each, or several; a step takes a batch of every one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from parfocal.errors import StoreError
from parfocal.pretrain.holdout import SlidePart
from parfocal.region_encoder.batch import RegionBatch, gather_regions
from parfocal.store import EmbeddingSet, SlideTokens

# Each kind of draw has its own random stream.
_PASS, _SLIDE, _WINDOW = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Visit:
    """Some regions of one slide.

    Attributes:
        part: which of the training parts.
        regions: the slide's region numbers; one may come twice where the slide has fewer than a visit takes.
    """

    part: int
    regions: Int64[np.ndarray, " region"]


@dataclass(frozen=True, eq=False)
class RegionOrder:
    """Where each region of each batch comes from.

    Attributes:
        parts: the training regions of each slide.
        batch: regions of a batch, of one stream.
        per_visit: regions of a visit.
        per_window: visits of a window.
        neighbours: how many regions of one visit stay together in the shuffle; above 1 a batch holds several regions
            of a slide however many slides there are.
        seed: of all draws.
        stream: which stream this is.
        n_streams: how many streams there are.
    """

    parts: Sequence[SlidePart]
    batch: int
    per_visit: int
    per_window: int
    neighbours: int
    seed: int
    stream: int
    n_streams: int

    @property
    def window_size(self) -> int:
        """Regions of a window."""
        return self.per_visit * self.per_window

    def visits(self, window: int) -> list[Visit]:
        """The visits of a window of this stream; streams never share a visit."""
        first = window * self.per_window
        numbers = [(first + i) * self.n_streams + self.stream for i in range(self.per_window)]
        passes = {number // len(self.parts) for number in numbers}
        orders = {p: np.random.default_rng([self.seed, _PASS, p]).permutation(len(self.parts)) for p in passes}
        found = []
        for number in numbers:
            turn, place = divmod(number, len(self.parts))
            part = int(orders[turn][place])
            found.append(Visit(part, self._regions(part, turn)))
        return found

    def shuffle(self, window: int) -> Int64[np.ndarray, " region"]:
        """The order of a window's regions, as places in its visits laid one after another."""
        rng = np.random.default_rng([self.seed, _WINDOW, self.stream, window])
        size, group = self.window_size, self.neighbours
        groups = [np.arange(start, min(start + group, size)) for start in range(0, size, group)]
        return np.concatenate([groups[i] for i in rng.permutation(len(groups))])

    def places(self, step: int) -> list[tuple[int, int, int]]:
        """Which shuffled places make up the batch of a step: (window, first, one after the last)."""
        start, stop = step * self.batch, (step + 1) * self.batch
        found = []
        while start < stop:
            window, first = divmod(start, self.window_size)
            last = min(self.window_size, first + stop - start)
            found.append((window, first, last))
            start += last - first
        return found

    def _regions(self, part: int, turn: int) -> Int64[np.ndarray, " region"]:
        """The regions of a slide's visit number `turn`: permutations of the slide, one after another."""
        regions = self.parts[part].regions
        start, stop = turn * self.per_visit, (turn + 1) * self.per_visit
        rounds = range(start // len(regions), -(-stop // len(regions)))
        drawn = [regions[np.random.default_rng([self.seed, _SLIDE, part, r]).permutation(len(regions))] for r in rounds]
        skip = start - rounds[0] * len(regions)
        return np.concatenate(drawn)[skip : skip + self.per_visit]


def visit_size(parts: Sequence[SlidePart], wanted: int) -> int:
    """How many regions a visit takes: `wanted`, or as many as the median slide has.

    A slide with fewer gives some of them more than once; one with more gives the others in a later pass.
    """
    return max(1, min(wanted, int(np.median([len(part.regions) for part in parts]))))


class SlideCache:
    """Reads slides, and keeps them all when the set is small enough; the values are the same either way."""

    def __init__(self, tiles: EmbeddingSet, *, max_bytes: int) -> None:
        """Keep slides in memory when those of the whole set fit into `max_bytes`."""
        self.tiles = tiles
        itemsize = np.dtype(tiles.content.get("dtype", "float32")).itemsize
        needed = 0
        for slide in tiles.slides:
            needed += sum(n * tiles.dims[mpp] * itemsize for mpp, n in tiles.n_tiles(slide).items())
            if needed > max_bytes:
                break
        self.keeps = needed <= max_bytes
        self._kept: dict[str, SlideTokens] = {}
        self._lock = Lock()

    def read(self, slide: str) -> SlideTokens:
        """The tokens of a slide, from memory or from its files."""
        with self._lock:
            if slide in self._kept:
                return self._kept[slide]
        tokens = self.tiles.read(slide)
        if self.keeps:
            with self._lock:
                self._kept[slide] = tokens
        return tokens

    def gather(self, part: SlidePart, regions: Int64[np.ndarray, " region"], *, number: int) -> RegionBatch:
        """Some regions of a slide; `number` is what they will carry as their slide."""
        return gather_regions(self.read(part.slide), regions, slide=number, dim=max(self.tiles.dims.values()))


class RegionStream:
    """The batches of a `RegionOrder` from any step on, read ahead by threads.

    Use it in a `with` statement. The threads only change when something is read, never what comes.
    """

    def __init__(self, order: RegionOrder, cache: SlideCache, *, workers: int) -> None:
        """Read windows with `workers` threads; with 0 everything happens in the caller's thread."""
        self._order = order
        self._cache = cache
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="parfocal-read") if workers else None
        self._pending: dict[int, Iterator[RegionBatch]] = {}
        self._ready: dict[int, tuple[RegionBatch, Tensor]] = {}

    def __enter__(self) -> "RegionStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, first_step: int, last_step: int) -> Iterator[RegionBatch]:
        """The batches of the steps from `first_step` up to, not including, `last_step`."""
        last_window = max((window for window, _, _ in self._order.places(max(last_step - 1, 0))), default=0)
        for step in range(first_step, last_step):
            pieces = []
            for window, start, stop in self._order.places(step):
                regions, shuffle = self._window(window, last_window)
                pieces.append(regions.take(shuffle[start:stop]))
            yield pieces[0] if len(pieces) == 1 else RegionBatch.join(pieces)

    def _window(self, window: int, last_window: int) -> tuple[RegionBatch, Tensor]:
        if window not in self._ready:
            for old in [w for w in self._ready if w < window]:
                del self._ready[old]
            self._begin(window)
            regions = RegionBatch.join(list(self._pending.pop(window)))
            self._ready[window] = regions, torch.from_numpy(self._order.shuffle(window))
            if window < last_window:
                self._begin(window + 1)
        return self._ready[window]

    def _begin(self, window: int) -> None:
        """Let the threads read a window; without them it is read when it is asked for."""
        if window not in self._pending:
            read = map if self._pool is None else self._pool.map
            self._pending[window] = read(self._gather, self._order.visits(window))

    def _gather(self, visit: Visit) -> RegionBatch:
        try:
            return self._cache.gather(self._order.parts[visit.part], visit.regions, number=visit.part)
        except StoreError as error:
            error.add_note(
                "it could be read when this run began; put it back and call again, or begin in another folder, "
                "where it is left out"
            )
            raise
