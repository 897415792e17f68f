"""Heads that know slides without some of their magnifications: training slides are shown whole, and with some left out.

It is for heads that have the means of magnifications side by side. Where one is left out the slide has no instance of
it, which such a head takes for the mean of its training slides. The one probe that comes of it scores whole slides too,
so that what it says without a magnification can be compared with what it says with all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from parfocal.bags import Bag
from parfocal.errors import ConfigError
from parfocal.evaluate.arm import ARM_METHODS, Arm
from parfocal.evaluate.fitting import Bags
from parfocal.geometry import format_mpp
from parfocal.heads.registry import HEADS
from parfocal.predict.showings import Showings
from parfocal.store import EmbeddingSet


@dataclass(frozen=True, eq=False)
class ShownWithout(Showings):
    """How a training slide is seen: whole some times, and once without each set of magnifications but all.

    Attributes:
        keys: the bags that may be left out.
        left_out: of each showing which of them are.
    """

    keys: tuple[tuple[int, str], ...]
    left_out: tuple[frozenset[tuple[int, str]], ...]

    @staticmethod
    def of(branches: Sequence[Arm], sets: Sequence[EmbeddingSet], share: float) -> "ShownWithout":
        """How the training slides of an arm are seen.

        Args:
            branches: the arm's, which have a probe.
            sets: all that are given.
            share: of the showings in which something is left out; whole slides are shown so often that it is about
                this, and once at least.

        Raises:
            ConfigError: the arm has no means of several magnifications side by side.
        """
        (branch, *others) = branches
        keys = branch.bags
        own = all(name in map(format_mpp, sets[number].mpps) and sets[number].kind == "tiles" for number, name in keys)
        method = ARM_METHODS.get(branch.method)
        head = branch.method if method is None else method.head
        if others or len(keys) < 2 or not own or head not in HEADS or not HEADS.get(head).may_lack:
            raise ConfigError(
                "--drop-magnifications is for arms that have the slide means of several magnifications side by side: "
                f"concat and concat-mlp. The arm {branch.id} is none of these. Leave it out: contrast, union, late and "
                "arms of one magnification are explained as they are."
            )
        without = [frozenset(some) for size in range(1, len(keys)) for some in combinations(keys, size)]
        n_whole = max(1, round(len(without) * (1 - share) / share))
        return ShownWithout(keys, (*[frozenset[tuple[int, str]]()] * n_whole, *without))

    @property
    def times(self) -> int:
        """How often a slide is shown."""
        return len(self.left_out)

    def bags(self, bags: Bags) -> dict[tuple[int, str], Bag]:
        """The bags of all showings: means alone, which is all that such heads look at."""
        return {key: self._shown(key, bag) for key, bag in bags.items()}

    def _shown(self, key: tuple[int, str], bag: Bag) -> Bag:
        mean = np.repeat(bag.mean, self.times, axis=0)
        absent = np.tile([key in some for some in self.left_out], len(bag.slides))
        mean[absent] = np.nan  # never looked at
        bounds = np.zeros(len(mean) + 1, dtype=np.int64)
        return replace(
            bag,
            slides=tuple(slide for slide in bag.slides for _ in self.left_out),
            rows=bag.rows[:0],
            start=bounds,
            n_instances=np.where(absent, 0, np.repeat(bag.n_instances, self.times)),
            mean=mean,
            region_mean=bag.region_mean[:0],
            region_start=bounds,
            region_present=bag.region_present[:0],
        )
