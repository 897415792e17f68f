"""An order of tiles that becomes known while they are read.

A policy may look at what has been read and order the rest anew. It does so after every round, and rounds are a share of
the planned tiles that nothing changes: no budget, no rung at which somebody asks whether a slide is settled, and no run
that goes on with a store. So what a small budget reads is still what a larger one reads first.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from parfocal.embed.glance import Glance, Ranked, ReadSoFar, n_chosen
from parfocal.errors import ParfocalError

ROUND, LEAST = 1 / 128, 8
"""Share of a slide's planned tiles that is read between two orders, some eighty of ten thousand, and the fewest tiles:
networks are slow on less. With another round the order is another, and stores that were read in part cannot go on."""

ReadTiles = Callable[[Bool[np.ndarray, " tile"]], tuple[Float[np.ndarray, "there dim"], Bool[np.ndarray, " tile"]]]
"""Reads those of the named tiles that have not been: the rows of all of them as stored, and which tiles these are; an
absent one has none."""


class Unfolding:
    """The order of a slide's tiles while they are read.

    Attributes:
        known: the order of all of them by what has been read until now.
    """

    def __init__(self, policy: str, glance: Glance, ranked: Ranked) -> None:
        """Nothing has been read.

        Args:
            policy: what it is called.
            glance: of the slide.
            ranked: the order of all its planned tiles by the glance.
        """
        self._policy, self._glance, self._ranked = policy, glance, ranked
        self.known, self._n_read = ranked.order, 0

    def first(self, n: int, read: ReadTiles) -> Bool[np.ndarray, " tile"]:
        """Which tiles are the first `n`; those of all rounds but the last one are read for it.

        Raises:
            ParfocalError: the policy gives something else than an order of the tiles that are left.
        """
        size = max(n_chosen(self._glance.n_tiles, ROUND), LEAST)
        while self._ranked.goes_on is not None and self._n_read + size < n:
            before, self._n_read = self._n_read, self._n_read + size
            rows, there = read(self._mask(self._n_read))
            so_far = ReadSoFar(
                self._glance, self.known, self._n_read, before, there, rows.astype(np.float32, copy=False)
            )
            self._ranked = self._ranked.goes_on(so_far)
            if not np.array_equal(np.sort(self._ranked.order), so_far.left):
                raise ParfocalError(
                    f"the policy {self._policy} does not name each of the {len(so_far.left)} tiles of "
                    f"{self._glance.coarse.slide} once that are left."
                )
            self.known = np.concatenate([self.known[: self._n_read], self._ranked.order])
        return self._mask(n)

    def _mask(self, n: int) -> Bool[np.ndarray, " tile"]:
        first = np.zeros(self._glance.n_tiles, dtype=bool)
        first[self.known[:n]] = True
        return first
