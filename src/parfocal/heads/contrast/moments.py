"""Region means as contrast sees them: centred, whitened by the training slides, and multiplied within regions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from parfocal.bags import Bag, RowsAsNeeded
from parfocal.cohort import Fold
from parfocal.heads.base import Bags, ProbeSettings, Slides
from parfocal.heads.contrast.refinement import Along
from parfocal.heads.preparation import Preparation, bounds_of, joined, over_slides, together
from parfocal.stats.whitening import Whitening, fit_whitening

_FEWEST_READ = 0.99


@dataclass(frozen=True, eq=False)
class Pair:
    """The training slides' regions in two bags, whitened to the widest number of components, and their cross-moments.

    Attributes:
        first: number of one bag.
        second: number of the other; the same one for the second moment of a single bag.
        moments: F of each training slide.
        spread: of each side's components before whitening, mean square one.
        rows: the whitened regions of each side; only regions where both are present.
        of_slide: the place of each such region's slide among the training slides, rising.
        n_regions: how many regions each training slide has, present or not.
        lifted: how many leading components these are with their products (see `lift`); 0 is the components alone.
    """

    first: int
    second: int
    moments: Float32[np.ndarray, "train a b"]
    spread: tuple[Float64[np.ndarray, " a"], Float64[np.ndarray, " b"]]
    rows: tuple[Float32[np.ndarray, "region a"], Float32[np.ndarray, "region b"]]
    of_slide: Int64[np.ndarray, " region"]
    n_regions: Int64[np.ndarray, " train"]
    lifted: int = 0

    def without_rows(self) -> "Pair":
        """The same without its regions, for whoever needs nothing but moments."""
        first, second = self.rows
        return replace(self, rows=(first[:0].copy(), second[:0].copy()), of_slide=self.of_slide[:0].copy())

    def scales(self, preparation: Preparation) -> tuple[Float64[np.ndarray, " kept_a"], Float64[np.ndarray, " kept_b"]]:
        """What each side's components are multiplied with: one where whitened, else their own spread."""
        k = preparation.components
        first, second = (one if k is None else np.ones(min(k, len(one))) for one in self.spread)
        return first, second

    def held_out_along(
        self,
        u: Float64[np.ndarray, "problem kept_a"],
        v: Float64[np.ndarray, "problem kept_b"],
        inner: Int64[np.ndarray, " train"],
        power: float,
    ) -> Along:
        """The regions along directions of models that had not seen their slide: problem p is without inner fold p.

        Their sums are divided by the number of regions and multiplied with its `power`.
        """
        first, second = np.empty(len(self.of_slide)), np.empty(len(self.of_slide))
        problem = inner[self.of_slide]
        for number in range(int(inner.max()) + 1):
            own = np.flatnonzero(problem == number)
            for along, rows, onto in ((first, self.rows[0], u[number]), (second, self.rows[1], v[number])):
                along[own] = rows[own, : len(onto)] @ onto.astype(np.float32)
        divisor = np.maximum(self.n_regions, 1).astype(np.float64) ** (1 - power)
        return Along(first, second, self.of_slide, divisor)

    def prepared(self, preparation: Preparation) -> Float32[np.ndarray, "train kept_a kept_b"]:
        """The moments of one preparation: a corner of the whitened ones, or all with their scale."""
        first, second = self.scales(preparation)
        corner = self.moments[:, : len(first), : len(second)]
        return corner if preparation.components is not None else corner * np.outer(first, second).astype(np.float32)


def centred_regions(bag: Bag, *, by_slide: bool) -> Float32[np.ndarray, "region dim"] | RowsAsNeeded:
    """The region means about their slide's mean over regions; absent regions stay NaN.

    Not by slide, the rows come back as they are: where a bag is partly read they are centred on the training mean
    later, because the mean of the regions that were read depends on which they were. `synergy`, which tests and does
    not predict, takes the regions that both magnifications have about their own mean (`lab.synergy.moments`).
    """
    if not by_slide:
        return bag.region_mean
    if isinstance(bag.region_mean, RowsAsNeeded):
        return bag.region_mean.changed(partial(_about_mean, bag))
    rows = bag.region_mean.copy()
    for slide in range(len(bag.slides)):
        there = np.flatnonzero(bag.region_present[bag.regions_of(slide)]) + bag.region_start[slide]
        if len(there):
            rows[there] -= rows[there].mean(axis=0, dtype=np.float64)
    return rows


def _about_mean(bag: Bag, slide: int, rows: Float32[np.ndarray, "region dim"]) -> Float32[np.ndarray, "region dim"]:
    """The regions of one slide about their mean."""
    there, rows = np.flatnonzero(bag.region_present[bag.regions_of(slide)]), rows.copy()
    if len(there):
        rows[there] -= rows[there].mean(axis=0, dtype=np.float64)
    return rows


