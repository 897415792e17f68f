"""Cross-scale contrast: a closed form for what only the pairing of two magnifications inside regions knows.

Slide i, region r, magnification m: x is the mean of the region's embeddings, centred and whitened. Per slide

    F_i = (1/R_i) sum_r x_a(i, r) x_b(i, r)^T        over regions where both are present, R_i counting all regions
    D   = sum_i w_i e_i F_i / sum_i w_i = sum_j s_j u_j v_j^T
    score_i = sum_j w(s_j) u_j^T F_i v_j

with e_i what is left of the outcome's column without any feature: its value minus the mean (for two classes D is the
difference of their mean F up to a constant), for times the martingale residual. No function of unordered bags has
this: it is the lowest-order statistic that changes when only the pairing does. With one bag instead of two it is the
second moment of that bag's region means.

Every pair of bags gives one score. The scores are stacked with the score of the slide means (main effects and pairing
side by side) in a regression of the column's family. All stacked columns are out-of-fold inside the training fold,
because in-sample scores look better than they are and crowd out the means; and none may have a negative coefficient.
The means come in as one column and not as dozens, which would drown a handful of scores in a cohort of 40 slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from parfocal.bags import Bag
from parfocal.cohort import Column, Fold, Outcome
from parfocal.probes.choosing import column_weight, held_out_loss, inner_weights, name_choices
from parfocal.probes.directions import RANKS, contrast_matrices, rank_name
from parfocal.probes.fitted import FittedProbe, ProbeState
from parfocal.probes.linear import FittedMean, fit_mean_fold
from parfocal.probes.moments import (
    Pair,
    RegionMap,
    centred_regions,
    cross_moments,
    fit_region_map,
    is_partly_read,
    region_numbers,
    slide_sums,
)
from parfocal.probes.regression import fit_nonnegative, predict_column
from parfocal.probes.settings import ProbeSettings
from parfocal.probes.whitening import preparations

__all__ = ["FittedContrast", "PairTerm", "fit_contrast"]

_STACK_PENALTY = 1e-2
_SLIDES_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class PairTerm:
    """What one pair of bags adds to the score of one column: (1/R) sum_r sum_j (u_j . x_first) (v_j . x_second).

    Attributes:
        column: number of the outcome's column.
        first: number of one bag.
        second: number of the other; the same one for the second moment of a single bag.
        u: directions in the columns of the first bag's embeddings, with every factor of the score in them.
        v: directions in those of the second bag's.
    """

    column: int
    first: int
    second: int
    u: Float64[np.ndarray, "_dim rank"]
    v: Float64[np.ndarray, "_dim rank"]

    def score(
        self,
        first: Float64[np.ndarray, "region rank"],
        second: Float64[np.ndarray, "region rank"],
    ) -> Float64[np.ndarray, " region"]:
        """What each region adds, from its projections onto `u` and `v`."""
        return np.asarray((first * second).sum(axis=1))


@dataclass(frozen=True, eq=False)
class FittedContrast(FittedProbe):
    """Directions of every pair of bags, and the slide means, in the columns of the embeddings as they are.

    Attributes:
        offset: per bag what is subtracted from every region mean; None where a slide's regions are centred on their
            own mean.
        terms: the pairs of directions.
        means: the score of the slide means.
        means_weight: how much it counts in each column.
        intercept: of each column.
        choice: preparation and rank.
    """

    offset: tuple[Float64[np.ndarray, " _dim"] | None, ...]
    terms: tuple[PairTerm, ...]
    means: FittedMean
    means_weight: Float64[np.ndarray, " column"]
    intercept: Float64[np.ndarray, " column"]
    choice: str

    @property
    def chosen(self) -> str:
        """Preparation and rank."""
        return self.choice

    def score(self, bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"]) -> Float64[np.ndarray, "picked column"]:
        """The score of each column for some slides."""
        total = self.means.score(bags, slides) * self.means_weight + self.intercept
        for begin in range(0, len(slides), _SLIDES_AT_A_TIME):
            part = slides[begin : begin + _SLIDES_AT_A_TIME]
            total[begin : begin + len(part)] += self._pairing(bags, part)
        return np.asarray(total)

    def _pairing(
        self, bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"]
    ) -> Float64[np.ndarray, "picked column"]:
        total = np.zeros((len(slides), len(self.intercept)))
        counts = np.diff(bags[0].region_start)[slides]
        for term in self.terms:
            a, a_there = _project(bags[term.first], self.offset[term.first], term.u, slides)
            b, b_there = _project(bags[term.second], self.offset[term.second], term.v, slides)
            there = a_there & b_there
            of_region = np.where(there, term.score(a, b), 0.0)
            total[:, term.column] += slide_sums(of_region[:, None], counts)[:, 0] / np.maximum(counts, 1)
        return total

    def state(self) -> ProbeState:
        """All of it as plain data."""
        means = self.means.state()
        arrays = {f"means.{name}": array for name, array in means.arrays.items()}
        arrays |= {"means_weight": self.means_weight, "intercept": self.intercept}
        arrays |= {f"offset.{number}": one for number, one in enumerate(self.offset) if one is not None}
        terms = []
        for number, term in enumerate(self.terms):
            arrays |= {f"u.{number}": term.u, f"v.{number}": term.v}
            terms.append({"column": term.column, "first": term.first, "second": term.second})
        facts = {"chosen": self.choice, "bags": len(self.offset), "terms": terms, "means": dict(means.facts)}
        return ProbeState("contrast", facts, arrays)

    @staticmethod
    def load(state: ProbeState) -> "FittedContrast":
        """What `state` came from."""
        arrays = state.arrays
        means = {name.removeprefix("means."): one for name, one in arrays.items() if name.startswith("means.")}
        terms = [
            PairTerm(one["column"], one["first"], one["second"], arrays[f"u.{number}"], arrays[f"v.{number}"])
            for number, one in enumerate(state.facts["terms"])
        ]
        return FittedContrast(
            tuple(arrays.get(f"offset.{number}") for number in range(int(state.facts["bags"]))),
            tuple(terms),
            FittedMean.load(ProbeState("mean", state.facts["means"], means)),
            arrays["means_weight"],
            arrays["intercept"],
            str(state.facts["chosen"]),
        )


def fit_contrast(
    bags: Sequence[Bag], outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings
) -> list[FittedProbe]:
    """Fit the contrasts of all pairs of bags, stacked with the slide means, on each fold's training slides.

    Offered inside the training fold, to each column of the outcome: each preparation of the region means x four ranks
    (1, 2, 4, shrunk). "As is" keeps the leading principal components with their own scale.

    Args:
        bags: of the same regions; one bag gives the second moment of its own region means.
        outcome: the label of each slide.
        folds: the outer folds.
        settings: what to choose among.

    Raises:
        ValueError: the bags are not of the same regions.
    """
    if any(not np.array_equal(bag.region_start, bags[0].region_start) for bag in bags):
        raise ValueError(f"bags {[bag.name for bag in bags]} are not of the same regions")
    centred: dict[tuple[int, bool], Float32[np.ndarray, "region dim"]] = {}
    fits: list[FittedProbe] = []
    for fold in folds:
        regions = []
        for number, bag in enumerate(bags):
            by_slide = not is_partly_read(bag, fold.train)
            if (number, by_slide) not in centred:
                centred[number, by_slide] = centred_regions(bag, by_slide=by_slide)
            regions.append((centred[number, by_slide], by_slide))
        fits.append(_fit_fold(bags, regions, outcome, fold, settings))
    return fits


def _project(
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


def _pairs(
    bags: Sequence[Bag], regions: Sequence[Float32[np.ndarray, "region _dim"]], maps: Sequence[RegionMap], fold: Fold
) -> list[Pair]:
    numbers = region_numbers(bags[0], fold.train)
    ends = np.cumsum(np.diff(bags[0].region_start)[fold.train])
    bounds = [(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    whitened = []
    for bag, rows, one in zip(bags, regions, maps, strict=True):
        there = bag.region_present[numbers]
        prepared = np.full((len(numbers), one.matrix.shape[1]), np.nan, dtype=np.float32)
        offset = 0.0 if one.offset is None else one.offset.astype(np.float32)
        prepared[there] = (rows[numbers[there]] - offset) @ one.matrix.astype(np.float32)
        whitened.append(prepared)
    result = []
    for a, b in list(combinations(range(len(bags)), 2)) or [(0, 0)]:
        both = bags[a].region_present[numbers] & bags[b].region_present[numbers]
        moments = cross_moments(whitened[a], whitened[b], both, bounds)
        result.append(Pair(a, b, moments, (maps[a].spread, maps[b].spread)))
    return result


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One preparation and rank for one column: what each pair says about slides its models had not seen."""

    name: str
    held_out: Float64[np.ndarray, "train pair"]
    matrices: tuple[Float64[np.ndarray, "a b"], ...]


