"""What was found: heads that read everything, curves of those that read a part, and all of it together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parfocal.cohort import Cohort, Splits
from parfocal.evaluate.arm import Arm
from parfocal.stats import Interval

ORACLE = "oracle"
"""The order of a slide's regions by what reading each of them really does to its score, which no policy can know."""


@dataclass(frozen=True)
class Against:
    """The difference of two readings over the same folds.

    Attributes:
        difference: in AUC, with its 95 % interval.
        bound: its one-sided lower bound at 95 %.
    """

    difference: Interval
    bound: float


@dataclass(frozen=True)
class WholeReader:
    """A head that reads everything it pools.

    Attributes:
        arm: as `evaluate` has it.
        auc: with its 95 % interval.
        encodings: tiles that are encoded per slide.
        against_best: against the reader with the highest AUC; None for that one.
        flops: floating-point operations of the tile encoder per slide; None where they are not known.
        seconds: wall clock per slide of embedding what it reads; None where that was not measured.
    """

    arm: Arm
    auc: Interval
    encodings: float
    against_best: Against | None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Point:
    """One budget of a curve.

    Attributes:
        budget: as it was asked, 0 to 1.
        share: of all fine tiles that are really read.
        encodings: tiles that are encoded per slide, coarse ones included.
        auc: with its 95 % interval.
        against_whole: against the same head reading everything; None where this is that.
        against_best: against the best head that reads everything; None where this is that.
        flops: floating-point operations of the tile encoder per slide, coarse tiles included; None where they are not
            known.
        seconds: wall clock per slide of embedding, coarse tiles and choosing included; None where this policy was not
            measured.
    """

    budget: float
    share: float
    encodings: float
    auc: Interval
    against_whole: Against | None
    against_best: Against | None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Curve:
    """One policy read by one head, from nothing to everything.

    Attributes:
        head: the arm that scores.
        policy: its name.
        points: by rising budget, 0 first and 1 last.
        least: the least budget below 1 that is non-inferior to the same head reading everything; None for none, and
            where that head is not shown to tell the label.
        least_of_best: the same against the best head that reads everything; it may be 1.
        area: mean AUC over budgets from 0 to 1, by trapezoids.
        share_of_gain: nAUBC, the same as a share of the way from reading nothing to reading everything; None where
            that way is shorter than 0.01 AUC.
        could_show: the least margin that could have been shown at the largest budget below 1, the first that is tested,
            if nothing were lost there: the distance of its lower bound below the difference to the same head.
        could_show_all: the same at every budget that reads something: the largest of these distances.
    """

    head: Arm
    policy: str
    points: tuple[Point, ...]
    least: float | None
    least_of_best: float | None
    area: float
    share_of_gain: float | None
    could_show: float
    could_show_all: float

    def at(self, budget: float) -> Point:
        """The point of a budget that was asked."""
        return next(one for one in self.points if one.budget == budget)

    @property
    def label(self) -> str:
        """The policy as people read it."""
        return self.policy if self.is_attainable else f"{self.policy} (not attainable)"

    @property
    def is_attainable(self) -> bool:
        """Whether slides can be read so; not where what is read is chosen by what reading it shows."""
        return self.policy != ORACLE


@dataclass(frozen=True)
class Seconds:
    """Wall clock of embedding a few slides, per slide: medians of rounds in which all ways took turns.

    Attributes:
        slides: their ids.
        rounds: how often each way was measured.
        policy: what chose the fine tiles.
        whole: all magnifications, every tile.
        finest: the finest magnification alone, every tile.
        at: of each budget below 1, coarse tiles and choosing included.
    """

    slides: tuple[str, ...]
    rounds: int
    policy: str
    whole: float
    finest: float
    at: Mapping[float, float]


@dataclass(frozen=True, eq=False)
class BudgetResult:
    """What `budget` found and where it wrote it.

    Attributes:
        cohort: slides and labels.
        readers: heads that read everything.
        curves: each head with each policy.
        sentences: the answer first.
        notes: what was left out or is remarkable.
        report: the page.
        out: the folder; `budget.json` holds every number.
        splits: who was tested when.
        seconds: what embedding takes; None where it was not measured.
    """

    cohort: Cohort
    readers: tuple[WholeReader, ...]
    curves: tuple[Curve, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    report: Path
    out: Path
    splits: Splits
    seconds: Seconds | None = None
