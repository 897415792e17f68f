"""What the results of all runs say: cells with their spread over seeds, effects of axes, and what training earns."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from parfocal.heads.registry import HEADS
from parfocal.lab.explore.design import Cell, CellPlan, Design

Key = TypeVar("Key", bound=Hashable)

R2, AUC = "held-out R2", "AUC, mean over readouts"
"""The two numbers that cells are ranked by."""

_MORE_STEPS = "a network among its slide classifiers chose the most training steps it was offered; more may do better"


@dataclass(frozen=True)
class Spread:
    """One number of a cell, by seed."""

    by_seed: Mapping[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over seeds; NaN without any."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; NaN with fewer than two."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if len(self.by_seed) > 1 else math.nan

    def minus(self, other: "Spread") -> "Spread":
        """The difference by seed, where both have the seed."""
        return Spread(
            {seed: value - other.by_seed[seed] for seed, value in self.by_seed.items() if seed in other.by_seed}
        )


@dataclass(frozen=True, eq=False)
class CellSummary:
    """A cell over its seeds.

    Attributes:
        cell: which.
        n_seeds: seeds with a result.
        r2: held-out R2 of the linear readout, the mean over mask patterns and magnifications.
        r2_decoder: the same of the cell's own decoder; empty where it predicts no embeddings.
        r2_parts: R2 of the linear readout, by (pattern, magnification).
        auc: the mean AUC over readouts and poolings; empty without labels, and for tile embeddings, which have others.
        arms: AUC by readout and pooling.
        intervals: half of the width of their 95 % intervals over folds, the mean over seeds.
        monitors: numbers that warn of collapse.
        training_seconds: of the training steps.
        parameters: of the encoder.
        rank: place by each of the two numbers, 1 the best; and the places that single seeds give.
        warnings: what was remarkable, with the number of seeds.
    """

    cell: Cell
    n_seeds: int
    r2: Spread
    r2_decoder: Spread
    r2_parts: Mapping[tuple[str, str], Spread]
    auc: Spread
    arms: Mapping[str, Spread]
    intervals: Mapping[str, float]
    monitors: Mapping[str, Spread]
    training_seconds: Spread
    parameters: int
    rank: Mapping[str, tuple[int, int, int]]
    warnings: Mapping[str, int]

    def of_pattern(self, pattern: str) -> Spread:
        """Held-out R2 of one mask pattern, the mean over magnifications."""
        return _averaged([spread for (own, _), spread in self.r2_parts.items() if own == pattern])

    @property
    def part(self) -> str:
        """Which part of a table it stands in."""
        return "Pretrained" if self.cell.kind == "trained" else "Without pretraining"

    def score(self, metric: str) -> Spread:
        """The number that `metric` names."""
        return self.r2 if metric == R2 else self.auc


@dataclass(frozen=True)
class Effect:
    """What a value of an axis changes, against the axis's first value, by seed.

    Attributes:
        axis: the axis.
        level: the value.
        against: the first value.
        r2: change of held-out R2; empty where the axis changes what is predicted.
        auc: change of the mean AUC.
        n_pairs: how many pairs of cells that differ in this axis alone were averaged.
    """

    axis: str
    level: str
    against: str
    r2: Spread
    auc: Spread
    n_pairs: int


@dataclass(frozen=True)
class Gain:
    """How much of a cell's gain its training brings: (cell - random weights) / (cell - reference).

    Attributes:
        cell: name of the cell.
        metric: what is gained.
        reference: what the gain is counted from, in words.
        reference_value: its number, the mean over seeds.
        random: the same architecture with random weights.
        trained: the cell.
        interval: half of the width of the trained arm's 95 % interval over folds; 0 for an R2.
    """

    cell: str
    metric: str
    reference: str
    reference_value: float
    random: Spread
    trained: Spread
    interval: float = 0.0

    @property
    def share(self) -> float:
        """The share, of the means over seeds; NaN where there is no gain to be shared.

        A total gain is none when it is not above .005, twice its standard error over seeds, and the interval.
        """
        if not self._total > self._noise:
            return math.nan
        return (self.trained.mean - self.random.mean) / self._total

    @property
    def why_none(self) -> str:
        """Why there is no share, in a word or two."""
        return "worse" if self.is_worse else "no gain"

    @property
    def is_worse(self) -> bool:
        """Whether the cell lies as far below the reference as it would have to lie above it for a gain."""
        return self._total < -self._noise

    @property
    def _total(self) -> float:
        return float(self.trained.mean - self.reference_value)

    @property
    def _noise(self) -> float:
        n = len(self.trained.by_seed)
        of_seeds = 2 * self.trained.sd / math.sqrt(n) if n > 1 else 0.0
        return float(max(0.005, of_seeds, self.interval))


@dataclass(frozen=True, eq=False)
class Exploration:
    """Everything that the tables and the page say.

    Attributes:
        axes: labels of each axis, the base first.
        seeds: of the design.
        cells: pretrained ones, the best first.
        controls: random weights and no region encoder.
        effects: of axes.
        gains: of the best cell and of the base cell.
        impossible: combinations that contradict themselves, with the reason.
        ranked_by: what the order is by.
        has_auc: whether there were labels.
        one_question: whether all cells saw the same set and the same regions.
    """

    axes: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    cells: tuple[CellSummary, ...]
    controls: tuple[CellSummary, ...]
    effects: tuple[Effect, ...]
    gains: tuple[Gain, ...]
    impossible: tuple[tuple[str, str], ...]
    ranked_by: str
    has_auc: bool
    one_question: bool

    @property
    def best(self) -> CellSummary:
        """The cell with the best mean over seeds."""
        return self.cells[0]


def summarise(
    plan: CellPlan,
    design: Design,
    results: Sequence[tuple[Cell, Mapping[str, Any]]],
    *,
    rank_by: Literal["r2", "auc"],
) -> Exploration:
    """Put the results of all runs together.

    Args:
        plan: the cells.
        design: what they come from.
        results: cell and content of `result.json` of every run that is done.
        rank_by: what the order is by.
    """
    ranked_by = R2 if rank_by == "r2" else AUC
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    named: dict[str, Cell] = {}
    for cell, result in results:
        grouped.setdefault(cell.digest, []).append(result)
        named[cell.digest] = cell
    by_digest = {digest: _summary(named[digest], of_cell) for digest, of_cell in grouped.items()}
    trained = [one for one in by_digest.values() if one.cell.kind == "trained"]
    by_digest |= {one.cell.digest: one for one in _ranked(trained, plan.cells[0].data)}
    # Cells that answer another question have no rank by R2 and stand last.
    last = (len(trained) + 1, 0, 0)
    cells = sorted(
        (one for one in by_digest.values() if one.cell.kind == "trained"),
        key=lambda one: one.rank.get(ranked_by, last)[0],
    )
    controls = tuple(one for one in by_digest.values() if one.cell.kind != "trained")
    planned = [by_digest[cell.digest] for cell in plan.cells if cell.digest in by_digest and not cell.extra]
    shown = list({one.cell.digest: one for one in (cells[0], *planned[:1])}.values())
    return Exploration(
        axes=plan.axes,
        seeds=design.seeds,
        cells=tuple(cells),
        controls=controls,
        effects=tuple(_effects(plan.axes, planned)),
        gains=tuple(gain for one in shown for gain in _gains(one, controls)),
        impossible=plan.impossible,
        ranked_by=ranked_by,
        has_auc=any(one.auc.by_seed for one in cells),
        one_question=len({cell.data for cell in plan.cells}) == 1,
    )


def _summary(cell: Cell, results: Sequence[Mapping[str, Any]]) -> CellSummary:
    halves: dict[str, list[float]] = {}
    warnings: dict[str, int] = {}
    for result in results:
        arms = result.get("auc", {})
        for label, arm in arms.items():
            known = arm["high"] is not None and arm["low"] is not None
            halves.setdefault(label, []).append((arm["high"] - arm["low"]) / 2 if known else math.inf)
        wanted_more = any(arm.get("folds_with_most_steps") for arm in arms.values())
        for sentence in (*result.get("warnings", ()), *([_MORE_STEPS] if wanted_more else [])):
            warnings[sentence] = warnings.get(sentence, 0) + 1
    # The arms of tile embeddings are others than those of a region encoder: their mean is no number to compare. Nor is
    # one where a slide classifier failed.
    whole = [one for one in results if one.get("auc") and not one.get("failed_arms") and cell.kind != "tiles"]
    return CellSummary(
        cell=cell,
        n_seeds=len(results),
        r2=_spread(results, lambda one: _mean_r2(one["r2"])),
        r2_decoder=_spread([one for one in results if "r2_decoder" in one], lambda one: _mean_r2(one["r2_decoder"])),
        r2_parts=_spreads(results, lambda one: {(p, mpp): r2 for p, by in one["r2"].items() for mpp, r2 in by.items()}),
        auc=_spread(whole, lambda one: float(np.mean([arm["auc"] for arm in one["auc"].values()]))),
        arms=_spreads(results, lambda one: {label: arm["auc"] for label, arm in one.get("auc", {}).items()}),
        intervals={label: float(np.mean(values)) for label, values in halves.items()},
        monitors=_spreads(results, lambda one: one.get("monitors", {})),
        training_seconds=_spread(results, lambda one: one["training_seconds"]),
        parameters=int(results[0]["parameters"]),
        rank={},
        warnings=warnings,
    )


def _spread(results: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]) -> Spread:
    return Spread({int(one["seed"]): value(one) for one in results})


def _spreads(
    results: Sequence[Mapping[str, Any]], values: Callable[[Mapping[str, Any]], Mapping[Key, float]]
) -> dict[Key, Spread]:
    """A spread for each key that some result has."""
    by_key: dict[Key, dict[int, float]] = {}
    for result in results:
        for key, value in values(result).items():
            by_key.setdefault(key, {})[int(result["seed"])] = value
    return {key: Spread(by_seed) for key, by_seed in by_key.items()}


def _mean_r2(by_pattern: Mapping[str, Mapping[str, float]]) -> float:
    """Patterns and magnifications weigh the same: otherwise random tokens of 20x would decide alone."""
    values = [value for by_mpp in by_pattern.values() for value in by_mpp.values()]
    return float(np.mean(values)) if values else math.nan


def _ranked(cells: Sequence[CellSummary], question: tuple[str | None, float | None]) -> Iterable[CellSummary]:
    """The cells with their place in each number by the mean over seeds, and the places that single seeds give.

    Cells with another set or other regions than `question` predict other targets, and get no place by R2.
    """
    ranks: dict[str, dict[str, tuple[int, int, int]]] = {one.cell.digest: {} for one in cells}
    for metric in (R2, AUC):
        spreads = {
            one.cell.digest: one.score(metric)
            for one in cells
            if one.score(metric).by_seed and (metric == AUC or one.cell.data == question)
        }
        for digest, spread in spreads.items():
            places = [
                1 + sum(other.by_seed[seed] > value for other in spreads.values() if seed in other.by_seed)
                for seed, value in spread.by_seed.items()
            ]
            place = 1 + sum(other.mean > spread.mean for other in spreads.values())
            ranks[digest][metric] = place, min(places), max(places)
    return (replace(one, rank=ranks[one.cell.digest]) for one in cells)


def _effects(axes: Mapping[str, tuple[str, ...]], cells: Sequence[CellSummary]) -> Iterable[Effect]:
    """Each value against the first of its axis, over all pairs of cells that differ in this axis alone."""
    by_levels = {tuple(sorted(one.cell.levels.items())): one for one in cells}
    for axis, labels in axes.items():
        for label in labels[1:]:
            pairs = []
            for one in cells:
                if one.cell.levels[axis] == label:
                    other = by_levels.get(tuple(sorted({**one.cell.levels, axis: labels[0]}.items())))
                    if other is not None:
                        pairs.append((one, other))
            if pairs:
                same = all(one.cell.data == other.cell.data for one, other in pairs)
                r2 = _averaged([one.r2.minus(other.r2) for one, other in pairs]) if same else Spread()
                auc = _averaged([one.auc.minus(other.auc) for one, other in pairs])
                yield Effect(axis, label, labels[0], r2, auc, len(pairs))


def _averaged(spreads: Sequence[Spread]) -> Spread:
    """The mean by seed; only seeds that all have."""
    common = set.intersection(*(set(one.by_seed) for one in spreads))
    return Spread({seed: float(np.mean([one.by_seed[seed] for one in spreads])) for seed in sorted(common)})


def _gains(one: CellSummary, controls: Sequence[CellSummary]) -> Iterable[Gain]:
    """What training brings to a cell, for held-out R2 and for each readout of slides."""
    random = next(
        (c for c in controls if c.cell.kind == "random" and c.cell.architecture == one.cell.architecture), None
    )
    tiles = next((c for c in controls if c.cell.kind == "tiles" and c.cell.data == one.cell.data), None)
    if random is None:
        return
    name = one.cell.name
    yield Gain(name, R2, "the training mean of each magnification", 0.0, random.r2, one.r2)
    if tiles is not None:
        reference = "a linear reader of the tile embeddings"
        yield Gain(name, R2, reference, tiles.r2.mean, random.r2, one.r2)
        for pattern in dict.fromkeys(pattern for pattern, _ in one.r2_parts):
            known, of_random = tiles.of_pattern(pattern).mean, random.of_pattern(pattern)
            yield Gain(name, f"{R2}, {pattern}", reference, known, of_random, one.of_pattern(pattern))
    for label, spread in one.arms.items():
        if tiles is None or label not in random.arms:
            continue
        same = _finest_alone(label, tiles.arms)
        if same is not None:
            known, interval = tiles.arms[same].mean, one.intervals[label]
            yield Gain(name, f"AUC, {label}", same, known, random.arms[label], spread, interval)


def _finest_alone(label: str, arms: Mapping[str, Spread]) -> str | None:
    """The arm of the finest magnification alone that pools as `label` does, its second moment in place of contrast."""
    pooling = next(
        (one for one in (HEADS.get("mean").label, HEADS.get("attention").label) if label.endswith(one)),
        "second moment of regions",
    )
    singles = [one for one in arms if one.endswith(f"mpp): {pooling}")]
    return singles[-1] if singles else None
