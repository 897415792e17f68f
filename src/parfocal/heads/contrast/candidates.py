"""What contrast offers a column inside a training fold: ranks, sharpened directions, and six numbers on top of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Column, Fold
from parfocal.heads.base import ProbeSettings
from parfocal.heads.contrast.directions import RANKS, Contrasts, find_contrasts, rank_name
from parfocal.heads.contrast.moments import Pair
from parfocal.heads.contrast.refinement import Squash, fit_squash, sharpen
from parfocal.heads.preparation import Preparation, preparations
from parfocal.heads.regression import column_weight, inner_weights

_POWERS = {"": 0.0, ", times root of regions": 0.5, ", sum over regions": 1.0}
"""Of a slide's number of regions, that its mean over regions is multiplied with, and how a report names it.

Evidence adds over regions, so slides of more regions have the surer score; how much surer depends on how far the
regions of a slide repeat one another.
"""

_ALIKE = 1.1
"""Slides of which none has more than a tenth more regions than another are not told apart by it."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a candidate says about one pair of bags, from the whole training fold.

    Attributes:
        u: directions in the leading whitened components of the first bag.
        v: in those of the second bag; the score is <F, u v^T>, or what six numbers make of the two directions.
        squash: the six numbers, or None.
    """

    u: Float64[np.ndarray, "a rank"]
    v: Float64[np.ndarray, "b rank"]
    squash: Squash | None = None


@dataclass(frozen=True, eq=False)
class Leading:
    """One pair of directions of norm one in each problem, without each inner fold and, last, with all slides."""

    u: Float64[np.ndarray, "problem a"]
    v: Float64[np.ndarray, "problem b"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to score pairs.

    Attributes:
        name: for people.
        pairs: of bags, as the candidate sees them.
        held_out: what each pair says about slides that its model had not seen.
        parts: of each pair.
        power: of the number of regions; the same for all pairs.
        leading: of each pair, where the candidate is one pair of directions that six numbers can refine.
        sharpened: whether these are the sharpened ones.
    """

    name: str
    pairs: tuple[Pair, ...]
    held_out: Float64[np.ndarray, "train pair"]
    parts: tuple[Part, ...]
    power: float
    leading: tuple[Leading, ...] = ()
    sharpened: bool = False

    def of(self, places: Sequence[int]) -> "Candidate":
        """The same for some of the pairs, by their places."""
        return replace(
            self,
            pairs=tuple(self.pairs[place] for place in places),
            held_out=self.held_out[:, places],
            parts=tuple(self.parts[place] for place in places),
            leading=tuple(self.leading[place] for place in places),
        )


