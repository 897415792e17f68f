"""What is common to the small networks among the probes: the interface of one kind, and one that was trained.

Beside it which instances of a slide a training step looks at, and how long networks train: a grid of step numbers that
grows while its last one is the best.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from parfocal.heads.base import Arrays, Bags, FittedProbe, ProbeSettings, ProbeState, Scores, Slides, name_choices
from parfocal.heads.preparation import Preparation, Table


@dataclass(frozen=True, eq=False)
class Draw:
    """The instances of one training step: of each table the row numbers and which of them are real, for every slide.

    `rows` is None where a table has one row for each slide, which is then not copied.
    """

    rows: tuple[Int64[Tensor, "slide _drawn"] | None, ...]
    real: tuple[Bool[Tensor, "slide _drawn"], ...]

    def of(self, tables: Sequence[Float[Tensor, "fold _row _kept"]]) -> list[Float[Tensor, "fold slide _drawn _kept"]]:
        """The drawn rows of each table."""
        return [
            table[:, :, None] if drawn is None else table[:, drawn.reshape(-1)].view(len(table), *drawn.shape, -1)
            for table, drawn in zip(tables, self.rows, strict=True)
        ]


def shares_of(starts: Sequence[Int64[np.ndarray, " bound"]], instances: int) -> list[int]:
    """How many instances of each table are drawn: its share of all, at least one, and no more than a slide has."""
    counts = [np.diff(start) for start in starts]
    sizes = np.array([one.mean() for one in counts])
    shares = np.maximum(1, np.rint(instances * sizes / max(sizes.sum(), 1e-12)))
    return [max(1, min(int(share), int(one.max()))) for share, one in zip(shares, counts, strict=True)]


def draw_instances(
    starts: Sequence[Int64[np.ndarray, " bound"]],
    slides: Int64[np.ndarray, " slide"],
    n_slides: int,
    *,
    instances: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Draw]:
    """Draws without end.

    A small slide is taken whole, a larger one with repetition: among hundreds, a double changes nothing. What is drawn
    of a slide does not depend on which other slides are there.

    Args:
        starts: where the rows of each slide begin in each table, and the end.
        slides: their numbers.
        n_slides: how many slides there are in all.
        instances: how many are drawn of a slide, from all tables together.
        rng: decides.
        device: where the networks are.
    """
    shares = shares_of(starts, instances)
    while True:
        numbers, real = [], []
        for start, share in zip(starts, shares, strict=True):
            counts = np.diff(start)[:, None]
            order = np.arange(share)[None]
            random = (rng.random((n_slides, share))[slides] * counts).astype(np.int64)
            drawn = start[:-1, None] + np.where(counts <= share, np.minimum(order, counts - 1), random)
            there = (order < counts) | (counts > share)
            single = share == 1 and bool((counts == 1).all())
            numbers.append(None if single else torch.from_numpy(np.where(there, drawn, 0)).to(device))
            real.append(torch.from_numpy(there).to(device))
        yield Draw(tuple(numbers), tuple(real))


AT_EDGE = ", the most offered"
"""What the name of a choice ends with where the last number of steps was the best, so that more might be better."""

_FIRST = (0.125, 0.25, 0.5, 0.75, 1.0)
_LATER = (1.5, 2.0)


def step_stages(steps: int, growth: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of steps that are tried: up to `steps`, then, for those who chose the last one, twice as many.

    Args:
        steps: the last of the first stage.
        growth: how many times as many the last stage may end with; 1: there is one stage.
    """
    stages = [tuple(sorted({max(1, round(steps * part)) for part in _FIRST}))]
    while (last := stages[-1][-1]) < steps * growth:
        stages.append(tuple(sorted({min(round(last * part), steps * growth) for part in _LATER})))
    return tuple(stages)


