"""How far a slide lies outside of the slides that a head was fitted on.

For every magnification three questions about a slide: where its mean lies among the means of training slides, within
the components that these spread over (Mahalanobis's distance); how much of it points into none of these components;
and whether its regions differ among themselves more or less than those of other slides. Each answer is compared with
the answers of training slides to which they had not been fitted, in standard deviations of the logarithm; the largest
is the slide's distance. A slide is outside when it lies beyond the 99 % quantile of such distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.probes import Preparation, Whitening, fit_whitening

__all__ = ["PARTS", "BagHabit", "Distance", "Habits", "fit_habits"]

PARTS = ("mean", "residue", "spread")
"""The three questions, in the order of the numbers that answer them."""

_QUANTILE = 0.99
_MOST_COMPONENTS = 16
_SLIDES_PER_COMPONENT = 4
_FEWEST_REGIONS = 4  # of which a spread says anything
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Distance:
    """How far a slide lies from the training slides, in standard deviations of theirs, and what is furthest."""

    value: float
    furthest: str


@dataclass(frozen=True, eq=False)
class BagHabit:
    """What is usual in one bag.

    Attributes:
        name: the bag's.
        means: of slide means.
        regions: of region means about their slide's mean.
        level: the mean over slides of the log variance along each of the components of `regions`.
        variance: how much these differ between slides, beyond what a limited number of regions explains.
    """

    name: str
    means: Whitening
    regions: Whitening
    level: Float64[np.ndarray, " component"]
    variance: Float64[np.ndarray, " component"]

    def parts(self, bag: Bag, slide: int) -> Float64[np.ndarray, " part"]:
        """The three answers for a slide, by its number; NaN for the spread of fewer than four regions."""
        centred = (bag.mean[slide].astype(np.float64) - self.means.mean) / self.means.scale
        inside = centred @ self.means.basis
        residue = float(centred @ centred - inside @ inside)
        spread = float("nan")
        variance, n_regions = _log_variance(bag, slide, self.regions)
        if n_regions >= _FEWEST_REGIONS:
            expected = np.maximum(self.variance + 2 / (n_regions - 1), _SMALLEST)
            spread = float(np.sqrt(((variance - self.level) ** 2 / expected).mean()))
        return np.array(
            [np.sqrt(((inside / self.means.spread) ** 2).mean()), np.sqrt(max(residue, 0.0) / len(centred)), spread]
        )


@dataclass(frozen=True, eq=False)
class Habits:
    """What is usual in all bags, and where the usual ends.

    Attributes:
        bags: one for each bag.
        centre: for each bag and part, the mean logarithm of the training slides' answers.
        scale: its standard deviation.
        cut: the distance beyond which a slide is outside.
        n: training slides; with fewer than 99 the cut is the largest of their distances.
    """

    bags: tuple[BagHabit, ...]
    centre: Float64[np.ndarray, "bag part"]
    scale: Float64[np.ndarray, "bag part"]
    cut: float
    n: int

    def distance(self, bags: Sequence[Bag], slide: int) -> Distance:
        """The distance of one slide, by its number; other slides of the bags have no say.

        Args:
            bags: of the kinds it was fitted on, in that order.
            slide: number.
        """
        answers = np.stack([habit.parts(bag, slide) for habit, bag in zip(self.bags, bags, strict=True)])
        return self._judge(answers)

    def _judge(self, answers: Float64[np.ndarray, "bag part"]) -> Distance:
        standard = (np.log(np.maximum(answers, _SMALLEST)) - self.centre) / self.scale
        place = int(np.nanargmax(standard))
        bag, part = divmod(place, len(PARTS))
        return Distance(float(standard.flat[place]), f"{self.bags[bag].name} {PARTS[part]}")


def fit_habits(bags: Sequence[Bag], folds: Sequence[Fold]) -> Habits:
    """Learn what is usual from all slides; where the usual ends, from slides of each fold by the others.

    Args:
        bags: slides of training.
        folds: of one repeat, so that each slide is tested once.

    Raises:
        ValueError: fewer than four slides.
    """
    n_slides = len(bags[0].slides)
    if n_slides < 4:
        raise ValueError(f"what is usual needs four slides, got {n_slides}")
    answers = np.full((n_slides, len(bags), len(PARTS)), np.nan)
    for fold in folds:
        for number, bag in enumerate(bags):
            habit = _fit_bag(bag, fold.train)
            for slide in fold.test:
                answers[slide, number] = habit.parts(bag, int(slide))
    logs = np.log(np.maximum(answers, _SMALLEST))
    known = np.isfinite(logs).sum(axis=0)
    centre = np.where(known > 0, np.nansum(logs, axis=0) / np.maximum(known, 1), np.nan)
    square = np.nansum((logs - centre) ** 2, axis=0) / np.maximum(known - 1, 1)
    # A part that never differs, such as the residue of a bag without any, must not divide by zero.
    scale = np.maximum(np.sqrt(square), 1e-3)
    habits = Habits(tuple(_fit_bag(bag, np.arange(n_slides)) for bag in bags), centre, scale, 0.0, n_slides)
    distances = np.sort([habits._judge(one).value for one in answers])
    # The quantile that a new slide exceeds with probability 1 % or less, where there are enough slides to know it.
    place = min(int(np.ceil((n_slides + 1) * _QUANTILE)), n_slides) - 1
    return Habits(habits.bags, centre, scale, float(distances[place]), n_slides)


def _fit_bag(bag: Bag, slides: Int64[np.ndarray, " train"]) -> BagHabit:
    components = max(1, min(_MOST_COMPONENTS, len(slides) // _SLIDES_PER_COMPONENT))
    means = fit_whitening(bag.mean[slides], np.ones(len(slides)), widest=components, centred=False, seed=0)
    rows = [_centred_regions(bag, int(slide)) for slide in slides]
    weight = np.concatenate([np.full(len(one), 1 / max(len(one), 1)) for one in rows])
    regions = fit_whitening(np.concatenate(rows), weight, widest=components, centred=True, seed=0)
    found = [_log_variance(bag, int(slide), regions) for slide in slides]
    usable = [(variance, n) for variance, n in found if n >= _FEWEST_REGIONS]
    width = regions.basis.shape[1]
    level, variance = np.zeros(width), np.zeros(width)
    if len(usable) > 1:
        logs = np.stack([one for one, _ in usable])
        level = logs.mean(axis=0)
        sampling = np.mean([2 / (n - 1) for _, n in usable])
        variance = np.maximum(logs.var(axis=0, ddof=1) - sampling, 0.0)
    return BagHabit(bag.name, means, regions, level, variance)


def _centred_regions(bag: Bag, slide: int) -> Float64[np.ndarray, "region dim"]:
    """The means of the slide's present regions about their mean."""
    own = bag.regions_of(slide)
    rows: Float64[np.ndarray, "region dim"] = bag.region_mean[own][bag.region_present[own]].astype(np.float64)
    return np.asarray(rows - rows.mean(axis=0)) if len(rows) else rows


def _log_variance(bag: Bag, slide: int, regions: Whitening) -> tuple[Float64[np.ndarray, " component"], int]:
    """The log variance of a slide's regions along each whitened component, and how many regions there are."""
    rows = _centred_regions(bag, slide)
    whitened: Float[np.ndarray, "region component"] = rows @ regions.map_of(Preparation(regions.basis.shape[1]))
    square = (whitened**2).sum(axis=0) / max(len(rows) - 1, 1)
    logs: Float64[np.ndarray, " component"] = np.log(np.maximum(square, _SMALLEST))
    return logs, len(rows)
