"""What one pair of bags adds to a score, in the columns of the embeddings as they are; it can be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from parfocal.bags import Bag
from parfocal.heads.contrast.candidates import Part
from parfocal.heads.contrast.moments import Pair, lift, region_numbers, slide_sums
from parfocal.stats.whitening import Whitening


class Lifts(NamedTuple):
    """Of each side the components, in the columns of the embeddings, that a term sees with their products.

    None where it sees the embeddings themselves; see `lift`.
    """

    first: Float64[np.ndarray, "_dim component"] | None
    second: Float64[np.ndarray, "_dim component"] | None


_NO_LIFTS = Lifts(None, None)


@dataclass(frozen=True, eq=False)
class PairTerm:
    """R^(p-1) sum_r sum_j (u_j . x_first) (v_j . x_second), or the squashed product of one pair of directions.

    Attributes:
        column: number of the outcome's column.
        first: number of one bag.
        second: number of the other; the same one for the second moment of a single bag.
        u: directions in the columns of the first bag's embeddings, with every factor of the score in them.
        v: directions in those of the second bag's.
        shift: p2 and p3 of weight * tanh(u . x_first + p2) * tanh(v . x_second + p3); None where there is no tanh.
        weight: of the squashed product.
        power: p.
        lifts: what `u` and `v` see in place of the embeddings.
    """

    column: int
    first: int
    second: int
    u: Float64[np.ndarray, "_dim rank"]
    v: Float64[np.ndarray, "_dim rank"]
    shift: tuple[float, float] | None = None
    weight: float = 1.0
    power: float = 0.0
    lifts: Lifts = _NO_LIFTS

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
            "power": self.power,
        }

    def arrays(self, number: int) -> Mapping[str, np.ndarray]:
        """The directions, under names that end with the term's number."""
        named = {"u": self.u, "v": self.v, "lift_u": self.lifts.first, "lift_v": self.lifts.second}
        return {f"{name}.{number}": one for name, one in named.items() if one is not None}

    @staticmethod
    def load(facts: Mapping[str, Any], number: int, arrays: Mapping[str, np.ndarray]) -> "PairTerm":
        """What `facts` and `arrays` came from; the first heads knew neither powers nor lifts."""
        shift = None if facts["shift"] is None else (float(facts["shift"][0]), float(facts["shift"][1]))
        return PairTerm(
            int(facts["column"]),
            int(facts["first"]),
            int(facts["second"]),
            arrays[f"u.{number}"],
            arrays[f"v.{number}"],
            shift,
            float(facts["weight"]),
            float(facts.get("power", 0.0)),
            Lifts(arrays.get(f"lift_u.{number}"), arrays.get(f"lift_v.{number}")),
        )


def make_term(column: int, pair: Pair, part: Part, power: float, times: float, maps: Sequence[Whitening]) -> PairTerm:
    """A part of a candidate as directions in the columns of the embeddings.

    Args:
        column: number of the outcome's column.
        pair: of bags.
        part: in whitened components.
        power: of the number of regions.
        times: what its score is multiplied with.
        maps: of every bag.
    """
    first, second = maps[pair.first].whitened().matrix, maps[pair.second].whitened().matrix
    u, v, lifts = part.u, part.v, _NO_LIFTS
    if pair.lifted:
        lifts = Lifts(first[:, : pair.lifted], second[:, : pair.lifted])
    else:
        u, v = first[:, : len(u)] @ u, second[:, : len(v)] @ v
    if part.squash is None:
        root, shift, weight = (np.sqrt(times), np.sqrt(times)), None, 1.0
    else:
        root, shift, weight = part.squash.steepness, part.squash.shift, part.squash.weight * times
    return PairTerm(column, pair.first, pair.second, u * root[0], v * root[1], shift, weight, power, lifts)


def project(
    bag: Bag,
    offset: Float64[np.ndarray, " _dim"] | None,
    onto: Float64[np.ndarray, "_wide rank"],
    slides: Int64[np.ndarray, " picked"],
    lifted: Float64[np.ndarray, "_dim component"] | None = None,
) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]]:
    """The centred regions of some slides along a few directions, and which are there; the others are 0.

    Args:
        bag: whose regions they are.
        offset: what they are centred on; None: their slide's mean.
        onto: directions in the columns of the embeddings, or of the components of `lifted` with their products.
        slides: numbers.
        lifted: components in the columns of the embeddings.
    """
    if lifted is not None:
        components, there = project(bag, offset, lifted, slides)
        rows = lift(components, there, np.diff(bag.region_start)[slides], by_slide=offset is None)
        return np.where(there[:, None], rows, 0.0) @ onto, there
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
