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

Bags whose instances stand one by one have no regions to share: each gives its own second moment.

Beside the ranks of D more is offered: its leading directions sharpened by the regions' own grouping and six numbers
that turn two directions into evidence (both in `refinement`); the same for a few leading components with their products
(`moments.lift`), because a state may be an XOR of what a tile shows; and, where slides differ in their number of
regions, R^p times the score, p of 0, 1/2 or 1, because evidence adds over regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64

from parfocal.bags import Bag, RowsAsNeeded
from parfocal.cohort import Column, Fold, Outcome
from parfocal.errors import ConfigError
from parfocal.heads.base import Bags, FittedProbe, ProbeSettings, ProbeState, Scores, Slides, name_choices
from parfocal.heads.contrast.candidates import Candidate, linear_candidates, refined
from parfocal.heads.contrast.expected import means_of_regions
from parfocal.heads.contrast.moments import (
    Pair,
    PickedRegions,
    centred_regions,
    fit_region_map,
    is_partly_read,
    pair_up,
    slide_sums,
)
from parfocal.heads.contrast.terms import PairTerm, make_term, project
from parfocal.heads.contrast.usual import with_usual
from parfocal.heads.linear import FittedMean, fit_mean_fold
from parfocal.heads.regions import check_same_regions
from parfocal.heads.registry import RegisteredHead
from parfocal.heads.regression import column_weight, fit_nonnegative, held_out_loss, predict_column

