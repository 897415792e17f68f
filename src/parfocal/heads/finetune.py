"""Fine-tuning: in every fold a pretrained region encoder is trained on, together with what pools its region vectors.

First the head alone learns from the vectors of the frozen encoder, which costs next to nothing: a head that starts
at random would first undo what the encoder knows (Kumar et al. 2022). Then both are trained, the encoder at a tenth of
the head's learning rate, on a few regions of a few slides at a time.

Offered inside the training fold: two poolings (mean, gated attention), chosen with the frozen encoder, and a grid of
numbers of steps, chosen for each column of the outcome by its loss on one inner fold; the grid grows while its last
number is the best. What scores new slides was trained as many steps on the whole training fold. These are fewer
candidates than other arms have, since each costs a training.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from parfocal.cohort import Fold, Outcome
from parfocal.heads.base import Bags, Fit, FittedProbe, ProbeSettings, ProbeState, Scores, Slides, name_choices
from parfocal.heads.network import StepSearch, weights_of, with_weights
from parfocal.heads.regions import PlacedRegions, placed_regions
from parfocal.heads.registry import RegisteredHead
from parfocal.heads.targets import Targets, targets_of
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig

_SLIDES, _REGIONS = 16, 3  # of a step, and of each of its slides
_ENCODER_RATE = 0.1
_HEAD_DECAY, _ENCODER_DECAY = 1.0, 0.05
_LEAST_SPREAD = 0.05  # of a dim, over the root mean square of all
_POOLINGS = ("mean", "attention")
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


def fit_finetuned(model: str | Path) -> Fit:
    """A way to pool that trains a region encoder on, from the bag of tiles in place.

    Args:
        model: a checkpoint's folder or its id on the hub.
    """
    return partial(_fit_all, model)


def _fit_all(
    model: str | Path, bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings
) -> list[FittedProbe]:
    encoder = RegionEncoder.from_pretrained(model, device=settings.device)
    return [_fit_fold(encoder, bags, outcome, fold, settings) for fold in folds]


def _fit_fold(encoder: RegionEncoder, bags: Bags, outcome: Outcome, fold: Fold, settings: ProbeSettings) -> FittedProbe:
    regions = placed_regions(bags, fold.train, encoder.config)
    frozen = regions.encode(encoder)
    own = outcome.of(fold.train)
    held_out = fold.inner == fold.inner.min()
    trial = _Training.begin(encoder, regions, frozen, own, ~held_out, held_out, settings, fold)
    losses = {pooling: trial.pool_by([pooling] * len(own.columns)).fit_head(frozen) for pooling in _POOLINGS}
    poolings = [_POOLINGS[int(np.argmin([losses[one][c] for one in _POOLINGS]))] for c in range(len(own.columns))]
    trial = trial.pool_by(poolings)
    trial.fit_head(frozen)
    search = StepSearch((len(own.columns),), settings.finetune_steps, settings.growth)
    training = trial.fine_tune(search.stages[-1][-1])
    for stage in search.open_stages():
        for step in training:
            if step in stage:
                search.offer(step, trial.held_out_loss())
            if step == stage[-1]:
                break
    if not np.isfinite(search.loss).all():
        raise FloatingPointError("fine-tuning diverged; lower attention_rate")
    best = search.step.tolist()
    kept = sorted(set(best))
    nobody = np.zeros(len(fold.train), dtype=bool)
    final = _Training.begin(encoder, regions, frozen, own, ~nobody, nobody, settings, fold).pool_by(poolings)
    final.fit_head(frozen)
    stages = [final.stage() for step in final.fine_tune(kept[-1]) if step in kept]
    columns = tuple(
        FinetunedColumn(
            column.name,
            f"{pooling}, {search.label(steps_of)}",
            kept.index(steps_of),
            float(final.targets.scale[place, 0]),
            float(final.targets.location[place, 0]),
        )
        for place, (column, pooling, steps_of) in enumerate(zip(own.columns, poolings, best, strict=True))
    )
    return FittedFinetuned(encoder.config, tuple(stages), columns)


@dataclass(frozen=True, eq=False)
class _Training:
    """One encoder and one head, the slides they learn from and those they are judged by.

    Slides have their place in the training fold as number.
    """

    encoder: RegionEncoder
    head: PoolingHead
    regions: PlacedRegions
    targets: Targets
    learns: Int64[np.ndarray, " slide"]
    judges: Int64[np.ndarray, " judge"]
    settings: ProbeSettings
    stream: tuple[int, ...]

    @staticmethod
    def begin(
        encoder: RegionEncoder,
        regions: PlacedRegions,
        frozen: Float[Tensor, "region width"],
        outcome: Outcome,
        learns: Bool[np.ndarray, " slide"],
        judges: Bool[np.ndarray, " slide"],
        settings: ProbeSettings,
        fold: Fold,
    ) -> "_Training":
        """A copy of the encoder, and a head that knows nothing but the vectors' mean and spread."""
        device = frozen.device
        head = PoolingHead(encoder.config.width, max(1, settings.attention_width // 2), len(outcome.columns))
        numbers = np.concatenate([regions.of_slide(int(slide)) for slide in np.flatnonzero(learns)])
        seen = frozen[torch.from_numpy(numbers).to(device)]
        head.mean.copy_(seen.mean(dim=0))
        # A dim that hardly changes is not blown up: the first steps of the encoder would move it by many spreads.
        head.sd.copy_(seen.std(dim=0, correction=0).clamp(min=_LEAST_SPREAD * float(seen.square().mean().sqrt())))
        weights = [one.astype(np.float32)[None, None] for one in (learns, judges)]
        targets = targets_of(outcome.columns, *weights, balanced=settings.balanced, device=device)
        # What a fold draws depends on the seed, its repeat and its number alone.
        stream = (settings.seed, 8, fold.repeat, fold.number)
        return _Training(
            copy.deepcopy(encoder),
            head.to(device),
            regions,
            targets,
            np.flatnonzero(learns),
            np.flatnonzero(judges),
            settings,
            stream,
        )

    def pool_by(self, poolings: Sequence[str]) -> "_Training":
        """The same encoder with a new head that pools each column in the named way."""
        head = copy.deepcopy(self.head)
        for parameter in head.parameters():
            parameter.data.zero_()
        head.start(torch.Generator().manual_seed(self._seed(1)))
        head.attends.copy_(torch.tensor([one == "attention" for one in poolings]))
        return replace(self, head=head)

    def fit_head(self, frozen: Float[Tensor, "region width"]) -> Float[np.ndarray, " column"]:
        """Train the head on the frozen vectors of all regions; the held-out loss of each column."""
        everyone = range(len(self.regions.start) - 1)
        numbers, present = self._padded([self.regions.of_slide(slide) for slide in everyone])
        cls, there = frozen[numbers.to(frozen.device)], present.to(frozen.device)
        optimiser = torch.optim.AdamW(self.head.parameters(), lr=self.settings.attention_rate, weight_decay=_HEAD_DECAY)
        for _ in range(self.settings.attention_steps):
            loss = self.targets.training_loss(self.head(cls, there)).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            losses: Float[np.ndarray, " column"] = self.targets.held_out_loss(self.head(cls, there))[:, 0].cpu().numpy()
        return losses

    def fine_tune(self, n_steps: int) -> Iterator[int]:
        """Train encoder and head together, and yield the number of each finished step."""
        rate, device = self.settings.attention_rate, self.head.bias.device
        groups = [
            {"params": list(self.head.parameters()), "lr": rate, "weight_decay": _HEAD_DECAY},
            {"params": list(self.encoder.parameters()), "lr": rate * _ENCODER_RATE, "weight_decay": _ENCODER_DECAY},
        ]
        optimiser = torch.optim.AdamW(groups)
        generator = torch.Generator(device=device).manual_seed(self._seed(2))
        rng = np.random.default_rng([*self.stream, 3])
        batches = self._batches(rng)
        for step in range(1, n_steps + 1):
            slides = next(batches)
            drawn = [rng.permutation(self.regions.of_slide(int(slide)))[:_REGIONS] for slide in slides]
            self.encoder.train()
            score = self._score(drawn, lambda tiles: self.encoder(*tiles, generator=generator).cls)
            loss = self.targets.of_slides(slides).training_loss(score).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
            optimiser.step()
            yield step

    @torch.no_grad()
    def held_out_loss(self) -> Float[np.ndarray, " column"]:
        """The loss of each column on the slides that judge, from all their regions."""
        self.encoder.eval()
        scores = [
            self._score([self.regions.of_slide(int(slide))], lambda tiles: self.encoder(*tiles).cls)
            for slide in self.judges
        ]
        loss = self.targets.of_slides(self.judges).held_out_loss(torch.cat(scores, dim=1))
        return np.asarray(loss[:, 0].cpu().numpy())

    def stage(self) -> tuple[RegionEncoder, PoolingHead]:
        """A copy of encoder and head as they are now."""
        return copy.deepcopy(self.encoder).eval(), copy.deepcopy(self.head).eval()

    def _score(
        self, drawn: Sequence[Int64[np.ndarray, " _region"]], encode: Callable[[tuple[Tensor, ...]], Tensor]
    ) -> Float[Tensor, "column slide"]:
        """The scores of slides from the given regions of each."""
        tiles = self.regions.take(np.concatenate(drawn)).to(self.head.bias.device)
        cls = encode((tiles.tokens, tiles.xy_um, tiles.mpp, tiles.present))
        order = np.split(np.arange(len(cls)), np.cumsum([len(one) for one in drawn])[:-1])
        numbers, present = self._padded(order)
        score: Float[Tensor, "column slide"] = self.head(cls[numbers.to(cls.device)], present.to(cls.device))
        return score

    def _batches(self, rng: np.random.Generator) -> Iterator[Int64[np.ndarray, " batch"]]:
        """Slides of each step: all in random order, again and again."""
        waiting = np.zeros(0, dtype=np.int64)
        size = min(_SLIDES, len(self.learns))
        while True:
            if len(waiting) < size:
                waiting = np.concatenate([waiting, rng.permutation(self.learns)])
            yield waiting[:size]
            waiting = waiting[size:]

    def _padded(
        self, numbers: Sequence[Int64[np.ndarray, " _region"]]
    ) -> tuple[Int64[Tensor, "slide region"], Bool[Tensor, "slide region"]]:
        count = np.array([len(one) for one in numbers])
        order = np.arange(int(count.max()))
        rows = [one[np.minimum(order, len(one) - 1)] for one in numbers]
        return torch.from_numpy(np.stack(rows)), torch.from_numpy(order < count[:, None])

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([*self.stream, number]).generate_state(1, np.uint64)[0] >> 1)


HEAD = RegisteredHead(NAME, "mean or gated attention", "tiles", load_finetuned, is_random=True)