@dataclass(frozen=True, eq=False)
class PickedRegions:
    """The regions of some slides of a bag, one slide after the other.

    Attributes:
        counts: regions of each slide, present or not.
        numbers: of all of them in the bag.
        there: which are present.
        of_slide: the place of each present one's slide.
    """

    counts: Int64[np.ndarray, " picked"]
    numbers: Int64[np.ndarray, " region"]
    there: Bool[np.ndarray, " region"]
    of_slide: Int64[np.ndarray, " present"]

    @staticmethod
    def of(bag: Bag, slides: Slides) -> "PickedRegions":
        """Those of some slides, by their numbers."""
        counts, numbers = np.diff(bag.region_start)[slides], joined(bag.region_start, slides)
        there = bag.region_present[numbers]
        return PickedRegions(counts, numbers, there, np.repeat(np.arange(len(slides)), counts)[there])

    @property
    def present(self) -> Int64[np.ndarray, " present"]:
        """The numbers of the present ones."""
        return np.asarray(self.numbers[self.there])

    def about_slide(self, rows: Float[np.ndarray, "present dim"]) -> Float64[np.ndarray, "present dim"]:
        """Rows of the present ones about the mean of their slide's."""
        return np.asarray(rows - slide_means(rows, self.of_slide, len(self.counts))[self.of_slide])


def is_partly_read(bag: Bag, slides: Slides) -> bool:
    """Whether more than one region in a hundred of these slides has no instance."""
    there = PickedRegions.of(bag, slides).there
    return bool(len(there)) and bool(there.mean() < _FEWEST_READ)


def slide_means(
    rows: Float[np.ndarray, "region dim"], of_slide: Int64[np.ndarray, " region"], n_slides: int
) -> Float64[np.ndarray, "slide dim"]:
    """The mean of each slide's rows, which lie one slide after the other; 0 for a slide without any."""
    counts = np.bincount(of_slide, minlength=n_slides)
    return np.asarray(slide_sums(rows, counts) / np.maximum(counts, 1)[:, None])


def slide_sums(
    rows: Float[np.ndarray, "region dim"], counts: Int64[np.ndarray, " picked"]
) -> Float64[np.ndarray, "picked dim"]:
    """The sum of each slide's rows, which lie one slide after the other; 0 for a slide without any."""
    total = np.zeros((len(counts), rows.shape[1]))
    some = np.flatnonzero(counts)
    if len(some):
        begin = np.concatenate([[0], np.cumsum(counts)])[some]
        total[some] = np.add.reduceat(rows, begin, axis=0)
    return total


def cross_moments(
    first: Float[np.ndarray, "region a"],
    second: Float[np.ndarray, "region b"],
    present: Bool[np.ndarray, " region"],
    bounds: Sequence[tuple[int, int]],
) -> Float[np.ndarray, "slide a b"]:
    """F_i of each slide, in the precision of the rows; rows where not both are present are never read and add nothing.

    Args:
        first: prepared region means of one bag, all slides.
        second: of the other bag, the same regions.
        present: whether both have the region.
        bounds: begin and end of each slide's regions.
    """
    moments = np.zeros((len(bounds), first.shape[1], second.shape[1]), dtype=np.result_type(first, second))
    for number, (begin, end) in enumerate(bounds):
        if end > begin:
            there = np.flatnonzero(present[begin:end]) + begin
            moments[number] = first[there].T @ second[there] / (end - begin)
    return moments


def fit_region_map(
    bag: Bag,
    rows: Float32[np.ndarray, "region dim"] | RowsAsNeeded,
    fold: Fold,
    settings: ProbeSettings,
    *,
    by_slide: bool,
) -> Whitening:
    """Fitted on the regions of the training slides, every slide with the same weight.

    Args:
        bag: whose regions they are.
        rows: as `centred_regions` gives them.
        fold: its training slides are used.
        settings: how many components are kept.
        by_slide: whether the rows are centred on their slide's mean.
    """
    picked = PickedRegions.of(bag, fold.train)
    return fit_whitening(
        rows,
        1 / np.bincount(picked.of_slide)[picked.of_slide],
        widest=max(settings.widest, *settings.components),
        centred=by_slide,
        seed=settings.seed,
        numbers=picked.present,
    )


def pairs_of(n_bags: int) -> list[tuple[int, int]]:
    """The numbers of every two bags; of a single bag that bag with itself."""
    return list(combinations(range(n_bags), 2)) or [(0, 0)]


def pairs_among(bags: Bags) -> list[tuple[int, int]]:
    """The same of the bags that know regions; one whose instances stand one by one is paired with itself alone."""
    alone = [(number, number) for number, bag in enumerate(bags) if bag.is_one_by_one]
    others = [number for number, bag in enumerate(bags) if not bag.is_one_by_one]
    return alone + ([(others[a], others[b]) for a, b in pairs_of(len(others))] if others else [])


