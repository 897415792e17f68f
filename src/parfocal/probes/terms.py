"""What one pair of bags adds to a score, in the columns of the embeddings as they are; it can be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from parfocal.bags import Bag
from parfocal.probes.candidates import Part
from parfocal.probes.moments import Pair, RegionMap, region_numbers, slide_sums

__all__ = ["PairTerm", "make_term", "project"]


@dataclass(frozen=True, eq=False)
class PairTerm:
    """(1/R) sum_r sum_j (u_j . x_first) (v_j . x_second), or the squashed product of one pair of directions.

    Attributes:
        column: number of the outcome's column.
        first: number of one bag.
        second: number of the other; the same one for the second moment of a single bag.
        u: directions in the columns of the first bag's embeddings, with every factor of the score in them.
        v: directions in those of the second bag's.
        shift: p2 and p3 of weight * tanh(u . x_first + p2) * tanh(v . x_second + p3); None where there is no tanh.
        weight: of the squashed product.
    """

    column: int
    first: int
    second: int
    u: Float64[np.ndarray, "_dim rank"]
    v: Float64[np.ndarray, "_dim rank"]
    shift: tuple[float, float] | None = None
    weight: float = 1.0

    def score(
        self, first: Float64[np.ndarray, "region rank"], second: Float64[np.ndarray, "region rank"]
    ) -> Float64[np.ndarray, " region"]:
        """What each region adds, from its projections onto `u` and `v`."""
        if self.shift is not None:
            first, second = np.tanh(first + self.shift[0]), np.tanh(second + self.shift[1])
        return np.asarray(self.weight * (first * second).sum(axis=1))

    def facts(self) -> Mapping[str, Any]:
        """All but the directions, as JSON can hold it."""
        shift = None if self.shift is None else list(self.shift)
        return {
            "column": self.column,
            "first": self.first,
            "second": self.second,
            "shift": shift,
            "weight": self.weight,
        }

    @staticmethod
    def load(
        facts: Mapping[str, Any], u: Float64[np.ndarray, "_dim rank"], v: Float64[np.ndarray, "_dim rank"]
    ) -> "PairTerm":
        """What `facts` and the directions came from."""
        shift = None if facts["shift"] is None else (float(facts["shift"][0]), float(facts["shift"][1]))
        return PairTerm(
            int(facts["column"]), int(facts["first"]), int(facts["second"]), u, v, shift, float(facts["weight"])
        )


def make_term(column: int, pair: Pair, part: Part, times: float, maps: Sequence[RegionMap]) -> PairTerm:
    """A part of a candidate as directions in the columns of the embeddings.

    Args:
        column: number of the outcome's column.
        pair: of bags.
        part: in whitened components.
        times: what its score is multiplied with.
        maps: of every bag.
    """
    u = maps[pair.first].matrix[:, : len(part.u)] @ part.u
    v = maps[pair.second].matrix[:, : len(part.v)] @ part.v
    if part.squash is None:
        root = np.sqrt(times)
        return PairTerm(column, pair.first, pair.second, u * root, v * root)
    steep = part.squash.steepness
    weight = part.squash.weight * times
    return PairTerm(column, pair.first, pair.second, u * steep[0], v * steep[1], part.squash.shift, weight)


def project(
    bag: Bag,
    offset: Float64[np.ndarray, " dim"] | None,
    onto: Float64[np.ndarray, "dim rank"],
    slides: Int64[np.ndarray, " picked"],
) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]]:
    """The centred regions of some slides along a few directions, and which are there; the others are 0."""
    numbers = region_numbers(bag, slides)
    there = bag.region_present[numbers]
    along = bag.region_mean[numbers[there]].astype(np.float64) @ onto
    if offset is not None:
        along -= offset @ onto
    else:
        counts = np.diff(bag.region_start)[slides]
        of_slide = np.repeat(np.arange(len(slides)), counts)[there]
        present = np.bincount(of_slide, minlength=len(slides))
        along -= (slide_sums(along, present) / np.maximum(present, 1)[:, None])[of_slide]
    projected = np.zeros((len(numbers), onto.shape[1]))
    projected[there] = along
    return projected, there