def linear_candidates(pairs: Sequence[Pair], column: Column, fold: Fold, settings: ProbeSettings) -> list[Candidate]:
    """Each preparation x four ranks; and of each whitened one the leading pair of directions, sharpened.

    Lifted pairs have one preparation. Where slides differ in their number of regions, all of it is offered for the
    mean, the root and the sum.
    """
    # The moments of a slide of many regions are surer. By how much is between nothing and their number, as for scores.
    weights = []
    for pair in pairs:
        sure = np.sqrt(np.maximum(pair.n_regions, 1.0))
        weights.append(inner_weights(fold) * column_weight(column, balanced=settings.balanced) * sure / sure.mean())
    lifted = pairs[0].lifted
    result = []
    for preparation in (Preparation(lifted * (lifted + 3) // 2),) if lifted else preparations(settings.components):
        label = f"products of {lifted}" if lifted else preparation.label
        moments = [pair.prepared(preparation) for pair in pairs]
        found = [find_contrasts(one, column, weight) for one, weight in zip(moments, weights, strict=True)]
        for rank in RANKS:
            factors = [one.factors(rank) for one in found]
            single = rank == 1 and preparation.components is not None
            leading = tuple(Leading(*one.leading()) for one in found) if single else ()
            result += _scored(f"{label}, {rank_name(rank)}", pairs, preparation, moments, factors, fold, leading)
        if settings.sharpen and preparation.components is not None:
            sharp = tuple(_sharpened(pair, one, settings) for pair, one in zip(pairs, found, strict=True))
            factors = [(one.u[:, :, None], one.v[:, :, None]) for one in sharp]
            name = f"{label}, sharpened"
            result += _scored(name, pairs, preparation, moments, factors, fold, sharp, sharpened=True)
    return result


def refined(candidate: Candidate, column: Column, fold: Fold, settings: ProbeSettings) -> Candidate:
    """The candidate's leading pairs of directions with six numbers each, from held-out projections.

    The numbers of the held-out scores are themselves fitted without the inner fold that they score.
    """
    weight = column_weight(column, balanced=settings.balanced)
    held_out, parts = np.empty(candidate.held_out.shape), []
    for place, (pair, leading) in enumerate(zip(candidate.pairs, candidate.leading, strict=True)):
        u, v = _aligned(leading)
        along = pair.held_out_along(u, v, fold.inner, candidate.power)
        whole = fit_squash(along, column, weight)
        for inner in range(int(fold.inner.max()) + 1):
            own, others = np.flatnonzero(fold.inner == inner), np.flatnonzero(fold.inner != inner)
            squash = fit_squash(along.of(others), column.of(others), weight[others], whole)
            held_out[own, place] = squash.score(along.of(own))
        parts.append(Part(u[-1][:, None], v[-1][:, None], whole))
    return Candidate(f"{candidate.name}, refined", candidate.pairs, held_out, tuple(parts), candidate.power)


# Pairs of bags of one fold may have more or fewer components than one another.
Factors = tuple[Float64[np.ndarray, "problem _a _rank"], Float64[np.ndarray, "problem _b _rank"]]


def _scored(
    name: str,
    pairs: Sequence[Pair],
    preparation: Preparation,
    moments: Sequence[np.ndarray],
    factors: Sequence[Factors],
    fold: Fold,
    leading: tuple[Leading, ...],
    *,
    sharpened: bool = False,
) -> list[Candidate]:
    """The candidate of some directions for each power of the number of regions that there is a choice of."""
    counts = np.stack([np.maximum(pair.n_regions, 1) for pair in pairs], axis=1).astype(np.float64)
    means = _held_out(moments, factors, fold)
    parts = tuple(_part(one, pair, preparation) for one, pair in zip(factors, pairs, strict=True))
    differ = (counts.max(axis=0) > _ALIKE * counts.min(axis=0)).any()
    return [
        Candidate(name + what, tuple(pairs), means * counts**power, parts, power, leading, sharpened)
        for what, power in _POWERS.items()
        if differ or not power
    ]


def _held_out(
    moments: Sequence[np.ndarray], factors: Sequence[Factors], fold: Fold
) -> Float64[np.ndarray, "train pair"]:
    """<F_i, u v^T> by the problem that slide i was left out of."""
    scores = np.empty((len(fold.train), len(moments)))
    for place, (one, (u, v)) in enumerate(zip(moments, factors, strict=True)):
        for inner in range(len(u) - 1):
            own = np.flatnonzero(fold.inner == inner)
            matrix = (u[inner] @ v[inner].T).astype(one.dtype)
            scores[own, place] = np.tensordot(one[own], matrix, axes=([1, 2], [0, 1]))
    return scores


def _part(factors: Factors, pair: Pair, preparation: Preparation) -> Part:
    """The last problem's, which is the whole training fold's, in whitened components."""
    (u, v), (first, second) = factors, pair.scales(preparation)
    kept = np.flatnonzero(u[-1].any(axis=0))
    return Part(u[-1][:, kept] * first[:, None], v[-1][:, kept] * second[:, None])


def _sharpened(pair: Pair, found: Contrasts, settings: ProbeSettings) -> Leading:
    sides = [
        sharpen(rows[:, : start.shape[1]], np.ascontiguousarray(start.T), settings.seed).T
        for rows, start in zip(pair.rows, found.leading(), strict=True)
    ]
    sign = np.where(found.along(*sides) < 0, -1.0, 1.0)
    return Leading(sides[0], sides[1] * sign[:, None])


def _aligned(leading: Leading) -> tuple[Float64[np.ndarray, "problem a"], Float64[np.ndarray, "problem b"]]:
    """Both sides with the sign of the whole training fold's: a shift means something only if all point one way."""
    flip = np.where(leading.u @ leading.u[-1] < 0, -1.0, 1.0)[:, None]
    return leading.u * flip, leading.v * flip