def pair_up(
    bags: Bags,
    regions: Sequence[Float32[np.ndarray, "_region _dim"] | RowsAsNeeded],
    maps: Sequence[Whitening],
    fold: Fold,
    *,
    lifted: Sequence[int] = (),
    keep_rows: bool = True,
) -> list[list[Pair]]:
    """The pairs of `pairs_among` of the fold's training slides: of all components, and for each number in `lifted`.

    Args:
        bags: of the same regions, but for those whose instances stand one by one.
        regions: as `centred_regions` gives them.
        maps: of each bag.
        fold: its training slides are used.
        lifted: of how many leading components the products are added.
        keep_rows: whether somebody looks at the whitened regions of a pair. If not, only the moments of the slides
            are kept, where regions are not in memory.
    """
    parts = [slice(0, len(fold.train))] if keep_rows else list(together(bags, fold.train))
    found = []
    for part in parts:
        made = _pairs_of_slides(bags, regions, maps, fold.train[part], lifted)
        found.append(made if len(parts) == 1 else [[one.without_rows() for one in pairs] for pairs in made])
    if len(parts) == 1:
        return found[0]
    return [[_joined(of_parts) for of_parts in zip(*pairs, strict=True)] for pairs in zip(*found, strict=True)]


def _pairs_of_slides(
    bags: Bags,
    regions: Sequence[Float32[np.ndarray, "_region _dim"] | RowsAsNeeded],
    maps: Sequence[Whitening],
    slides: Slides,
    lifted: Sequence[int],
) -> list[list[Pair]]:
    picked = [PickedRegions.of(bag, slides) for bag in bags]
    whitened = [_whitened(bag, rows, one, slides) for bag, rows, one in zip(bags, regions, maps, strict=True)]
    return [
        _pairs(
            bags,
            maps,
            picked,
            [
                lift(rows[:, :components], some.there, some.counts, by_slide=one.mean is None) if components else rows
                for some, rows, one in zip(picked, whitened, maps, strict=True)
            ],
            components,
        )
        for components in (0, *lifted)
    ]


def _whitened(
    bag: Bag, rows: Float32[np.ndarray, "region dim"] | RowsAsNeeded, one: Whitening, slides: Slides
) -> Float32[np.ndarray, "_own component"]:
    """The regions of some slides along all components; NaN where a region is not there."""
    onto = one.whitened().single()

    def of(some: Slides) -> Float32[np.ndarray, "_own component"]:
        picked = PickedRegions.of(bag, some)
        prepared = np.full((len(picked.numbers), one.basis.shape[1]), np.nan, dtype=np.float32)
        prepared[picked.there] = onto.apply(rows[picked.present])
        return prepared

    return over_slides([bag], slides, bounds_of(np.diff(bag.region_start)[slides]), of)


def _pairs(
    bags: Bags,
    maps: Sequence[Whitening],
    picked: Sequence[PickedRegions],
    whitened: Sequence[Float32[np.ndarray, "_region _component"]],
    lifted: int,
) -> list[Pair]:
    result = []
    for a, b in pairs_among(bags):
        n_regions = picked[a].counts
        of_slide = np.repeat(np.arange(len(n_regions)), n_regions)
        bounds = list(pairwise(bounds_of(n_regions).tolist()))
        both = picked[a].there & picked[b].there
        moments = cross_moments(whitened[a], whitened[b], both, bounds)
        sides = (whitened[a], whitened[b]) if both.all() else (whitened[a][both], whitened[b][both])
        spread = tuple(
            np.ones(whitened[side].shape[1]) if lifted else maps[side].spread / np.sqrt((maps[side].spread ** 2).mean())
            for side in (a, b)
        )
        result.append(Pair(a, b, moments, (spread[0], spread[1]), sides, of_slide[both], n_regions, lifted))
    return result


def _joined(parts: Sequence[Pair]) -> Pair:
    """A pair of the slides of several, one after the other; no rows of any of them are kept."""
    return replace(
        parts[0],
        moments=np.concatenate([one.moments for one in parts]),
        n_regions=np.concatenate([one.n_regions for one in parts]),
    )


def lift(
    rows: Float[np.ndarray, "region component"],
    present: Bool[np.ndarray, " region"],
    counts: Int64[np.ndarray, " slide"],
    *,
    by_slide: bool,
) -> Float[np.ndarray, "region lifted"]:
    """Whitened components with their products two by two beside them, in units of one where the rows are normal.

    Whether two signs agree is no direction of a vector; it is one of the products. Those of all 64 components would be
    2,080 numbers of noise, so few components are lifted.

    Args:
        rows: of some slides, one slide after the other; those that are not present are not read.
        present: which regions are there; the others stay NaN.
        counts: regions of each slide, present or not.
        by_slide: whether products are centred on their slide's mean, as the rows are; else on what is expected of
            white rows.
    """
    width = rows.shape[1]
    one, other = np.triu_indices(width)
    unit = np.where(one == other, np.sqrt(0.5), 1.0).astype(rows.dtype)
    products = (rows[present][:, one] * rows[present][:, other] - (one == other)) * unit
    if by_slide:
        of_slide = np.repeat(np.arange(len(counts)), counts)[present]
        products -= slide_means(products, of_slide, len(counts))[of_slide].astype(rows.dtype)
    lifted = np.full((len(rows), width + len(one)), np.nan, dtype=rows.dtype)
    lifted[present] = np.concatenate([rows[present], products], axis=1)
    return lifted
