"""Small networks for all folds of a cross-validation in one computation.

A cross-validation trains hundreds of tiny networks. Each tensor here has a leading axis `model`: one for every column
of the outcome, every outer fold, and every inner fold that validates it. They share the drawn instances and differ in
their preparation, their start and the slides they may learn from. Nothing flows between models.

Offered inside the training fold, whatever the network: each preparation x a grid of numbers of training steps, chosen
for each column by its loss on the inner folds that validate. The grid grows while its last number is the best. What
scores new slides is a network of the same steps that saw the whole training fold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.cohort import Fold, Outcome
from parfocal.heads.base import Arrays, Bags, FittedProbe, ProbeSettings
from parfocal.heads.network import (
    Draw,
    FittedColumn,
    FittedNetwork,
    Network,
    Schedule,
    StepSearch,
    draw_instances,
    load_network,
    shares_of,
)
from parfocal.heads.preparation import preparations
from parfocal.heads.registry import RegisteredHead
from parfocal.heads.targets import Targets, targets_of

_MORE_TO_JUDGE = 4  # times the instances of a step: few of many regions make a noisy choice, and it costs little
_MOST_BYTES = 1 << 30  # of prepared vectors and of what a step keeps; folds that do not fit are trained afterwards
_BYTES_PER_INSTANCE = 1024  # what a step keeps of one drawn instance in one model


def fit_network(
    network: Network, bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings
) -> list[FittedProbe]:
    """Train one kind of network on every fold.

    Raises:
        FloatingPointError: training diverged in every preparation.
    """
    at_a_time = len(folds)
    if len(folds) > 1:
        at_a_time = max(1, _MOST_BYTES // _bytes_per_fold(network, bags, outcome, folds[0], settings))
    fits: list[FittedProbe] = []
    for begin in range(0, len(folds), at_a_time):
        fits += _fit_folds(network, bags, outcome, folds[begin : begin + at_a_time], settings)
    return fits


def network_head(network: Network, label: str, pools: Literal["means", "tiles", "regions"]) -> RegisteredHead:
    """The head of one kind of network, under the network's name."""
    load, fit = partial(load_network, network), partial(fit_network, network)
    return RegisteredHead(network.name, label, pools, load, fit, takes_several=True, is_random=True)


def _bytes_per_fold(network: Network, bags: Bags, outcome: Outcome, fold: Fold, settings: ProbeSettings) -> int:
    total = 0
    for preparation in preparations(settings.components)[:: len(settings.components)]:
        fitted = network.fit_preparation(bags, fold.train, preparation, settings)
        tables = network.tables(bags, fold.train, fitted)
        drawn = sum(shares_of([table.start for table in tables], settings.attention_instances)) * len(fold.train)
        models = len(outcome.columns) * (1 + settings.attention_validation)
        total = max(total, sum(table.rows.nbytes for table in tables) + models * drawn * _BYTES_PER_INSTANCE)
    return total


def _fit_folds(
    network: Network, bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings
) -> list[FittedProbe]:
    device = torch.device(settings.device)
    # A slide that no fold learns from is not looked at.
    slides = np.unique(np.concatenate([fold.train for fold in folds]))
    columns = outcome.of(slides).columns
    learns, judges = (one[:, :, slides] for one in _roles(len(outcome), folds, settings.attention_validation))
    targets = targets_of(columns, learns, judges, balanced=settings.balanced, device=device)
    schedule = network.schedule(settings)
    best = np.full(targets.scale.shape, np.inf)
    chosen: dict[tuple[int, int], FittedColumn] = {}
    for preparation in preparations(settings.components):
        fitted = [network.fit_preparation(bags, fold.train, preparation, settings) for fold in folds]
        rows, starts = _stacked(network, bags, slides, fitted)
        checking, draws = _draws(starts, slides, len(outcome), settings)
        start = _starts(network, fitted, rows, folds, settings, targets)
        models = _Models.begin(network, start, rows, targets, schedule)
        search = StepSearch(best.shape, schedule.steps, settings.growth)
        for stage in search.open_stages():
            models = models.of_folds(np.asarray(search.wants_more.any(axis=0)))
            for step in models.train(draws, until=stage[-1]):
                if step not in stage:
                    continue
                losses, slopes = models.held_out(checking)
                improved = search.offer(step, losses) & (losses < best)
                for column, fold in np.argwhere(improved).tolist():
                    best[column, fold] = losses[column, fold]
                    chosen[column, fold] = FittedColumn(
                        f"{preparation.label}, {search.label(step)}",
                        fitted[fold],
                        models.parameters_of(column, fold),
                        float(targets.scale[column, fold] * slopes[column, fold]),
                        float(targets.location[column, fold]),
                    )
        del rows, models  # or those of two preparations would be there at a time
    if not np.isfinite(best).all():
        raise FloatingPointError(f"training of {network.name} diverged in every preparation; lower its learning rate")
    names = tuple(column.name for column in columns)
    return [
        FittedNetwork(network, names, tuple(chosen[column, fold] for column in range(len(columns))))
        for fold in range(len(folds))
    ]


