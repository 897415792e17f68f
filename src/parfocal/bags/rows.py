"""Vectors of many slides that are read when they are asked for, in place of an array that holds all of them.

A cohort of a thousand slides has more vectors than fit into memory, and no head needs them at once: it wants means, a
random part, a few slides at a time, or all of them prepared to a few numbers each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from parfocal.run.cache import KnowsContent


@dataclass(frozen=True, eq=False)
class RowsAsNeeded(KnowsContent):
    """Rows of slides, one slide after the other, as an array that is indexed along its first axis would have them.

    Only what an index names is in memory, and only for whoever asked. `numpy.asarray` gives all of them.

    Attributes:
        read: the rows of a slide, by the number that is known of it there.
        slides: these numbers, in the order of the rows.
        start: where the rows of each slide begin, and the end.
        dim: width of a row.
        decided_by: for each of the slides what decides its rows, as values that a digest can be made of.
    """

    read: Callable[[int], Float32[np.ndarray, "_row _dim"]]
    slides: Int64[np.ndarray, " slide"]
    start: Int64[np.ndarray, " bound"]
    dim: int
    decided_by: tuple[Any, ...]

    @property
    def content(self) -> Sequence[Any]:
        """What decides all rows."""
        return [self.decided_by, self.start]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return int(self.start[-1]), self.dim

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, index: Any) -> Float32[np.ndarray, "..."]:
        """The rows of a slice, of numbers or of a mask; of a pair the second names columns."""
        if isinstance(index, tuple):
            rows, columns = index
            return self[rows][:, columns]
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            if step == 1:
                return self._between(begin, max(begin, end))
        return self._take(np.asarray(np.arange(len(self))[index]))

    def of_slides(self, places: Sequence[int] | np.ndarray) -> "RowsAsNeeded":
        """The rows of some slides, by their places and in that order; nothing is read."""
        picked = np.asarray(places, dtype=np.int64)
        return replace(
            self,
            slides=self.slides[picked],
            start=np.concatenate([[0], np.cumsum(np.diff(self.start)[picked])]).astype(np.int64),
            decided_by=tuple(self.decided_by[place] for place in picked),
        )

    def changed(self, change: Callable[[int, np.ndarray], np.ndarray]) -> "RowsAsNeeded":
        """The same with what `change` makes of the rows of each slide, by its place; it keeps their shape."""
        places = np.arange(len(self.slides))
        return replace(self, read=lambda place: change(place, self._of(place)), slides=places)

    def _of(self, place: int) -> Float32[np.ndarray, "_row _dim"]:
        return self.read(int(self.slides[place]))

    def _between(self, begin: int, end: int) -> Float32[np.ndarray, "_row _dim"]:
        if begin >= end:
            return np.zeros((0, self.dim), dtype=np.float32)
        first = int(np.searchsorted(self.start, begin, side="right")) - 1
        if end <= self.start[first + 1]:
            return self._of(first)[begin - self.start[first] : end - self.start[first]]
        result = np.empty((end - begin, self.dim), dtype=np.float32)
        place = first
        while begin < end:
            until = min(end, int(self.start[place + 1]))
            if until > begin:
                own = self._of(place)[begin - self.start[place] : until - self.start[place]]
                result[len(result) - (end - begin) :][: until - begin] = own
            begin, place = max(begin, until), place + 1
        return result

    def _take(self, numbers: Int64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        if numbers.ndim == 0:
            return np.asarray(self._between(int(numbers), int(numbers) + 1)[0])
        flat = numbers.reshape(-1)
        result = np.empty((len(flat), self.dim), dtype=np.float32)
        place = np.searchsorted(self.start, flat, side="right") - 1
        # Slide by slide, whatever the order of the numbers.
        order = np.argsort(place, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
            if len(own):
                result[own] = self._of(int(place[own[0]]))[flat[own] - self.start[place[own[0]]]]
        return np.asarray(result.reshape(*numbers.shape, self.dim))


Rows = Float32[np.ndarray, "_row _dim"] | RowsAsNeeded
"""Vectors in memory, or read when they are asked for."""