_STACK_PENALTY = 1e-2
_ROUNDING = 1e-11
_SLIDES_AT_A_TIME = 256


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

    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The score of each column for some slides."""
        total = self.means.score(bags, slides) * self.means_weight + self.intercept
        for begin in range(0, len(slides), _SLIDES_AT_A_TIME):
            part = slides[begin : begin + _SLIDES_AT_A_TIME]
            total[begin : begin + len(part)] += self._pairing(bags, part)
        return np.asarray(total)

    def _pairing(self, bags: Bags, slides: Slides) -> Scores:
        total = np.zeros((len(slides), len(self.intercept)))
        for term in self.terms:
            total[:, term.column] += self.add_up(term, bags, slides)
        return total

    def add_up(self, term: PairTerm, bags: Bags, slides: Slides) -> Float64[np.ndarray, " picked"]:
        """What one of the terms adds to the score of its column."""
        counts = np.diff(bags[term.first].region_start)[slides]
        divisor = np.maximum(counts, 1) ** (1 - term.power)
        return np.asarray(slide_sums(self._products(term, bags, slides)[:, None], counts)[:, 0] / divisor)

    def of_regions(self, term: PairTerm, bags: Bags, slide: int) -> Float64[np.ndarray, " region"]:
        """What each region of one slide adds through one of the terms; 0 where not both of its sides are there."""
        products = self._products(term, bags, np.array([slide]))
        return np.asarray(products / max(len(products), 1) ** (1 - term.power))

    def _products(self, term: PairTerm, bags: Bags, slides: Slides) -> Float64[np.ndarray, " region"]:
        (a, a_there), (b, b_there) = self.along(term, bags, slides)
        return np.where(a_there & b_there, term.score(a, b), 0.0)

    def along(
        self, term: PairTerm, bags: Bags, slides: Slides
    ) -> tuple[
        tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]],
        tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]],
    ]:
        """The centred regions of some slides along the directions of each side of a term, and which are there."""
        return (
            project(bags[term.first], self.offset[term.first], term.u, slides, term.lift_u),
            project(bags[term.second], self.offset[term.second], term.v, slides, term.lift_v),
        )

    def state(self) -> ProbeState:
        """All of it as plain data."""
        means = self.means.state()
        arrays = {f"means.{name}": array for name, array in means.arrays.items()}
        arrays |= {"means_weight": self.means_weight, "intercept": self.intercept}
        arrays |= {f"offset.{number}": one for number, one in enumerate(self.offset) if one is not None}
        terms = []
        for number, term in enumerate(self.terms):
            arrays |= term.arrays(number)
            terms.append(term.facts())
        facts = {"chosen": self.choice, "bags": len(self.offset), "terms": terms, "means": dict(means.facts)}
        return ProbeState("contrast", facts, arrays)

    @staticmethod
    def load(state: ProbeState) -> "FittedContrast":
        """What `state` came from."""
        arrays = state.arrays
        terms = [PairTerm.load(one, number, arrays) for number, one in enumerate(state.facts["terms"])]
        return FittedContrast(
            tuple(arrays.get(f"offset.{number}") for number in range(int(state.facts["bags"]))),
            tuple(terms),
            FittedMean.load(ProbeState("mean", state.facts["means"], state.under("means."))),
            arrays["means_weight"],
            arrays["intercept"],
            str(state.facts["chosen"]),
        )


def fit_contrast(bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings) -> list[FittedProbe]:
    """Fit the contrasts of all pairs of bags, stacked with the slide means, on each fold's training slides.

    Offered inside the training fold, to each column of the outcome: each preparation of the region means x four ranks
    (1, 2, 4, shrunk) and, of each whitened one, the leading directions sharpened; the same for the products of a few
    leading components; the six numbers on the best of the leading and of the sharpened ones; and all of it for the
    mean and the sum over regions, where their number differs. "As is" keeps the leading principal components with
    their own scale.

    Args:
        bags: of the same regions; one bag gives the second moment of its own region means. Those whose instances
            stand one by one give their own second moment beside the pairs of the others.
        outcome: the label of each slide.
        folds: the outer folds.
        settings: what to choose among.

    Raises:
        ValueError: the bags are not of the same regions.
        ConfigError: nothing varies within the training slides.
    """
    check_same_regions([bag for bag in bags if not bag.is_one_by_one])
    centred: dict[tuple[int, bool], Float32[np.ndarray, "region dim"] | RowsAsNeeded] = {}
    fits: list[FittedProbe] = []
    for fold in folds:
        regions = []
        for number, bag in enumerate(bags):
            by_slide = not is_partly_read(bag, fold.train)
            if (number, by_slide) not in centred:
                centred[number, by_slide] = centred_regions(bag, by_slide=by_slide)
            regions.append((centred[number, by_slide], by_slide))
        _refuse_nothing_to_pair(bags, regions, fold)
        fits.append(_fit_fold(bags, regions, outcome, fold, settings))
    return fits


def _refuse_nothing_to_pair(
    bags: Bags, regions: Sequence[tuple[Float32[np.ndarray, "_region _dim"] | RowsAsNeeded, bool]], fold: Fold
) -> None:
    """Raise where the regions of every training slide are the same, or one, so that centring leaves nothing of them."""
    if any((np.diff(bag.region_start)[fold.train] < 2).all() for bag in bags):
        raise ConfigError(
            "contrast has nothing to compare: each slide has one region, and regions are centred within the slide. Use "
            "larger slides, or leave contrast out."
        )
    for bag, (rows, by_slide) in zip(bags, regions, strict=True):
        if by_slide and _are_alike(bag, rows, fold.train):
            raise ConfigError(
                f"contrast has nothing to compare: the regions of every slide are the same in {bag.name}. Look at how "
                "these embeddings were made, or leave contrast out."
            )


def _are_alike(bag: Bag, rows: Float32[np.ndarray, "region dim"] | RowsAsNeeded, slides: Slides) -> bool:
    """Whether the regions of every slide are the same, but for the rounding of means of many tiles.

    In squares, in single precision, that is a trillionth. Where regions are not in memory, they are read until one
    slide says no: all that is compared with them is the square of their mean, which is known.
    """
    picked = PickedRegions.of(bag, slides)
    if isinstance(rows, np.ndarray):
        there = picked.present
        return bool(np.square(rows[there]).mean() <= _ROUNDING * np.square(bag.region_mean[there]).mean())
    n_there = np.bincount(picked.of_slide, minlength=len(slides))
    of_means, about = float(n_there @ np.square(means_of_regions(bag, slides)).sum(axis=1)), 0.0
    for slide in slides:
        own = rows[bag.regions_of(int(slide))][bag.region_present[bag.regions_of(int(slide))]]
        about += float(np.square(own, dtype=np.float64).sum())
        if about > _ROUNDING * (about + of_means):
            return False
    return True


def _fit_fold(
    bags: Bags,
    regions: Sequence[tuple[Float32[np.ndarray, "_region _dim"] | RowsAsNeeded, bool]],
    outcome: Outcome,
    fold: Fold,
    settings: ProbeSettings,
) -> FittedContrast:
    means = fit_mean_fold(bags, outcome, fold, settings)
    maps = [
        fit_region_map(bag, rows, fold, settings, by_slide=by_slide)
        for bag, (rows, by_slide) in zip(bags, regions, strict=True)
    ]
    rows = [rows for rows, _ in regions]
    pairs = pair_up(bags, rows, maps, fold, lifted=settings.lifted, keep_rows=settings.sharpen)
    offset = tuple(one.mean for one in maps)
    region_means = [means_of_regions(bag, fold.train) for bag in bags]
    columns = [column.of(fold.train) for column in outcome.columns]
    terms: list[PairTerm] = []
    names, weights, intercepts = [], [], []
    for number, column in enumerate(columns):
        best = _best(pairs, column, means.held_out[number], fold, settings)
        intercepts.append(best.intercept)
        weights.append(best.slope[-1])
        names.append(best.candidate.name)
        for pair, part, times in zip(best.candidate.pairs, best.candidate.parts, best.slope[:-1], strict=True):
            if times > 0:
                term = make_term(number, pair, part, best.candidate.power, float(times), maps)
                terms.append(with_usual(term, offset, bags, fold.train, region_means, settings.seed))
    return FittedContrast(
        offset,
        tuple(terms),
        means.probe,
        np.array(weights),
        np.array(intercepts),
        name_choices(tuple(column.name for column in columns), tuple(names)),
    )


@dataclass(frozen=True, eq=False)
class _Stacked:
    """A candidate with the means beside it: slopes of its pairs and, last, of the means."""

    candidate: Candidate
    slope: Float64[np.ndarray, " term"]
    intercept: float
    loss: float


def _best(
    pairs: Sequence[Sequence[Pair]],
    column: Column,
    means: Float64[np.ndarray, " train"],
    fold: Fold,
    settings: ProbeSettings,
) -> _Stacked:
    """The candidate whose stack has the least held-out loss.

    Six numbers are fitted to the best of the leading pairs and to the best of the sharpened ones alone, and only for
    pairs of bags that had a say there: they are the one part that is not in closed form.
    """
    offered = [one for some in pairs for one in linear_candidates(some, column, fold, settings)]
    found = _stack(offered, column, means, fold, settings)
    for sharp in (False, True) if settings.sharpen else ():
        single = [one for one in found if one.candidate.leading and one.candidate.sharpened == sharp]
        best = min(single, key=lambda one: one.loss)
        useful = [place for place, slope in enumerate(best.slope[:-1]) if slope > 0]
        if useful:
            better = refined(best.candidate.of(useful), column, fold, settings)
            found += _stack([better], column, means, fold, settings)
    return _pruned(min(found, key=lambda one: one.loss), column, means, fold, settings)


def _pruned(
    best: _Stacked, column: Column, means: Float64[np.ndarray, " train"], fold: Fold, settings: ProbeSettings
) -> _Stacked:
    """The stack without the pairs, and without the means, that do not pay for themselves.

    A score of noise has a positive slope half of the time, and its weight is noise in every prediction. A column stays
    where leaving it out costs more than Schwarz's half log n of likelihood; one stays always.
    """
    n = max(int(column.event.sum()), 2)

    def cost(loss: float) -> float:
        return 0.5 * n * float(np.log(max(loss, 1e-300))) if column.family == "linear" else n * loss

    stays = best.slope > 0
    while stays.sum() > 1:
        places = np.flatnonzero(stays)
        masks = np.repeat(stays[None], len(places), axis=0)
        masks[np.arange(len(places)), places] = False
        candidate = best.candidate
        tried = [
            _stack(
                [replace(candidate, held_out=candidate.held_out * mask[:-1])],
                column,
                means * mask[-1],
                fold,
                settings,
            )[0]
            for mask in masks
        ]
        least = min(range(len(tried)), key=lambda number: tried[number].loss)
        if cost(tried[least].loss) - cost(best.loss) > 0.5 * np.log(n):
            break
        best, stays = tried[least], masks[least] & (tried[least].slope > 0)
    return best


def _stack(
    candidates: Sequence[Candidate],
    column: Column,
    means: Float64[np.ndarray, " train"],
    fold: Fold,
    settings: ProbeSettings,
) -> list[_Stacked]:
    stack = np.stack([np.column_stack([one.held_out, means]) for one in candidates])
    centre = stack.mean(axis=1, keepdims=True)
    spread = np.maximum(stack.std(axis=1, keepdims=True), 1e-12)
    stack = (stack - centre) / spread
    weight = column_weight(column, balanced=settings.balanced)
    coefficient = fit_nonnegative(stack, column, weight, _STACK_PENALTY)
    loss = held_out_loss(predict_column(stack, coefficient), column, fold.inner, balanced=settings.balanced)
    slope = coefficient[:, :-1] / spread[:, 0]
    intercept = coefficient[:, -1] - (slope * centre[:, 0]).sum(axis=1)
    return [
        _Stacked(one, slope[number], float(intercept[number]), float(loss[number]))
        for number, one in enumerate(candidates)
    ]


HEAD = RegisteredHead(
    "contrast", "cross-scale contrast", "regions", FittedContrast.load, fit_contrast, takes_several=True
)