def _roles(
    n_slides: int, folds: Sequence[Fold], n_validation: int
) -> tuple[Float32[np.ndarray, "role fold slide"], Float32[np.ndarray, "role fold slide"]]:
    """Which slides each model learns from and is judged by; role 0 is the whole training fold, judged by nothing.

    Role `1 + v` leaves out inner fold v. A fold with fewer inner folds than others has no slide to judge it by there.
    """
    learns = np.zeros((1 + n_validation, len(folds), n_slides), dtype=np.float32)
    judges = np.zeros_like(learns)
    for number, fold in enumerate(folds):
        learns[0, number, fold.train] = 1
        for inner in range(n_validation):
            kept = fold.inner != inner
            learns[1 + inner, number, fold.train[kept]] = 1
            judges[1 + inner, number, fold.train[~kept]] = 1
    return learns, judges


def _stacked(
    network: Network, bags: Bags, slides: np.ndarray, fitted: Sequence[Arrays]
) -> tuple[list[Float[Tensor, "fold _row _kept"]], list[Int64[np.ndarray, " bound"]]]:
    """The tables of all slides as each fold prepares them."""
    of_folds = [network.tables(bags, slides, one) for one in fitted]
    starts, rows = [table.start for table in of_folds[0]], []
    for tables in zip(*of_folds, strict=True):
        # One fold alone is not copied: of a large cohort its table is the largest thing in memory.
        alone = tables[0].rows[None] if len(tables) == 1 else np.stack([one.rows for one in tables])
        rows.append(torch.from_numpy(alone))
    return rows, starts


def _draws(
    starts: Sequence[Int64[np.ndarray, " bound"]],
    slides: Int64[np.ndarray, " slide"],
    n_slides: int,
    settings: ProbeSettings,
) -> tuple[Draw, Iterator[Draw]]:
    """The instances that every held-out loss is taken on, and those of the training steps."""
    rng = np.random.default_rng([settings.seed, 4])
    device, instances = torch.device(settings.device), settings.attention_instances
    draw = partial(draw_instances, starts, slides, n_slides, rng=rng, device=device)
    return next(draw(instances=_MORE_TO_JUDGE * instances)), draw(instances=instances)


def _starts(
    network: Network,
    fitted: Sequence[Arrays],
    rows: Sequence[Float[Tensor, "fold _row _kept"]],
    folds: Sequence[Fold],
    settings: ProbeSettings,
    targets: Targets,
) -> dict[str, Tensor]:
    """Random parameters; those of a fold depend on the seed, its repeat and its number alone."""
    widths = [table.shape[2] for table in rows]
    streams = [np.random.default_rng([settings.seed, 5, fold.repeat, fold.number]) for fold in folds]
    of_folds = [network.start(one, widths, settings, rng) for one, rng in zip(fitted, streams, strict=True)]
    times, device = len(targets.learns) // len(folds), targets.value.device
    return {
        key: torch.from_numpy(np.stack([one[key] for one in of_folds])).to(device).repeat(times, *[1] * array.ndim)
        for key, array in of_folds[0].items()
    }


