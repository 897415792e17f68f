"""Targets at places inside slides, learnt from the pixels around each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.spatial import KDTree
from torch import Tensor

from parfocal.errors import ConfigError
from parfocal.evaluate.places import PlaceFitSettings
from parfocal.evaluate.places.fitting import PlaceArm, PlaceFitter, PlacePredictions, in_double
from parfocal.evaluate.places.reading import PlaceData, owners, place_outcome, refuse_torn_slides
from parfocal.evaluate.places.result import METRICS, PlaceArmResult, metric_of, score_arm
from parfocal.finetune.goals import Drawn, Goal, choose_held_out
from parfocal.finetune.settings import FinetuneSettings
from parfocal.heads.targets import linear_sum
from parfocal.regions import RegionPlan
from parfocal.regions.places import STEP_UM, Places


@dataclass(frozen=True, eq=False)
class PlaceGoal(Goal):
    """Targets at places, each of which has a region around it.

    Attributes:
        data: the places, those of a slide together and in the order of `regions`.
        first: where the places of each slide begin in it, and the end.
        centre: whether only differences within a slide count.
        scale: of each target, over the training places.
        location: likewise; 0 where differences count.
    """

    data: PlaceData
    first: Int64[np.ndarray, " bound"]
    centre: bool
    scale: Float64[np.ndarray, " target"]
    location: Float64[np.ndarray, " target"]

    @property
    def at_places(self) -> bool:
        """Yes."""
        return True

    @property
    def metric(self) -> str:
        """The mean correlation or AUC over targets."""
        return f"mean {METRICS[metric_of(self.data)]}"

    def loss(self, scores: Float[Tensor, "column unit"], drawn: Sequence[Drawn]) -> Float[Tensor, ""]:
        """The squared error in units of each target's spread."""
        numbers = np.concatenate([self.first[one.slide] + one.picked for one in drawn])
        value = torch.from_numpy((self.data.target[numbers] - self.location).T / self.scale[:, None])
        value = value.to(scores)
        if self.centre:
            sizes = [len(one.picked) for one in drawn]
            scores, value = _about_means(scores, sizes), _about_means(value, sizes)
        return linear_sum(scores, value, torch.ones_like(value)).sum() / value.numel()

    def measure(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> float:
        """The mean over slides of the mean over targets."""
        found = self.score(scores)
        return float("nan") if found is None else float(np.nanmean(found.by_slide))

    def score(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> PlaceArmResult | None:
        """All numbers of the slides that are scored; None where there is none.

        Args:
            scores: of all places of some slides, by their numbers.
        """
        slides = [self.slides[number] for number in sorted(scores)]
        arm = PlaceArm("finetuned", "fine-tuned", "region encoder", ())
        try:
            return score_arm(self.data, arm, PlacePredictions(self._in_units(scores), ()), slides) if slides else None
        except ConfigError:  # no slide has places with different values
            return None

    def table(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> tuple[list[str], list[list[object]]]:
        """A row for each place."""
        value = self._in_units(scores)
        numbers = np.concatenate([np.arange(self.first[slide], self.first[slide + 1]) for slide in sorted(scores)])
        rows: list[list[object]] = [
            [self.data.slides[place], *self.data.xy_um[place].tolist(), *value[place].tolist()] for place in numbers
        ]
        return ["slide", "x_um", "y_um", *self.names], rows

    def _in_units(
        self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]
    ) -> Float64[np.ndarray, "place target"]:
        """Predictions of all places, about the mean of their slide where only differences count; NaN elsewhere."""
        value = np.full(self.data.target.shape, np.nan)
        for slide, found in scores.items():
            own = found - found.mean(axis=1, keepdims=True) if self.centre else found
            value[self.first[slide] : self.first[slide + 1]] = own.T * self.scale + self.location
        return value


def _about_means(values: Float[Tensor, "column unit"], sizes: Sequence[int]) -> Float[Tensor, "column unit"]:
    return torch.cat([part - part.mean(dim=1, keepdim=True) for part in torch.split(values, list(sizes), dim=1)], dim=1)


def place_goal(
    places: Places,
    plans: Mapping[str, RegionPlan],
    settings: FinetuneSettings,
    *,
    group: str | None = None,
) -> tuple[PlaceGoal, list[str]]:
    """Targets at places of the planned slides, and what was left out, in sentences.

    Raises:
        ConfigError: no place has a region, no target varies, the group is absent or tears a slide, or a slide to hold
            out is not there.
    """
    if settings.head != "linear":
        raise ConfigError(f"--head {settings.head} pools the regions of a slide; a place is one region. Use linear.")
    if settings.centre and settings.regions_per_slide == 1:
        raise ConfigError(
            "places are compared within their slide, and --regions-per-slide 1 draws one alone, from which nothing is "
            "learnt. Use 2 or more, or --no-centre."
        )
    slides = [slide for slide in sorted(plans) if len(places.of(slide))]
    number, region, xy_um = [], [], []
    for slide in slides:
        own = places.of(slide)
        at = places.xy_um(own, plans[slide].slide_mpp)
        found = _regions_at(plans[slide], at)
        number.append(own[found >= 0])
        region.append(found[found >= 0])
        xy_um.append(at[found >= 0])
    notes = []
    lost = sum(len(places.of(slide)) for slide in slides) - sum(map(len, number))
    if lost:
        notes.append(f"{lost} places have no tile of some magnification and are left out.")
    columns = {name: values[np.concatenate(number)] for name, values in places.targets.items()}
    of_slide = np.repeat(np.array(slides, dtype=object), [len(one) for one in number])
    owner = owners(columns, group, of_slide, places)
    names, sources, target, is_class = place_outcome(columns)
    known = np.isfinite(target).all(axis=1) & (owner != "")
    if not known.all():
        notes.append(f"{int((~known).sum())} places lack a target or their group and are left out.")
    if not known.any():
        raise ConfigError(f"no place of {places.path} has a region and all targets; there is nothing to learn.")
    position = np.concatenate(xy_um)[known]
    data = PlaceData(
        tuple(of_slide[known].tolist()),
        tuple(owner[known].tolist()),
        position,
        np.zeros(len(position)),
        {},
        names,
        sources,
        target[known],
        is_class,
        tuple(notes),
    )
    refuse_torn_slides(data)
    kept = tuple(dict.fromkeys(data.slides))
    counts = [data.slides.count(slide) for slide in kept]
    own_regions = np.split(np.concatenate(region)[known], np.cumsum(counts)[:-1])
    groups = tuple(data.unit_of_slide[slide] for slide in kept)
    held_out = choose_held_out(kept, groups, np.zeros(len(kept), dtype=np.int64), settings)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    train = np.flatnonzero(np.repeat(~held_out, counts))
    how = PlaceFitSettings(centre=settings.centre, most_variable=settings.most_variable, seed=settings.seed)
    data = data.with_targets(PlaceFitter(data, train, how).varying_targets())
    if not data.names:
        raise ConfigError(f"no target of {places.path} varies at the training places; nothing can be told apart.")
    seen = in_double(data.target, data.slide_numbers, settings.centre)[train]
    scale, location = seen.std(axis=0), np.zeros(seen.shape[1]) if settings.centre else seen.mean(axis=0)
    goal = PlaceGoal(kept, tuple(own_regions), held_out, data.names, data, first, settings.centre, scale, location)
    return goal, notes


def _regions_at(plan: RegionPlan, xy_um: Float64[np.ndarray, "place 2"]) -> Int64[np.ndarray, " place"]:
    """The region around each place; -1 where there is none with a tile of every magnification."""
    if not plan.n_regions:
        return np.full(len(xy_um), -1)
    away, region = KDTree(plan.region_xy_um() + plan.grid.region_um / 2).query(xy_um, p=np.inf)
    complete = np.logical_and.reduce(
        [np.bincount(plan.tiles(mpp).region, minlength=plan.n_regions) > 0 for mpp in plan.grid.mpps]
    )
    return np.where((away <= 2 * STEP_UM) & complete[region], region, -1).astype(np.int64)