class StepSearch:
    """The best number of steps of many networks that are trained side by side, each for itself.

    A network takes part in a stage only where its best so far is the last of the stage before. So what one chooses does
    not depend on the others, however long they train.
    """

    def __init__(self, shape: tuple[int, ...], steps: int, growth: int) -> None:
        """Nothing is tried yet; `shape` is that of the losses."""
        self.stages = step_stages(steps, growth)
        self.loss: Float[np.ndarray, "*network"] = np.full(shape, np.inf)
        self.step: Int64[np.ndarray, "*network"] = np.zeros(shape, dtype=np.int64)
        self.wants_more: Bool[np.ndarray, "*network"] = np.ones(shape, dtype=bool)

    def open_stages(self) -> Iterator[tuple[int, ...]]:
        """One stage after the other, while any network wants one."""
        for stage in self.stages:
            yield stage
            self.wants_more &= self.step == stage[-1]
            if not self.wants_more.any():
                return

    def offer(self, step: int, loss: Float[np.ndarray, "*network"]) -> Bool[np.ndarray, "*network"]:
        """Take the losses after so many steps, and say whose best they are so far; those that are no numbers never."""
        better: Bool[np.ndarray, "*network"] = self.wants_more & (loss < self.loss)
        self.loss, self.step = np.where(better, loss, self.loss), np.where(better, step, self.step)
        return better

    def label(self, step: int) -> str:
        """The name of a choice."""
        return f"{step} steps{AT_EDGE if step == self.stages[-1][-1] else ''}"


def is_at_edge(chosen: str) -> bool:
    """Whether the name of a choice, or of several, has a last number of steps that was the best."""
    return AT_EDGE in chosen


@dataclass(frozen=True)
class Schedule:
    """How a kind of network is trained.

    Attributes:
        steps: the most; four numbers up to this one are offered.
        rate: learning rate of AdamW.
        decay: its weight decay, which is multiplied with the rate.
    """

    steps: int
    rate: float
    decay: float


