"""How far a slide lies outside of the slides that a head was fitted on.

For every magnification three questions about a slide: where its mean lies among the means of training slides, within
the components that these spread over (Mahalanobis's distance); how much of it points into none of these components;
and whether its regions differ among themselves more or less than those of other slides. All three allow for what a
slide of so many regions shows by chance: the mean of 8 regions lies further off than that of 800, and where that were
left out a small slide would be outside for being small. Each answer is compared with the answers of training slides to
whose patient they had not been fitted, in standard deviations of the logarithm; the largest is the slide's distance.

`Limit` says where the usual ends: at distances of patients from slides to which they do not belong, with a rate that is
held. Of a patient who is like those of the training cohort, the distance of the furthest slide is as likely to have any
rank among theirs as any other. So of n patients a slide may be called outside where it is further than all but k - 1 of
them: of new patients like these, k in n + 1 have such a slide (a conformal test). No fewer than 1 in n + 1 can be
promised, whatever is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.special import digamma, polygamma

from parfocal.bags import Bag
from parfocal.stats.whitening import Whitening, fit_whitening

FALSE_ALARMS = 0.05
"""The share of new patients, like those of training, of whom a slide is called outside; where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Limit:
    """The distances of patients from what is usual in others.

    Attributes:
        patients: the distance of the furthest slide of each patient, sorted, by measures fitted without the patient.
        asked: the rate of false alarms that was asked for; None where only a cut is known, as of a head that an older
            parfocal has fitted.
    """

    patients: Float64[np.ndarray, " patient"]
    asked: float | None

    @property
    def n(self) -> int:
        """How many patients there are."""
        return len(self.patients)

    @property
    def smallest_rate(self) -> float:
        """The smallest rate of false alarms that so many patients can hold; NaN where only a cut is known."""
        return float("nan") if self.asked is None else 1 / (self.n + 1)

    @property
    def rate(self) -> float:
        """The rate that is held: the one that was asked for, to the next smaller one that can be, if there is one."""
        return self._place * self.smallest_rate

    @property
    def cut(self) -> float:
        """The distance beyond which a slide is outside."""
        return float(self.patients[-self._place])

    def rank(self, distance: float) -> int | None:
        """The place of a slide among the patients and itself, 1 where it is further than all; None without patients."""
        if self.asked is None:
            return None
        return 1 + int((self.patients >= distance).sum())

    def sentence(self, patients: str = "patients") -> str:
        """The rate, what it rests on, and the smallest one that so many can hold; that none is known of a mere cut.

        Args:
            patients: what they are called; slides where nothing says whose they are.
        """
        if self.asked is None:
            return "how often that is a mistake is not known: an older parfocal has fitted this head; fit it again"
        said = f"of new {patients} like the {self.n} of training, {self.rate:.2g} are called outside by mistake"
        least = f"the smallest rate that {self.n} {patients} can hold is {self.smallest_rate:.2g}, 1 in {self.n + 1}"
        return f"{said}; {least}"

    @cached_property
    def _place(self) -> int:
        # 1e-9: the twentieth of 19 + 1 is no less for being written as 0.05 * 20.
        return 1 if self.asked is None else max(1, int(np.floor(self.asked * (self.n + 1) + 1e-9)))


def furthest_of_each(distance: Sequence[float], groups: Sequence[str]) -> Float64[np.ndarray, " patient"]:
    """The largest distance of each group's slides, sorted."""
    largest: dict[str, float] = {}
    for one, group in zip(distance, groups, strict=True):
        largest[group] = max(one, largest.get(group, -np.inf))
    return np.sort(np.array(list(largest.values())))


PARTS = ("mean", "residue", "spread")
"""The three questions, in the order of the numbers that answer them."""