def _fit_fold(
    bags: Sequence[Bag],
    regions: Sequence[tuple[Float32[np.ndarray, "region _dim"], bool]],
    outcome: Outcome,
    fold: Fold,
    settings: ProbeSettings,
) -> FittedContrast:
    means = fit_mean_fold(bags, outcome, fold, settings)
    maps = [
        fit_region_map(bag, rows, fold, settings, by_slide=by_slide)
        for bag, (rows, by_slide) in zip(bags, regions, strict=True)
    ]
    pairs = _pairs(bags, [rows for rows, _ in regions], maps, fold)
    columns = [column.of(fold.train) for column in outcome.columns]
    terms: list[PairTerm] = []
    names, weights, intercepts = [], [], []
    for number, column in enumerate(columns):
        candidates = _candidates(pairs, column, fold, settings)
        stack = np.stack([np.column_stack([one.held_out, means.held_out[number]]) for one in candidates])
        centre = stack.mean(axis=1, keepdims=True)
        spread = np.maximum(stack.std(axis=1, keepdims=True), 1e-12)
        stack = (stack - centre) / spread
        weight = column_weight(column, balanced=settings.balanced)
        coefficient = fit_nonnegative(stack, column, weight, _STACK_PENALTY)
        loss = held_out_loss(predict_column(stack, coefficient), column, fold.inner, balanced=settings.balanced)
        best = int(loss.argmin())
        slope = coefficient[best, :-1] / spread[best, 0]
        intercepts.append(coefficient[best, -1] - slope @ centre[best, 0])
        weights.append(slope[-1])
        names.append(candidates[best].name)
        for pair, matrix, times in zip(pairs, candidates[best].matrices, slope[:-1], strict=True):
            if times > 0:
                terms.append(_term(number, pair, times * matrix, maps))
    return FittedContrast(
        tuple(one.offset for one in maps),
        tuple(terms),
        means.probe,
        np.array(weights),
        np.array(intercepts),
        name_choices(tuple(column.name for column in columns), tuple(names)),
    )


