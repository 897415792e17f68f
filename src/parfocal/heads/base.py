"""What every probe may choose among, and what it gives back: something that scores slides, now and years later."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.config import Settings

# The shorthands of every head: the bags of a cohort, numbers of slides in them, arrays by name, and what is said of
# each slide.
Bags = Sequence[Bag]
Slides = Int64[np.ndarray, " picked"]
Arrays = Mapping[str, np.ndarray]
Scores = Float64[np.ndarray, "picked column"]


class ProbeChoices(Settings):
    """What every arm is offered inside its training fold: four or more strengths for each preparation."""

    components: tuple[int, ...] = Field(
        (16, 32), min_length=1, description="Numbers of whitened components to choose among."
    )
    widest: int = Field(64, ge=1, description="Principal components kept where vectors are used as they are.")
    inner_folds: int = Field(5, ge=2, description="Folds inside a training fold, for every choice.")
    attention_validation: int = Field(
        2, ge=1, description="How many of the inner folds networks are validated on; they are fitted once for each."
    )
    attention_width: int = Field(32, ge=1, description="Width of the attention network.")
    attention_instances: int = Field(
        16, ge=1, description="Instances or regions drawn from a slide at every training step of a network."
    )
    attention_steps: int = Field(
        160, ge=4, description="Training steps of attention; an eighth, a quarter, half, three quarters are tried too."
    )
    attention_rate: float = Field(0.003, gt=0, description="Learning rate of the attention network.")
    mlp_width: int = Field(32, ge=1, description="Width of the hidden layer of the networks on means.")
    mlp_steps: int = Field(80, ge=4, description="Training steps of the networks on means, likewise.")
    mlp_rate: float = Field(0.02, gt=0, description="Learning rate of the networks on means.")
    mlp_decay: float = Field(5.0, ge=0, description="Weight decay of the networks on means, times their rate.")
    bilinear_rank: int = Field(8, ge=1, description="Pairs of directions of the bilinear head.")
    bilinear_steps: int = Field(40, ge=4, description="Training steps of the bilinear head, likewise.")
    bilinear_rate: float = Field(0.03, gt=0, description="Learning rate of the bilinear head.")
    finetune_steps: int = Field(40, ge=4, description="Steps of a region encoder that is trained on, likewise.")
    growth: int = Field(
        4,
        ge=1,
        description="While a network's best number of steps is its last, twice as many are tried, up to so many times.",
    )
    sharpen: bool = Field(
        True,
        description="Offer contrast sharpened directions and the six numbers beside the ranks; off is for comparison.",
    )
    lifted: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        (6, 8), description="Numbers of leading components whose products two by two contrast is offered as well."
    )
    balanced: bool = Field(
        False, description="Weigh both classes alike in every loss, however rare one is; numbers and times unchanged."
    )
    seed: int = Field(0, ge=0, description="Seed of inner folds and of the networks.")


class ProbeSettings(ProbeChoices):
    """What every arm is offered inside its training fold, and where its networks are trained."""

    device: str = Field("cpu", description="Where networks are trained: cpu, cuda, cuda:1, mps.")


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """What an arm says about the test slides of one fold.

    Attributes:
        score: of each column of the outcome, in the order of the fold's test slides.
        chosen: the candidate that the inner folds preferred.
    """

    score: Float64[np.ndarray, "test column"]
    chosen: str


@dataclass(frozen=True, eq=False)
class ProbeState:
    """A fitted probe as plain data: arrays by name, and facts that JSON can hold.

    Attributes:
        probe: the name that `load_probe` knows it by, such as `mean`.
        facts: settings and choices.
        arrays: the numbers.
    """

    probe: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): one for name, one in self.arrays.items() if name.startswith(prefix)}


class FittedProbe(ABC):
    """A probe fitted on the training slides of one fold; it holds all it needs but the bags."""

    @property
    @abstractmethod
    def chosen(self) -> str:
        """The candidate that the inner folds preferred, for people to read."""

    @abstractmethod
    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The score of each column of the outcome for some slides, by their numbers in the bags.

        Only rows of these slides are read, so it is the same whatever other slides the bags hold.

        Args:
            bags: of the kinds it was fitted on, in that order.
            slides: numbers.
        """

    @abstractmethod
    def state(self) -> ProbeState:
        """All of it as plain data."""


Fit = Callable[[Bags, Outcome, Sequence[Fold], ProbeSettings], list[FittedProbe]]
"""What every way to pool is: bags, outcome, folds, settings in; one probe for each fold out, fitted on its training
slides alone."""


def predict(fits: Sequence[FittedProbe], bags: Bags, folds: Sequence[Fold]) -> list[FoldPrediction]:
    """What each fold's probe says about the slides that the fold holds out."""
    return [FoldPrediction(fit.score(bags, fold.test), fit.chosen) for fit, fold in zip(fits, folds, strict=True)]


def average_predictions(of_arms: Sequence[Sequence[FoldPrediction]]) -> list[FoldPrediction]:
    """Late fusion of several arms over the same folds: the mean of their scores, column by column."""
    return [
        FoldPrediction(
            np.mean([one.score for one in fold], axis=0), " | ".join(dict.fromkeys(one.chosen for one in fold))
        )
        for fold in zip(*of_arms, strict=True)
    ]


def name_choices(columns: tuple[str, ...], choices: tuple[str, ...]) -> str:
    """One text for the choices of all columns; the columns are named only where their choices differ."""
    if len(set(choices)) == 1:
        return choices[0]
    return "; ".join(f"{column}: {choice}" for column, choice in zip(columns, choices, strict=True))
