"""What is learnt of slides, some of which are held out, and how well those are known afterwards."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from parfocal.cohort import deal_folds
from parfocal.errors import ConfigError
from parfocal.finetune.reading import RegionKey
from parfocal.finetune.settings import FinetuneSettings
from parfocal.table import some_of


@dataclass(frozen=True, eq=False)
class Drawn:
    """The regions of one slide in a step.

    Attributes:
        slide: its number.
        picked: which of the slide's regions in `Goal.regions`.
    """

    slide: int
    picked: Int64[np.ndarray, " region"]


@dataclass(frozen=True, eq=False)
class Goal(ABC):
    """What is learnt of some slides, each of which is trained on or held out.

    Attributes:
        slides: their ids.
        regions: of each the regions that may be drawn.
        is_held_out: whether a slide is held out.
        names: of the scores.
    """

    slides: tuple[str, ...]
    regions: tuple[Int64[np.ndarray, " _region"], ...]
    is_held_out: Bool[np.ndarray, " slide"]
    names: tuple[str, ...]

    @property
    @abstractmethod
    def at_places(self) -> bool:
        """Whether every region has targets of its own."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The name of the number that says how well held-out slides are known."""

    @abstractmethod
    def loss(self, scores: Float[Tensor, "column unit"], drawn: Sequence[Drawn]) -> Float[Tensor, ""]:
        """The mean loss over what is drawn."""

    @abstractmethod
    def measure(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> float:
        """How well held-out slides are known; NaN where it cannot be said.

        Args:
            scores: of some slides, by their numbers.
        """

    @abstractmethod
    def table(self, scores: Mapping[int, Float64[np.ndarray, "column _unit"]]) -> tuple[list[str], list[list[object]]]:
        """The scores with what is known, as columns and rows of a table."""

    def units(self, drawn: Sequence[Drawn]) -> list[int]:
        """How many of the drawn regions, in order, make each unit that has a score."""
        if self.at_places:
            return [1] * sum(len(one.picked) for one in drawn)
        return [len(one.picked) for one in drawn]

    def keys(self, drawn: Sequence[Drawn]) -> list[RegionKey]:
        """The drawn regions."""
        return [
            (self.slides[one.slide], region) for one in drawn for region in self.regions[one.slide][one.picked].tolist()
        ]

    @property
    def training(self) -> Int64[np.ndarray, " slide"]:
        """The numbers of the slides that are trained on."""
        return np.flatnonzero(~self.is_held_out)

    @property
    def held_out(self) -> Int64[np.ndarray, " slide"]:
        """The numbers of the others."""
        return np.flatnonzero(self.is_held_out)


def choose_held_out(
    slides: Sequence[str], groups: Sequence[str], stratum: Int64[np.ndarray, " slide"], settings: FinetuneSettings
) -> Bool[np.ndarray, " slide"]:
    """The slides that are held out: those that are named, or a share of the groups, classes as even as can be."""
    unknown = sorted(set(settings.holdout_slides) - set(slides))
    if unknown:
        raise ConfigError(f"there is no slide {unknown[0]!r} to hold out; there are {some_of(sorted(slides))}.")
    names = np.array(groups)
    if settings.holdout_slides:
        held = np.isin(np.array(slides), settings.holdout_slides)
        torn = sorted(set(names[held]) & set(names[~held]))
        if torn:
            raise ConfigError(f"cannot hold out a part of the slides of {torn[0]!r}. Hold out all of them.")
    elif settings.holdout:
        folds = min(max(2, round(1 / settings.holdout)), len(set(groups)))
        numbers = np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1)
        held = deal_folds(numbers, stratum, folds, np.random.default_rng([settings.seed, 21])) == 0
    else:
        held = np.zeros(len(slides), dtype=bool)
    if held.all():
        raise ConfigError("all slides are held out, and none is left to train on. Give more, or hold out fewer.")
    return held
