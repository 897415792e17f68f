"""Curves of AUC against the share of fine tiles that is read, and what each says against reading everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from parfocal.budget.reading import Asked, BudgetScores
from parfocal.budget.result import ORACLE, Against, Curve, Point, WholeReader
from parfocal.embed.glance import n_chosen
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.held_out import HeldOut
from parfocal.stats import CrossValidated, Interval, paired_test, rule_of_three

_ONE_SIDED = 0.9
"""Level of the two-sided interval whose lower end is the one-sided lower bound at 95 %."""

LEAST_GAIN = 0.01
"""Of reading everything over reading nothing, in AUC, below which a share of it says nothing."""


def against(first: CrossValidated, second: CrossValidated, n_patients: int) -> Against:
    """First minus second over the same folds, with its interval and its one-sided bound.

    However little varied, so many patients leave room for what the rule of three says: two readings that rank all of
    them alike show no more than that, and two that nearly do cannot show more.
    """
    difference = paired_test(first, second, n_patients=n_patients).difference
    one_sided = paired_test(first, second, n_patients=n_patients, level=_ONE_SIDED).difference
    room = float(difference.estimate) - rule_of_three(n_patients, _ONE_SIDED)
    return Against(difference, max(min(float(one_sided.low), room), -1.0))


def tells(auc: Interval) -> bool:
    """Whether a head is shown to tell the label: to lose nothing against one that does not says nothing."""
    return auc.low > 0.5


def least_budget(budgets: Sequence[float], bounds: Sequence[float | None], margin: float) -> float | None:
    """The least budget that is non-inferior, tested from the largest down until one is not.

    Going down in a fixed order and stopping at the first that fails keeps the error of all tests of one curve at that
    of one of them, so many budgets cost nothing (fixed-sequence testing, Maurer, Hothorn and Lehmacher 1995).

    Args:
        budgets: rising.
        bounds: lower bound of each difference; None where there is none because both are the same.
        margin: what may be lost.
    """
    least = None
    for budget, bound in reversed(list(zip(budgets, bounds, strict=True))):
        if bound is not None and bound <= -margin:
            break
        least = budget
    return least


def areas(budgets: Sequence[float], aucs: Sequence[float]) -> tuple[float, float | None]:
    """The area under a curve, and as a share of what reading everything gains over reading nothing (nAUBC).

    nAUBC = (area - AUC(0)) / (AUC(1) - AUC(0)) is 1 where the least budget already gives everything, one half where AUC
    rises evenly with the share that is read, and may lie outside 0 to 1. It is the global score of the active learning
    challenge (Guyon, Cawley, Dror and Lemaire 2011) with budgets in place of numbers of labels, AUC(0) in place of
    chance and AUC(1) in place of the ideal.

    Args:
        budgets: rising from 0 to 1.
        aucs: of each.
    """
    x, y = np.asarray(budgets, dtype=np.float64), np.asarray(aucs, dtype=np.float64)
    area = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    gain = float(y[-1] - y[0])
    return area, (area - float(y[0])) / gain if gain >= LEAST_GAIN else None


@dataclass(frozen=True, eq=False)
class Costs:
    """How many tiles the slides of a cohort have, and what they take.

    Attributes:
        coarse: tiles per slide, of all coarser magnifications together.
        fine: tiles per slide, of the finest one.
        coarse_flops: floating-point operations of the encoder for all coarse tiles of a slide, on average; None where
            they are not known.
        fine_flops: for one fine tile; None where they are not known.
    """

    coarse: Float64[np.ndarray, " slide"]
    fine: Float64[np.ndarray, " slide"]
    coarse_flops: float | None = None
    fine_flops: float | None = None

    def of(self, budget: float) -> tuple[float, float]:
        """The share of all fine tiles that a budget reads, and the tiles that it encodes per slide."""
        read = self._read(budget)
        return float(read.sum() / self.fine.sum()), float((self.coarse + read).mean())

    def flops_of(self, budget: float) -> float | None:
        """The floating-point operations per slide of the tiles that a budget encodes; None where they are not known."""
        if self.coarse_flops is None or self.fine_flops is None:
            return None
        return self.coarse_flops + float(self._read(budget).mean()) * self.fine_flops

    def _read(self, budget: float) -> Float64[np.ndarray, " slide"]:
        return np.array([n_chosen(int(n), budget) for n in self.fine], dtype=np.float64)


def whole_readers(
    arms: Sequence[Arm],
    scores: BudgetScores,
    tiles: Sequence[Mapping[float, float]],
    held_out: HeldOut,
    flops: Mapping[float, float] | None,
) -> tuple[WholeReader, ...]:
    """What every arm reaches that reads everything.

    Args:
        arms: all of them.
        scores: of held-out slides.
        tiles: for each arm, how many are encoded per slide, by magnification.
        held_out: the test sides of the folds.
        flops: of one tile, by magnification; None where they are not known.
    """
    found = {arm.id: held_out.over_folds(scores.whole[arm.id]) for arm in arms}
    best, n_patients = max(found, key=lambda name: found[name].mean), held_out.fewest_patients()
    return tuple(
        WholeReader(
            arm,
            held_out.interval(found[arm.id]),
            float(sum(read.values())),
            None if arm.id == best else against(found[arm.id], found[best], n_patients),
            None if flops is None else sum(count * flops[mpp] for mpp, count in read.items()),
        )
        for arm, read in zip(arms, tiles, strict=True)
    )


def draw_curves(
    scores: BudgetScores, asked: Asked, best: Arm, costs: Costs, held_out: HeldOut, margin: float
) -> tuple[Curve, ...]:
    """Every head with every policy; without policies that could not say in any fold where to read.

    The oracle has a curve with the head alone that it asks.

    Args:
        scores: of held-out slides.
        asked: policies, budgets and heads.
        best: the arm that reads everything and has the highest AUC.
        costs: how many tiles slides have.
        held_out: the test sides of the folds.
        margin: what may be lost.
    """
    n_patients, n_folds = held_out.fewest_patients(), len(scores.part)
    rival, curves = held_out.over_folds(scores.whole[best.id]), list[Curve]()
    is_rival = tells(held_out.interval(rival))
    for head, arm in enumerate(asked.heads):
        whole = held_out.over_folds(scores.whole[arm.id])
        for policy, name in enumerate(asked.policies):
            if scores.silent.get(name, (0, ""))[0] == n_folds or (name == ORACLE and head):
                continue
            points = []
            for number, budget in enumerate((*asked.budgets, 1.0)):
                is_whole = number == len(asked.budgets)
                found = whole if is_whole else held_out.over_folds(scores.predictions(head, policy, number))
                share, encodings = costs.of(budget)
                points.append(
                    Point(
                        budget,
                        share,
                        encodings,
                        held_out.interval(found),
                        None if is_whole else against(found, whole, n_patients),
                        None if is_whole and arm.id == best.id else against(found, rival, n_patients),
                        costs.flops_of(budget),
                    )
                )
            curves.append(_curve(arm, name, points, margin, is_rival=is_rival))
    return tuple(curves)


def least_of(curves: Sequence[Curve]) -> Curve | None:
    """The curve that can be had with the least budget below 1 that loses nothing of note against the best head.

    Of equal budgets the one that reads best; None where no curve has such a budget.
    """
    shown = [
        (one.least_of_best, -float(one.at(one.least_of_best).auc.estimate), one)
        for one in curves
        if one.is_attainable and one.least_of_best is not None and one.least_of_best < 1
    ]
    return min(shown, key=lambda found: found[:2])[2] if shown else None


def _curve(arm: Arm, policy: str, points: Sequence[Point], margin: float, *, is_rival: bool) -> Curve:
    budgets = [one.budget for one in points]
    own = [one.against_whole for one in points]
    least = least_budget(budgets, _bounds(own), margin) if tells(points[-1].auc) else None
    of_best = _bounds([one.against_best for one in points])
    # Where nothing is read the difference is what fine tiles are for, and its spread is no budget's.
    reach = [float(one.difference.estimate) - one.bound for one, b in zip(own, budgets, strict=True) if one and b > 0]
    area, share = areas(budgets, [float(one.auc.estimate) for one in points])
    return Curve(
        head=arm,
        policy=policy,
        points=tuple(points),
        least=None if least == 1 else least,
        least_of_best=least_budget(budgets, of_best, margin) if is_rival else None,
        area=area,
        share_of_gain=share,
        could_show=reach[-1],
        could_show_all=max(reach),
    )


def _bounds(several: Sequence[Against | None]) -> list[float | None]:
    return [None if one is None else one.bound for one in several]
