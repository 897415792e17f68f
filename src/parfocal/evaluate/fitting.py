"""Every arm fitted on the folds of one target: side by side, with several seeds, and once more for a test cohort."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from threadpoolctl import threadpool_limits

from parfocal.bags import MOST_BYTES, Bag
from parfocal.cohort import Cohort, Fold, Outcome, Splits, whole_fold
from parfocal.errors import ParfocalError
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.compare import compare_arms
from parfocal.evaluate.result import ArmFits, FailedArm, TargetResult
from parfocal.heads import FoldPrediction, ProbeSettings, average_predictions, predict
from parfocal.run.cache import StepCache
from parfocal.run.executors import RunsWhere
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt, each_where
from parfocal.run.processes import Death, TimedOut

Task = TypeVar("Task")
Result = TypeVar("Result")

Bags = Mapping[tuple[int, str], Bag]
"""By the number of the set and the name of the bag."""


@dataclass(frozen=True, eq=False)
class ExternalBags:
    """A cohort that is only tested, with the bags of its slides, named as those of the training cohort."""

    cohort: Cohort
    bags: Bags


class FitsWhere(RunsWhere):
    """Where arms are fitted, how many fits at a time, and in how much memory; nothing of it changes a result."""

    arms_at_a_time: int = Field(
        2,
        ge=1,
        description="How many fits are at work side by side, each on one core: those of an arm with one seed on the "
        "folds of one repeat. With an executor, in how many processes.",
    )
    hold_gib: float = Field(
        MOST_BYTES / 2**30,
        ge=0,
        description="Gibibytes of vectors to hold in memory; those of a cohort with more are read again when needed. "
        "With an executor every process holds a copy of all that is held: 0 holds none.",
    )

    @property
    def most_bytes(self) -> int:
        """What may be held, in bytes."""
        return int(self.hold_gib * 2**30)


@dataclass(frozen=True, eq=False)
class FitPlan:
    """How arms are fitted; none of it but the seeds changes a result.

    Attributes:
        seeds: how often the arms that draw random numbers are fitted, with as many seeds; their scores are averaged.
        where: threads of this process, one where nothing is said; or processes or a Ray cluster, where a fit that takes
            its process with it is tried once more, and its arm has failed then.
        keep: a folder of finished fits, which are not done again; None keeps nothing.
        on_arm: told of every arm that is done.
    """

    seeds: int = 1
    where: FitsWhere = field(default_factory=partial(FitsWhere, arms_at_a_time=1))
    keep: Path | None = None
    on_arm: Callable[[Arm], None] | None = None


def cross_validate(
    arms: Sequence[Arm],
    bags: Bags,
    cohort: Cohort,
    splits: Splits,
    settings: ProbeSettings,
    plan: FitPlan | None = None,
    *,
    external: ExternalBags | None = None,
    encodings: Sequence[float | None] = (),
    primary: str | None = None,
    absent: Mapping[str, str] | None = None,
) -> TargetResult:
    """All arms on one target, on the same folds; labels of a test fold have no say in its predictions.

    An arm whose fit raises, or whose scores are not finite in some fold, has failed: it is in the result with its
    reason, an arm that averages it has failed too, and the others go on. A fit that failed is not kept, so that the
    next run tries it again.

    Args:
        arms: what to run, those that average others after them.
        bags: what arms name; their slides are the cohort's, in its order.
        cohort: labels and groups.
        splits: the outer folds.
        settings: what every arm chooses among.
        plan: how they are fitted.
        external: a cohort that every arm is tested on after a fit on all slides of `cohort`.
        encodings: for each arm, how many tiles of a slide must be embedded for it, where that is known.
        primary: the id or the label, or its beginning, of the arm that the primary comparison is about.
        absent: arms, by their ids, that could not even be made, and why.

    Raises:
        ConfigError: folds and labels do not fit together, or too few folds can be measured.
    """
    plan = plan or FitPlan()
    folds = splits.folds(cohort, inner=settings.inner_folds, seed=settings.seed)
    whole = whole_fold(cohort, inner=settings.inner_folds, seed=settings.seed) if external else None

    done: dict[int, ArmFits | FailedArm] = {
        n: FailedArm(arm, (absent or {})[arm.id]) for n, arm in enumerate(arms) if arm.id in (absent or {})
    }
    waiting = [n for n, arm in enumerate(arms) if arm.pool is not None and n not in done]

    fitting = _Fitting(arms, bags, cohort.outcome, folds, settings, replace(plan, on_arm=None), external, whole)
    jobs = [job for n in waiting for job in fitting.jobs(n)]
    left, found = Counter(job.arm for job in jobs), dict[_Job, _Fitted | FailedArm]()
    with closing(each_fit(jobs, fitting.of, plan.where)) as results:
        for job, result in results:
            found[job] = _known(arms[job.arm], result)
            left[job.arm] -= 1
            if left[job.arm]:
                continue
            done[job.arm] = fitting.joined(job.arm, found)
            if plan.on_arm:
                plan.on_arm(arms[job.arm])
    for n, arm in enumerate(arms):
        if n not in done:
            done[n] = _average(arm, [done[place] for place in arm.average_of])
    fits = [
        replace(one, encodings_per_slide=encodings[n]) if encodings and isinstance(one, ArmFits) else one
        for n, one in ((n, done[n]) for n in range(len(arms)))
    ]
    return compare_arms(
        arms,
        fits,
        cohort,
        splits,
        folds,
        primary=primary,
        external=external.cohort if external else None,
        seed=settings.seed,
    )


@dataclass(frozen=True)
class _Job:
    """Fits that are done and kept together; nothing of them depends on others.

    By repeats and not by folds: networks are trained on several folds in one computation, whose instances are drawn for
    all slides that one of the folds learns from.

    Attributes:
        arm: its number.
        seed: the number of its seed, from 0.
        repeat: on the folds of which repeat; None on all slides, for a test cohort.
    """

    arm: int
    seed: int
    repeat: int | None


_Fitted = tuple[list[FoldPrediction], float]
"""What the fits of a job said, and how many seconds they took."""


@dataclass(frozen=True, eq=False)
class _Fitting:
    """All that fits need; it can be pickled where the probes of the arms can."""

    arms: Sequence[Arm]
    bags: Bags
    outcome: Outcome
    folds: Sequence[Fold]
    settings: ProbeSettings
    plan: FitPlan
    external: ExternalBags | None
    whole: Fold | None

    def jobs(self, n: int) -> list[_Job]:
        """All fits of an arm, seed by seed; what is tested outside after the others of its seed."""
        repeats: list[int | None] = [*dict.fromkeys(fold.repeat for fold in self.folds)]
        # Only the fit has another seed: splits and inner folds stay, so that seeds differ in nothing else.
        seeds = range(self.plan.seeds if self.arms[n].is_random else 1)
        return [_Job(n, seed, one) for seed in seeds for one in (*repeats, *([None] if self.whole else []))]

    def of(self, job: _Job) -> _Fitted | FailedArm:
        """What comes of a job, wherever it is done."""
        try:
            return self._kept(job)
        except FitFailedError as failure:
            where = f"seed {self.settings.seed + job.seed}: " if job.seed else ""
            where += "fitted on all slides for the test cohort: " if job.repeat is None else ""
            return FailedArm(self.arms[job.arm], f"{where}{failure}")

    def _kept(self, job: _Job) -> _Fitted:
        arm, external = self.arms[job.arm], self.external
        train, test, folds = [self.bags[key] for key in arm.bags], list[Bag](), self.folds
        if job.repeat is not None:
            folds = [fold for fold in folds if fold.repeat == job.repeat]
        else:
            assert external is not None  # or there were no such job
            assert self.whole is not None
            test, folds = [external.bags[key] for key in arm.bags], [self.whole]
        seeded = self.settings.model_copy(update={"seed": self.settings.seed + job.seed})

        def fit() -> list[FoldPrediction]:
            assert arm.pool is not None  # those that average others are not fitted
            probes = arm.pool(train, self.outcome, folds, seeded)
            if not test:
                return predict(probes, train, folds)
            return [FoldPrediction(one.score(test, np.arange(len(test[0].slides))), one.chosen) for one in probes]

        def timed() -> _Fitted:
            started = time.monotonic()
            return attempt_fit(fit, folds), time.monotonic() - started

        # Everything that decides the predictions: the numbers themselves, and not where they are computed. And not the
        # arm's name: the same arm of another folder is the same fit.
        choices = seeded.model_dump(mode="json", exclude={"device"})
        inputs = [[*train, *test], self.outcome, list(folds), choices]
        return StepCache(self.plan.keep, (FoldPrediction,)).step(f"{arm.method} {arm.reads}", inputs, timed)

    def joined(self, n: int, found: Mapping[_Job, _Fitted | FailedArm]) -> ArmFits | FailedArm:
        """An arm, of all its jobs; of one that failed the first failure."""
        by_seed, tested, seconds = dict[int, tuple[FoldPrediction, ...]](), list[list[FoldPrediction]](), 0.0
        for job in self.jobs(n):
            one = found[job]
            if isinstance(one, FailedArm):
                return one
            predictions, took = one
            seconds += took
            if job.repeat is None:
                tested.append(predictions)
            else:
                by_seed[job.seed] = (*by_seed.get(job.seed, ()), *predictions)
        instances = sum(self.bags[key].n_instances.mean() for key in self.arms[n].bags)
        return _fits([*by_seed.values()], tested, instances, seconds)


def _known(arm: Arm, result: _Fitted | FailedArm | Failed | Death | TimedOut) -> _Fitted | FailedArm:
    """What came of a job, where it is about the arm.

    Raises:
        ParfocalError: it is about all of them, such as a full disk.
    """
    if isinstance(result, Death | TimedOut):
        return FailedArm(arm, f"its process died twice without a message ({result})")
    if isinstance(result, Failed):
        raise ParfocalError(result.problem)
    return result


def each_fit(
    tasks: Sequence[Task], work: Callable[[Task], Result], where: FitsWhere
) -> Generator[tuple[Task, Result | Failed | Death | TimedOut]]:
    """Do a work on every task as `each_where` does, each on one core."""
    work = work if where.executor is None else partial(_on_one_core, work)
    with one_thread_each():
        yield from each_where(tasks, work, where, at_a_time=where.arms_at_a_time)


def _on_one_core(work: Callable[[Task], Result], task: Task) -> Result:
    with one_thread_each():
        return work(task)


class FitFailedError(Exception):
    """A fit raised, or its scores cannot be used; the text is the reason."""


def attempt_fit(fit: Callable[[], list[FoldPrediction]], folds: Sequence[Fold]) -> list[FoldPrediction]:
    """What a fit gives, each score finite.

    Raises:
        FitFailedError: it raised something, whatever it was: one arm must not take the results of the others away.
    """
    found = attempt(fit)
    if isinstance(found, Failed):
        raise FitFailedError(str(found))
    broken = [fold for fold, one in zip(folds, found, strict=True) if not np.isfinite(one.score).all()]
    if broken:
        first = f"the first is fold {broken[0].number + 1} of repeat {broken[0].repeat + 1}"
        raise FitFailedError(f"its scores are not finite in {len(broken)} of {len(folds)} fits; {first}")
    return found


def _fits(
    by_seed: Sequence[tuple[FoldPrediction, ...]],
    tested: Sequence[Sequence[FoldPrediction]],
    instances_per_slide: float,
    seconds: float,
) -> ArmFits:
    """What the fits of an arm said, averaged over its seeds."""
    several = len(by_seed) > 1
    return ArmFits(
        predictions=tuple(average_predictions(by_seed)) if several else by_seed[0],
        instances_per_slide=float(instances_per_slide),
        seconds=seconds,
        external=average_predictions(tested)[0] if tested else None,
        by_seed=tuple(by_seed) if several else (),
    )


def _average(arm: Arm, parts: Sequence[ArmFits | FailedArm]) -> ArmFits | FailedArm:
    """Late fusion of arms; where some have several seeds, seed by seed. One that averages a failed arm has failed."""
    done = [one for one in parts if isinstance(one, ArmFits)]
    failed = [one.arm.label for one in parts if isinstance(one, FailedArm)]
    if failed:
        return FailedArm(arm, f"it averages {', '.join(failed)}, which failed")
    seeds = [one.by_seed or (one.predictions,) for one in done]
    by_seed = [
        tuple(average_predictions([own[min(number, len(own) - 1)] for own in seeds]))
        for number in range(max(map(len, seeds)))
    ]
    tested = [[one.external] for one in done if one.external is not None]
    return _fits(by_seed, tested, sum(one.instances_per_slide for one in done), 0.0)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Arms run side by side, each on one core: their matrices are too small to be shared out among threads.

    Measured on two cores that others use too: with two threads inside every product the same work took seven times
    as long, spent on threads that wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