@dataclass(eq=False)
class _Models:
    """The models of one preparation that are still trained, with what they are trained on.

    Attributes:
        folds: which of all folds they are of.
        n_folds: how many folds there are in all.
        done: how many steps they have behind them.
    """

    network: Network
    parameters: Mapping[str, Tensor]
    optimiser: torch.optim.AdamW
    schedule: Schedule
    rows: Sequence[Tensor]
    targets: Targets
    folds: Int64[np.ndarray, " kept"]
    n_folds: int
    done: int = 0

    @staticmethod
    def begin(
        network: Network, start: Mapping[str, Tensor], rows: Sequence[Tensor], targets: Targets, schedule: Schedule
    ) -> "_Models":
        """All folds, nothing trained yet."""
        n_folds, device = targets.scale.shape[1], targets.value.device
        on_device, every = [one.to(device) for one in rows], np.arange(n_folds)
        return _Models(network, start, _optimiser(start, schedule), schedule, on_device, targets, every, n_folds)

    def of_folds(self, wanted: Bool[np.ndarray, " fold"]) -> "_Models":
        """Those of some folds alone, as far as they are trained; the others cost no time any more."""
        kept = np.flatnonzero(wanted[self.folds])
        if len(kept) == len(self.folds):
            return self
        models = np.arange(len(self.targets.value)).reshape(-1, len(self.folds))[:, kept].ravel()
        place = torch.from_numpy(models).to(self.targets.value.device)
        parameters = {key: value.detach()[place].clone() for key, value in self.parameters.items()}
        optimiser = _optimiser(parameters, self.schedule)
        for old, new in zip(self.parameters.values(), parameters.values(), strict=True):
            # What Adam remembers has the shape of the parameter, but for the number of steps.
            optimiser.state[new] = {
                key: value[place].clone() if value.shape == old.shape else value.clone()
                for key, value in self.optimiser.state[old].items()
            }
        return replace(
            self,
            parameters=parameters,
            optimiser=optimiser,
            rows=[one[torch.from_numpy(kept).to(one.device)] for one in self.rows],
            targets=self.targets.of_folds(kept),
            folds=self.folds[kept],
        )

    def train(self, draws: Iterator[Draw], *, until: int) -> Iterator[int]:
        """Train all models side by side and yield the number of each finished step."""
        while self.done < until:
            draw = next(draws)
            score = self.network.score(self.parameters, draw.of(self.rows), draw.real)
            loss = self.targets.training_loss(score).sum()
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.done += 1
            yield self.done

    @torch.no_grad()
    def held_out(self, draw: Draw) -> tuple[Float[np.ndarray, "column fold"], Float[np.ndarray, "column fold"]]:
        """The loss of each column and fold, infinite where it is not a number or the fold is trained no more.

        And the slope that it is taken with.
        """
        loss, slope = self.targets.best_slope(self.network.score(self.parameters, draw.of(self.rows), draw.real))
        losses = np.full((len(loss), self.n_folds), np.inf)
        slopes = np.ones_like(losses)
        found = loss.cpu().numpy()
        losses[:, self.folds] = np.where(np.isfinite(found), found, np.inf)
        slopes[:, self.folds] = slope.cpu().numpy()
        return losses, slopes

    def parameters_of(self, column: int, fold: int) -> dict[str, np.ndarray]:
        """A copy of the parameters of the model that saw the whole training fold."""
        place = int(np.searchsorted(self.folds, fold))
        roles = len(self.targets.value) // self.targets.scale.size
        model = column * roles * len(self.folds) + place
        return {key: value[model].detach().cpu().numpy().copy() for key, value in self.parameters.items()}


def _optimiser(parameters: Mapping[str, Tensor], schedule: Schedule) -> torch.optim.AdamW:
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return torch.optim.AdamW(list(parameters.values()), lr=schedule.rate, weight_decay=schedule.decay)
