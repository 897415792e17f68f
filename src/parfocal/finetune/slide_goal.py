"""The label of every slide, learnt from the pixels of its regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from parfocal.cohort import Cohort, strata
from parfocal.errors import ConfigError
from parfocal.evaluate.metric import METRICS, can_be_measured, measure
from parfocal.finetune.goals import Drawn, Goal, choose_held_out
from parfocal.finetune.settings import FinetuneSettings
from parfocal.heads.targets import Targets, targets_of
from parfocal.regions import RegionPlan


@dataclass(frozen=True, eq=False)
class SlideGoal(Goal):
    """The label of every slide.

    Attributes:
        cohort: the slides, in the order of `slides`.
        device: where scores are.
    """

    cohort: Cohort
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def at_places(self) -> bool:
        """No: a slide has one label."""
        return False

    @property
    def metric(self) -> str:
        """That of the outcome's kind."""
        return METRICS[self.cohort.outcome.kind].name

    @cached_property
    def _targets(self) -> Targets:
        learns = (~self.is_held_out).astype(np.float32)[None, None]
        columns = self.cohort.outcome.columns
        return targets_of(columns, learns, 0 * learns, balanced=True, device=self.device)

    def loss(self, scores: Float[Tensor, "column unit"], drawn: Sequence[Drawn]) -> Float[Tensor, ""]:
        """That of the outcome's family, classes with as much say as each other."""
        numbers = np.array([one.slide for one in drawn], dtype=np.int64)
        return self._targets.of_slides(numbers).training_loss(scores).mean()

    def measure(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> float:
        """The metric of the slides that are scored."""
        numbers = np.array(sorted(scores), dtype=np.int64)
        outcome = self.cohort.outcome.of(numbers)
        return measure(outcome, self._in_units(scores)) if can_be_measured(outcome) else float("nan")

    def table(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> tuple[list[str], list[list[object]]]:
        """A row for each slide: its label, and its scores."""
        outcome = self.cohort.outcome
        labels = [outcome.classes[int(one)] if outcome.classes else one for one in outcome.value.tolist()]
        rows: list[list[object]] = [
            [self.slides[number], labels[number], *found.tolist()]
            for number, found in zip(sorted(scores), self._in_units(scores), strict=True)
        ]
        return ["slide", outcome.target, *(f"score {name}" for name in self.names)], rows

    def _in_units(
        self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]
    ) -> Float64[np.ndarray, "slide column"]:
        scale, location = self._targets.scale[:, 0], self._targets.location[:, 0]
        return np.stack([scores[number][:, 0] * scale + location for number in sorted(scores)])


def slide_goal(
    cohort: Cohort, plans: Mapping[str, RegionPlan], settings: FinetuneSettings, device: torch.device
) -> SlideGoal:
    """Labels of the planned slides.

    Raises:
        ConfigError: nothing is left to train on, or a slide to hold out is not there.
    """
    held_out = choose_held_out(cohort.slides, cohort.groups, strata(cohort.outcome), settings)
    if len(np.unique(cohort.outcome.of(np.flatnonzero(~held_out)).value)) < 2:
        raise ConfigError(f"all training slides have the same {cohort.target!r}. Hold out others, or give more slides.")
    regions = tuple(np.arange(plans[slide].n_regions) for slide in cohort.slides)
    names = tuple(column.name for column in cohort.outcome.columns)
    return SlideGoal(cohort.slides, regions, held_out, names, cohort, device)
