"""What the probes may choose among, and how they are fitted; and what every probe gives back."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from parfocal.config import Settings


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
