"""The order in which training regions come, as a pure function of a few integers.

A process goes through *visits*: one slide, a fixed number of its regions. Every slide has one visit in a pass, so that
slides weigh the same whatever their size. A *window* of visits is shuffled and cut into batches; it is all that has to
be in memory. Any batch of any process can be named without going through those before it: that is what makes a run
resumable, and the same whatever the number of loading threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from parfocal.pretrain.holdout import SlidePart

__all__ = ["RegionOrder", "Visit", "visit_size"]

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
        batch: regions of a batch, of one process.
        per_visit: regions of a visit.
        per_window: visits of a window.
        neighbours: how many regions of one visit stay together in the shuffle; above 1 a batch holds several regions
            of a slide however many slides there are.
        seed: of all draws.
        rank: which process this is.
        world: how many processes there are.
    """

    parts: Sequence[SlidePart]
    batch: int
    per_visit: int
    per_window: int
    neighbours: int
    seed: int
    rank: int
    world: int

    @property
    def window_size(self) -> int:
        """Regions of a window."""
        return self.per_visit * self.per_window

    def visits(self, window: int) -> list[Visit]:
        """The visits of a window of this process; processes never share a visit."""
        first = window * self.per_window
        numbers = [(first + i) * self.world + self.rank for i in range(self.per_window)]
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
        rng = np.random.default_rng([self.seed, _WINDOW, self.rank, window])
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
