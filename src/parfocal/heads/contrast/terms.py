"""What one pair of bags adds to a score, in the columns of the embeddings as they are; it can be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.bags import Bag
from parfocal.heads.base import Arrays, Slides
from parfocal.heads.contrast.candidates import Part
from parfocal.heads.contrast.expected import Expected
from parfocal.heads.contrast.moments import Pair, PickedRegions, lift
from parfocal.stats.whitening import Whitening

_DIRECTIONS = ("u", "v", "lift_u", "lift_v")
_USUAL = ("mean", "size", "noise", "expected")


@dataclass(frozen=True, eq=False)
class Usual:
    """What is usual of one side of a term among the training slides, for slides that are read in part there.

    Attributes:
        mean: over regions, of what the side gives: the projections, or their tanh.
        size: covariance of the same, a row and a column for each direction.
        noise: the variance that a region's mean has because a region is a few tiles, over that of what the tiles of a
            region have in common.
        expected: what the slide's mean along the side's directions is expected to be from its mean in the other bag.
    """

    mean: Float64[np.ndarray, " rank"]
    size: Float64[np.ndarray, "rank rank"]
    noise: float
    expected: Expected

    def arrays(self, name: str) -> Arrays:
        """All of it, under names that end so."""
        return {f"usual_{part}_{name}": np.asarray(getattr(self, part)) for part in _USUAL}

    @staticmethod
    def load(name: str, arrays: Arrays) -> "Usual":
        """What `arrays` came from."""
        mean, size, noise, expected = (arrays[f"usual_{part}_{name}"] for part in _USUAL)
        return Usual(mean, size, float(noise), expected)


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
        lift_u: components, in the columns of the first bag's embeddings, that `u` sees with their products; None where
            it sees the embeddings themselves (see `lift`).
        lift_v: likewise for `v`.
        usual: what is usual of the first side and of the second; None where both are one bag, and in heads that were
            saved before it was kept.
    """

    column: int
    first: int
    second: int
    u: Float64[np.ndarray, "_dim rank"]
    v: Float64[np.ndarray, "_dim rank"]
    shift: tuple[float, float] | None = None
    weight: float = 1.0
    power: float = 0.0
    lift_u: Float64[np.ndarray, "_dim component"] | None = None
    lift_v: Float64[np.ndarray, "_dim component"] | None = None
    usual: tuple[Usual, Usual] | None = None

    def score(
        self, first: Float64[np.ndarray, "region rank"], second: Float64[np.ndarray, "region rank"]
    ) -> Float64[np.ndarray, " region"]:
        """What each region adds, from its projections onto `u` and `v`."""
        return np.asarray(self.weight * (self.squashed(first, 0) * self.squashed(second, 1)).sum(axis=1))

    def squashed(self, along: Float64[np.ndarray, "region rank"], side: int) -> Float64[np.ndarray, "region rank"]:
        """Projections onto `u` (side 0) or `v` (side 1) as they are multiplied, behind the tanh where there is one."""
        return along if self.shift is None else np.tanh(along + self.shift[side])

    def facts(self) -> Mapping[str, Any]:
        """All but the arrays, as JSON can hold it."""
        facts = {name: value for name, value in vars(self).items() if name not in (*_DIRECTIONS, "usual")}
        return {**facts, "shift": None if self.shift is None else list(self.shift)}

    def arrays(self, number: int) -> Arrays:
        """The arrays, under names that end with the term's number."""
        named = {f"{name}.{number}": getattr(self, name) for name in _DIRECTIONS}
        arrays = {name: one for name, one in named.items() if one is not None}
        for side, one in zip("uv", self.usual or (), strict=False):
            arrays |= one.arrays(f"{side}.{number}")
        return arrays

    @staticmethod
    def load(facts: Mapping[str, Any], number: int, arrays: Arrays) -> "PairTerm":
        """What `facts` and `arrays` came from; the first heads knew no powers, no lifts and nothing usual."""
        directions = {name: arrays.get(f"{name}.{number}") for name in _DIRECTIONS}
        shift = None if facts["shift"] is None else tuple(facts["shift"])
        usual = None
        if f"usual_mean_u.{number}" in arrays:
            usual = (Usual.load(f"u.{number}", arrays), Usual.load(f"v.{number}", arrays))
        return PairTerm(**{**facts, **directions, "shift": shift, "usual": usual})


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
    u, v, lift_u, lift_v = part.u, part.v, None, None
    if pair.lifted:
        lift_u, lift_v = first[:, : pair.lifted], second[:, : pair.lifted]
    else:
        u, v = first[:, : len(u)] @ u, second[:, : len(v)] @ v
    if part.squash is None:
        root, shift, weight = (np.sqrt(times), np.sqrt(times)), None, 1.0
    else:
        root, shift, weight = part.squash.steepness, part.squash.shift, part.squash.weight * times
    return PairTerm(column, pair.first, pair.second, u * root[0], v * root[1], shift, weight, power, lift_u, lift_v)


def project(
    bag: Bag,
    offset: Float64[np.ndarray, " _dim"] | None,
    onto: Float64[np.ndarray, "_wide rank"],
    slides: Slides,
    lifted: Float64[np.ndarray, "_dim component"] | None = None,
    about: Float64[np.ndarray, "picked _along"] | None = None,
) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]]:
    """The centred regions of some slides along a few directions, and which are there; the others are 0.

    Args:
        bag: whose regions they are.
        offset: what they are centred on; None: their slide's mean.
        onto: directions in the columns of the embeddings, or of the components of `lifted` with their products.
        slides: numbers.
        lifted: components in the columns of the embeddings.
        about: what each slide's regions are centred on instead, along the directions or along `lifted`.
    """
    parts = list(bag.together(slides))
    if len(parts) > 1:
        found = [
            project(bag, offset, onto, slides[part], lifted, None if about is None else about[part]) for part in parts
        ]
        return np.concatenate([own for own, _ in found]), np.concatenate([there for _, there in found])
    picked = PickedRegions.of(bag, slides)
    if lifted is not None:
        components, there = project(bag, offset, lifted, slides, about=about)
        rows = lift(components, there, picked.counts, by_slide=offset is None and about is None)
        return np.where(there[:, None], rows, 0.0) @ onto, there
    along = bag.region_mean[picked.present].astype(np.float64) @ onto
    projected = np.zeros((len(picked.numbers), onto.shape[1]))
    if about is not None:
        projected[picked.there] = along - about[picked.of_slide]
    else:
        projected[picked.there] = picked.about_slide(along) if offset is None else along - offset @ onto
    return projected, picked.there