def _candidates(pairs: Sequence[Pair], column: Column, fold: Fold, settings: ProbeSettings) -> list[_Candidate]:
    weight = inner_weights(fold) * column_weight(column, balanced=settings.balanced)
    result = []
    for preparation in preparations(settings.components):
        held_out, final = [], []
        for pair in pairs:
            train = pair.prepared(preparation)
            matrices = contrast_matrices(train, column, weight)
            scores = np.empty((len(RANKS), len(train)))
            for inner in range(len(matrices) - 1):
                own = np.flatnonzero(fold.inner == inner)
                scores[:, own] = np.tensordot(matrices[inner].astype(train.dtype), train[own], axes=([1, 2], [1, 2]))
            held_out.append(scores)
            final.append(matrices[-1] * pair.scale_of(preparation))
        for place, rank in enumerate(RANKS):
            result.append(
                _Candidate(
                    f"{preparation.label}, {rank_name(rank)}",
                    np.stack([scores[place] for scores in held_out], axis=1),
                    tuple(matrices[place] for matrices in final),
                )
            )
    return result


def _term(column: int, pair: Pair, matrix: Float64[np.ndarray, "a b"], maps: Sequence[RegionMap]) -> PairTerm:
    """The matrix as directions in the columns of the embeddings, as many as it has."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    kept = max(int((s > 1e-9 * s[0]).sum()), 1)
    root = np.sqrt(s[:kept])
    return PairTerm(
        column,
        pair.first,
        pair.second,
        maps[pair.first].matrix[:, : matrix.shape[0]] @ (u[:, :kept] * root),
        maps[pair.second].matrix[:, : matrix.shape[1]] @ (vt[:kept].T * root),
    )