_MOST_FOLDS = 10
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
        inside: of slide means along each component of `means`: variance between slides, and that a single region adds.
        residue: the same two of what points into none of them, all directions together.
    """

    name: str
    means: Whitening
    regions: Whitening
    level: Float64[np.ndarray, " component"]
    variance: Float64[np.ndarray, " component"]
    inside: Float64[np.ndarray, "2 mean_component"]
    residue: Float64[np.ndarray, "2"]

    def parts(self, bag: Bag, slide: int) -> Float64[np.ndarray, " part"]:
        """The three answers for a slide, by its number; NaN for the spread of fewer than four regions."""
        inside, residue = _split(bag.mean[slide][None], self.means)
        rows = _centred_regions(bag, slide)
        n_regions = len(rows)
        part = 1 / max(n_regions, 1)
        spread = float("nan")
        if n_regions >= _FEWEST_REGIONS:
            expected = np.maximum(self.variance + _log_chance(n_regions)[1], _SMALLEST)
            variance = _log_variance(rows, self.regions)
            spread = float(np.sqrt(((variance - self.level) ** 2 / expected).mean()))
        usual = np.maximum(self.inside[0] + self.inside[1] * part, _SMALLEST)
        left = max(float(self.residue[0] + self.residue[1] * part), _SMALLEST)
        return np.array([np.sqrt((inside[0] ** 2 / usual).mean()), np.sqrt(residue[0] / left), spread])


@dataclass(frozen=True, eq=False)
class Habits:
    """What is usual in all bags, and where the usual ends.

    Attributes:
        bags: one for each bag.
        centre: for each bag and part, the mean logarithm of the training slides' answers; patients weigh alike.
        scale: its standard deviation.
        limit: the distances of patients by measures fitted without them, and where the usual ends.
    """

    bags: tuple[BagHabit, ...]
    centre: Float64[np.ndarray, "bag part"]
    scale: Float64[np.ndarray, "bag part"]
    limit: Limit

    def distance(self, bags: Sequence[Bag | None], slide: int) -> Distance:
        """The distance of one slide, by its number; other slides of the bags have no say.

        Args:
            bags: of the kinds it was fitted on, in that order; None for one that does not count, because what was read
                of it was chosen. A slide is then no more often called outside by mistake than with all of them.
            slide: number.
        """
        unknown = np.full(len(PARTS), np.nan)
        pairs = zip(self.bags, bags, strict=True)
        return self._judge(np.stack([unknown if bag is None else habit.parts(bag, slide) for habit, bag in pairs]))

    def _judge(self, answers: Float64[np.ndarray, "bag part"]) -> Distance:
        standard = (np.log(np.maximum(answers, _SMALLEST)) - self.centre) / self.scale
        place = int(np.nanargmax(standard))
        bag, part = divmod(place, len(PARTS))
        return Distance(float(standard.flat[place]), f"{self.bags[bag].name} {PARTS[part]}")


def fit_habits(
    bags: Sequence[Bag], groups: Sequence[str], *, false_alarms: float = FALSE_ALARMS, seed: int = 0
) -> Habits:
    """Learn what is usual from all slides; where the usual ends, from each patient by the others.

    A patient's distances know nothing of the patient: the measures are fitted without it (on nine tenths of the others
    where there are more than ten), and its answers are compared with those of the others only. With its own among
    them, no distance could be large: of eight numbers none is further than 2.5 of their standard deviations from their
    mean.

    Args:
        bags: slides of training.
        groups: the patient of each slide.
        false_alarms: the share of new patients of whom a slide may be called outside by mistake.
        seed: decides which patients are left out together.

    Raises:
        ValueError: fewer than three patients.
    """
    n_slides = len(bags[0].slides)
    names, of_slide = np.unique(np.array(groups), return_inverse=True)
    if len(names) < 3:
        raise ValueError(f"what is usual needs three patients, got {len(names)}")
    weight = (1 / np.bincount(of_slide))[of_slide]
    answers = np.full((n_slides, len(bags), len(PARTS)), np.nan)
    folds = np.array_split(np.random.default_rng(seed).permutation(len(names)), min(len(names), _MOST_FOLDS))
    whole = list[BagHabit]()
    for number, bag in enumerate(bags):
        regions = [_centred_regions(bag, slide) for slide in range(n_slides)]
        for patients in folds:
            is_tested = np.isin(of_slide, patients)
            habit = _fit_bag(bag, regions, np.flatnonzero(~is_tested), weight)
            for slide in np.flatnonzero(is_tested):
                answers[slide, number] = habit.parts(bag, int(slide))
        whole.append(_fit_bag(bag, regions, np.arange(n_slides), weight))
    none = Limit(np.zeros(1), false_alarms)
    distances = np.zeros(n_slides)
    for patient in range(len(names)):
        others = of_slide != patient
        habits = Habits(tuple(whole), *_centre_and_scale(answers[others], weight[others]), none)
        for slide in np.flatnonzero(~others):
            distances[slide] = habits._judge(answers[slide]).value
    limit = Limit(furthest_of_each(distances.tolist(), groups), false_alarms)
    return Habits(tuple(whole), *_centre_and_scale(answers, weight), limit)


def _centre_and_scale(
    answers: Float64[np.ndarray, "slide bag part"], weight: Float64[np.ndarray, " slide"]
) -> tuple[Float64[np.ndarray, "bag part"], Float64[np.ndarray, "bag part"]]:
    """Mean and standard deviation over patients of the logarithm of each answer; NaN where two do not have one."""
    logs = np.log(np.maximum(answers, _SMALLEST))
    own = np.where(np.isfinite(logs), weight[:, None, None], 0.0)
    known = own.sum(axis=0)
    centre = np.where(known > 1, np.nansum(own * logs, axis=0) / np.maximum(known, _SMALLEST), np.nan)
    square = np.nansum(own * (logs - centre) ** 2, axis=0) / np.maximum(known - 1, _SMALLEST)
    # A part that never differs, such as the residue of a bag without any, must not divide by zero.
    return centre, np.maximum(np.sqrt(square), 1e-3)


def _fit_bag(
    bag: Bag,
    centred: Sequence[Float64[np.ndarray, "_ dim"]],
    slides: Int64[np.ndarray, " train"],
    weight: Float64[np.ndarray, " slide"],
) -> BagHabit:
    """What is usual among some slides of a bag, of all of which `centred` has the regions about their mean."""
    # Of slides, not of patients: on fields of three patients and a section of another organ, components of what differs
    # within patients separate better (AUC .80 to .96 for .27 to .99), and the cut is that of held-out patients anyway.
    components = max(1, min(_MOST_COMPONENTS, len(slides) // _SLIDES_PER_COMPONENT))
    means = fit_whitening(bag.mean[slides], weight[slides], widest=components, centred=False, seed=0)
    rows = [centred[slide] for slide in slides]
    of_rows = np.concatenate(
        [np.full(len(one), weight[slide] / max(len(one), 1)) for slide, one in zip(slides, rows, strict=True)]
    )
    regions = fit_whitening(np.concatenate(rows), of_rows, widest=components, centred=True, seed=0)
    usable = [(_log_variance(one, regions), len(one)) for one in rows if len(one) >= _FEWEST_REGIONS]
    width = regions.basis.shape[1]
    level, variance = np.zeros(width), np.zeros(width)
    if len(usable) > 1:
        logs = np.stack([one for one, _ in usable])
        level = logs.mean(axis=0)
        sampling = np.mean([_log_chance(n)[1] for _, n in usable])
        variance = np.maximum(logs.var(axis=0, ddof=1) - sampling, 0.0)
    inside, residue = _split(bag.mean[slides], means)
    inside_region, residue_region = [np.zeros(inside.shape[1])], [np.float64(0)]
    for one in rows:
        if len(one) > 1:
            along, left = _split(one, means, centred=True)
            inside_region.append((along**2).sum(axis=0) / (len(one) - 1))
            residue_region.append(left.sum() / (len(one) - 1))
    share = weight[slides] / weight[slides].sum()  # patients weigh alike, as in the components
    part = float(share @ np.array([1 / max(len(one), 1) for one in rows]))
    return BagHabit(
        bag.name,
        means,
        regions,
        level,
        variance,
        _between_and_within(share @ inside**2, inside_region, part),
        _between_and_within(np.asarray(share @ residue), residue_region, part),
    )


def _between_and_within(
    total: Float64[np.ndarray, "*value"], regions: Sequence[np.ndarray | np.float64], part: float
) -> Float64[np.ndarray, "2 *value"]:
    """The variance between slides, and that of one region, of slide means whose regions add `part` of the latter.

    Args:
        total: of the slide means.
        regions: first a zero, then the variance of the regions of each slide of several.
        part: the mean over slides of one over their regions.
    """
    region = np.sum(regions, axis=0) / max(len(regions) - 1, 1)
    return np.stack([np.maximum(total - region * part, 0.0), region])


def _split(
    rows: Float[np.ndarray, "row dim"], means: Whitening, *, centred: bool = False
) -> tuple[Float64[np.ndarray, "row component"], Float64[np.ndarray, " row"]]:
    """Rows along the components that slide means spread over, and the square of what points into none of them."""
    scaled = (rows.astype(np.float64) - (0.0 if centred or means.mean is None else means.mean)) / means.scale
    inside = scaled @ means.basis
    return inside, np.maximum((scaled**2).sum(axis=1) - (inside**2).sum(axis=1), 0.0)


@cache
def _log_chance(n_regions: int) -> tuple[float, float]:
    """What chance adds to the log variance of so many regions, on average, and how much it makes it vary."""
    half = (n_regions - 1) / 2
    return float(digamma(half) - np.log(half)), float(polygamma(1, half))


def _centred_regions(bag: Bag, slide: int) -> Float64[np.ndarray, "region dim"]:
    """The means of the slide's present regions about their mean."""
    own = bag.regions_of(slide)
    rows: Float64[np.ndarray, "region dim"] = bag.region_mean[own][bag.region_present[own]].astype(np.float64)
    return np.asarray(rows - rows.mean(axis=0)) if len(rows) else rows


def _log_variance(rows: Float64[np.ndarray, "region dim"], regions: Whitening) -> Float64[np.ndarray, " component"]:
    """The log variance of a slide's regions, given about their mean, along each whitened component; of two or more.

    What chance takes off the logarithm on average is added again, so that small slides have the level of large ones.
    """
    whitened: Float[np.ndarray, "region component"] = rows @ regions.whitened().matrix
    square = (whitened**2).sum(axis=0) / (len(rows) - 1)
    return np.asarray(np.log(np.maximum(square, _SMALLEST)) - _log_chance(len(rows))[0])
