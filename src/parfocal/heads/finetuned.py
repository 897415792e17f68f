"""A region encoder that was trained on, with what pools its region vectors to scores."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from parfocal.heads.base import Bags, FittedProbe, ProbeState, Scores, Slides, name_choices
from parfocal.heads.network import weights_of, with_weights
from parfocal.heads.regions import placed_regions
from parfocal.heads.registry import RegisteredHead
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig

NAME = "finetuned"


class PoolingHead(nn.Module):
    """Standardised region vectors to one score for each column, by their mean or by gated attention."""

    mean: Tensor
    sd: Tensor
    attends: Tensor

    def __init__(self, width: int, gates: int, columns: int) -> None:
        """All scores are 0 at first; attention is even.

        Args:
            width: of a region's vector.
            gates: width of the two gates of attention.
            columns: of the outcome; each has a pooling and a score of its own.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))
        self.register_buffer("attends", torch.zeros(columns, dtype=torch.bool))
        self.value = nn.Parameter(torch.zeros(columns, width, gates))
        self.gate = nn.Parameter(torch.zeros(columns, width, gates))
        self.attention = nn.Parameter(torch.zeros(columns, gates))
        self.weight = nn.Parameter(torch.zeros(columns, width))
        self.bias = nn.Parameter(torch.zeros(columns))

    def start(self, generator: torch.Generator) -> None:
        """Draw the gates; attention stays even, and scores stay 0, until a step moves them."""
        for gates in (self.value, self.gate):
            drawn = torch.randn(gates.shape, generator=generator) / gates.shape[1] ** 0.5
            gates.data.copy_(drawn)

    def forward(
        self, cls: Float[Tensor, "slide region width"], present: Bool[Tensor, "slide region"]
    ) -> Float[Tensor, "column slide"]:
        """The scores of slides from some of their regions, at least one each."""
        x = (cls.float() - self.mean) / self.sd
        gated = torch.tanh(torch.einsum("srw,cwg->csrg", x, self.value))
        gated = gated * torch.sigmoid(torch.einsum("srw,cwg->csrg", x, self.gate))
        logit = torch.einsum("csrg,cg->csr", gated, self.attention)
        # Columns that pool by the mean give every region the same logit.
        logit = torch.where(self.attends[:, None, None], logit, 0.0).masked_fill(~present, float("-inf"))
        share = functional.softmax(logit, dim=2)
        pooled = torch.einsum("csr,srw->csw", share, x)
        score: Float[Tensor, "column slide"] = torch.einsum("csw,cw->cs", pooled, self.weight) + self.bias[:, None]
        return score


@dataclass(frozen=True)
class FinetunedColumn:
    """What one column of the outcome ended with.

    Attributes:
        name: of the column.
        chosen: pooling and steps.
        stage: which of the kept stages of training it is scored by.
        scale: what its score is multiplied with; 1 but for numbers.
        location: what is then added; 0 but for numbers.
    """

    name: str
    chosen: str
    stage: int
    scale: float
    location: float


@dataclass(frozen=True, eq=False)
class FittedFinetuned(FittedProbe):
    """A region encoder and a head, at one stage of their training or at several.

    Attributes:
        config: of the encoder.
        stages: encoder and head, in evaluation mode.
        columns: of the outcome.
    """

    config: RegionEncoderConfig
    stages: tuple[tuple[RegionEncoder, PoolingHead], ...]
    columns: tuple[FinetunedColumn, ...]

    @property
    def chosen(self) -> str:
        """The pooling and the number of steps, for each column where they differ."""
        return name_choices(tuple(one.name for one in self.columns), tuple(one.chosen for one in self.columns))

    @torch.no_grad()
    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The scores of some slides from all their regions, one slide after the other: so none depends on others."""
        scores = np.empty((len(slides), len(self.columns)))
        for number, slide in enumerate(slides):
            regions = placed_regions(bags, np.array([slide]), self.config)
            for stage, (encoder, head) in enumerate(self.stages):
                cls = regions.encode(encoder)[None]
                found = head(cls, torch.ones(cls.shape[:2], dtype=torch.bool, device=cls.device))[:, 0].cpu().numpy()
                for place, column in enumerate(self.columns):
                    if column.stage == stage:
                        scores[number, place] = column.location + column.scale * float(found[place])
        return scores

    def state(self) -> ProbeState:
        """Facts and arrays, those of stage number s under `s/`."""
        arrays: dict[str, np.ndarray] = {}
        for number, (encoder, head) in enumerate(self.stages):
            for kind, module in (("encoder", encoder), ("head", head)):
                arrays |= weights_of(module, f"{number}/{kind}/")
        facts = {
            "config": self.config.model_dump(mode="json"),
            "gates": int(self.stages[0][1].gate.shape[2]),
            "stages": len(self.stages),
            "columns": [vars(one) for one in self.columns],
        }
        return ProbeState(NAME, facts, arrays)


def load_finetuned(state: ProbeState) -> FittedFinetuned:
    """The probe whose state this is, on the CPU."""
    config = RegionEncoderConfig.model_validate(state.facts["config"])
    columns = tuple(FinetunedColumn(**one) for one in state.facts["columns"])
    stages = []
    for number in range(int(state.facts["stages"])):
        head = PoolingHead(config.width, int(state.facts["gates"]), len(columns))
        encoder = with_weights(RegionEncoder(config), state, f"{number}/encoder/")
        stages.append((encoder, with_weights(head, state, f"{number}/head/")))
    return FittedFinetuned(config, tuple(stages), columns)


HEAD = RegisteredHead("finetuned", "mean or gated attention", "tiles", load_finetuned, is_random=True)