class Network(ABC):
    """One kind of network: what it is fed with, how it starts, and how it scores. It has no state.

    A table holds one row for each instance of a slide; a network may take several tables.

    Attributes:
        name: what `load_probe` knows it by.
    """

    name: ClassVar[str]

    @abstractmethod
    def schedule(self, settings: ProbeSettings) -> Schedule:
        """How it is trained."""

    @abstractmethod
    def fit_preparation(
        self, bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
    ) -> dict[str, np.ndarray]:
        """Everything that `tables` must know, from training slides alone."""

    @abstractmethod
    def tables(self, bags: Bags, slides: Slides, fitted: Arrays) -> tuple[Table, ...]:
        """The prepared vectors of some slides; only their rows are read."""

    @abstractmethod
    def start(
        self, fitted: Arrays, widths: Sequence[int], settings: ProbeSettings, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The random parameters of one model, given the widths of the tables."""

    @abstractmethod
    def score(
        self,
        parameters: Mapping[str, Tensor],
        rows: Sequence[Float[Tensor, "fold slide _drawn _kept"]],
        real: Sequence[Bool[Tensor, "slide _drawn"]],
    ) -> Float[Tensor, "model slide"]:
        """The score of every slide by every model; models of one fold share its rows, folds run fastest.

        Args:
            parameters: those of `start`, each with the leading axis `model`.
            rows: of each table, the drawn ones.
            real: which of the drawn rows count; the others fill up slides that have fewer.
        """


def weights_of(module: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """The tensors of a module as arrays whose names begin so."""
    return {f"{prefix}{name}": value.cpu().numpy().copy() for name, value in module.state_dict().items()}


Module = TypeVar("Module", bound=nn.Module)


def with_weights(module: Module, state: ProbeState, prefix: str) -> Module:
    """The module with the arrays that `weights_of` gave, in evaluation mode."""
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.under(prefix).items()})
    return module.eval()


def by_fold(rows: Float[Tensor, "fold row kept"], weight: Float[Tensor, "model kept out"]) -> Tensor:
    """The products of each model's weight with the rows of its fold, (model, row, out)."""
    folds, n_rows, kept = rows.shape
    roles, out = len(weight) // folds, weight.shape[2]
    side_by_side = weight.view(roles, folds, kept, out).permute(1, 2, 0, 3).reshape(folds, kept, roles * out)
    product = torch.bmm(rows, side_by_side)  # (fold, row, role * out)
    return product.view(folds, n_rows, roles, out).permute(2, 0, 1, 3).reshape(roles * folds, n_rows, out)


def scores_by_fold(
    rows: Float[Tensor, "fold slide kept"], weight: Float[Tensor, "model kept"]
) -> Float[Tensor, "model slide"]:
    """The product of each model's one weight vector with the rows of its fold.

    This way round, with the rows transposed, the product and its gradient take a sixth of the time on a CPU.
    """
    side_by_side = weight.view(-1, len(rows), weight.shape[1]).transpose(0, 1)  # (fold, role, kept)
    product = torch.bmm(side_by_side, rows.transpose(1, 2))  # (fold, role, slide)
    return product.transpose(0, 1).reshape(len(weight), rows.shape[1])


def normal(rng: np.random.Generator, *shape: int) -> Float32[np.ndarray, "..."]:
    """Normal numbers whose variance is one over the last axis but one."""
    return np.asarray((rng.standard_normal(shape) / np.sqrt(shape[-2])).astype(np.float32))


@dataclass(frozen=True, eq=False)
class FittedColumn:
    """What one column of one fold ended with.

    Attributes:
        label: the preparation and the number of steps.
        fitted: the preparation, for `Network.tables`.
        parameters: of the network.
        scale: what its score is multiplied with.
        location: what is then added; 0 but for numbers.
    """

    label: str
    fitted: Arrays
    parameters: Arrays
    scale: float
    location: float


@dataclass(frozen=True, eq=False)
class FittedNetwork(FittedProbe):
    """A trained network for each column of the outcome."""

    network: Network
    names: tuple[str, ...]
    columns: tuple[FittedColumn, ...]

    @property
    def chosen(self) -> str:
        """The preparation and the number of steps, for each column where they differ."""
        return name_choices(self.names, tuple(one.label for one in self.columns))

    @torch.no_grad()
    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The scores of some slides from all their instances, one slide after the other: so none depends on others."""
        scores = np.empty((len(slides), len(self.columns)), dtype=np.float64)
        for place, one in enumerate(self.columns):
            parameters = {key: torch.from_numpy(value)[None] for key, value in one.parameters.items()}
            for number, slide in enumerate(slides):
                tables = self.network.tables(bags, np.array([slide]), one.fitted)
                rows = [torch.from_numpy(table.rows)[None, None] for table in tables]
                real = [torch.ones(1, len(table.rows), dtype=torch.bool) for table in tables]
                found = float(self.network.score(parameters, rows, real)[0, 0])
                scores[number, place] = one.location + one.scale * found
        return scores

    def state(self) -> ProbeState:
        """Facts and arrays, those of column number c under `c/`."""
        facts = {
            "columns": [
                {"name": name, "chosen": one.label, "scale": one.scale, "location": one.location}
                for name, one in zip(self.names, self.columns, strict=True)
            ]
        }
        arrays: dict[str, np.ndarray] = {}
        for number, one in enumerate(self.columns):
            arrays |= {f"{number}/fitted/{key}": value for key, value in one.fitted.items()}
            arrays |= {f"{number}/parameters/{key}": value for key, value in one.parameters.items()}
        return ProbeState(self.network.name, facts, arrays)


def load_network(network: Network, state: ProbeState) -> FittedNetwork:
    """The fitted probe that `state()` was asked of."""
    columns = [
        FittedColumn(
            fact["chosen"],
            state.under(f"{number}/fitted/"),
            state.under(f"{number}/parameters/"),
            fact["scale"],
            fact["location"],
        )
        for number, fact in enumerate(state.facts["columns"])
    ]
    return FittedNetwork(network, tuple(fact["name"] for fact in state.facts["columns"]), tuple(columns))
