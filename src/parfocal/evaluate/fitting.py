"""Every arm fitted on the folds of one target: side by side, with several seeds, and once more for a test cohort."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag
from parfocal.cohort import Cohort, Fold, Outcome, Splits, whole_fold
from parfocal.errors import ConfigError
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.compare import compare_arms
from parfocal.evaluate.result import ArmFits, FailedArm, TargetResult
from parfocal.heads import FoldPrediction, ProbeSettings, average_predictions, predict
from parfocal.run.cache import StepCache
from parfocal.run.executors import RunsWhere, executor_for
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt, each_in_thread
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut

Bags = Mapping[tuple[int, str], Bag]
"""By the number of the set and the name of the bag."""


@dataclass(frozen=True, eq=False)
class ExternalBags:
    """A cohort that is only tested, with the bags of its slides, named as those of the training cohort."""

    cohort: Cohort
    bags: Bags


_ANYWHERE = RunsWhere()


@dataclass(frozen=True, eq=False)
class FitPlan:
    """How arms are fitted; none of it but the seeds changes a result.

    Attributes:
        seeds: how often the arms that draw random numbers are fitted, with as many seeds; their scores are averaged.
        workers: arms that are fitted at a time.
        keep: a folder of finished fits, which are not done again; None keeps nothing.
        on_arm: told of every arm that is done.
        where: processes or a Ray cluster, where an arm that takes its process with it is tried once more and has
            failed then; threads of this process where it does not say.
    """

    seeds: int = 1
    workers: int = 1
    keep: Path | None = None
    on_arm: Callable[[Arm], None] | None = None
    where: RunsWhere = _ANYWHERE


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
    reason, an arm that averages it has failed too, and the others go on. Nothing of it is kept, so that the next run
    tries again.

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
    with one_thread_each(), closing(_fitted(waiting, fitting, plan)) as results:
        for n, result in results:
            done[n] = result
            if plan.on_arm:
                plan.on_arm(arms[n])
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

    def prepare(self, device: str) -> Callable[[int, Tell], ArmFits | FailedArm]:
        """Make a process ready."""
        return self.told

    def told(self, n: int, tell: Tell) -> ArmFits | FailedArm:
        """What comes of an arm, in a process of its own."""
        with one_thread_each():
            return self.of(n)

    def of(self, n: int) -> ArmFits | FailedArm:
        """What comes of an arm."""
        return _fit_arm(
            self.arms[n], self.bags, self.outcome, self.folds, self.settings, self.plan, self.external, self.whole
        )


def _fitted(waiting: Sequence[int], fitting: _Fitting, plan: FitPlan) -> Generator[tuple[int, ArmFits | FailedArm]]:
    """Every arm that is fitted, as it is done."""
    if plan.where.executor is None:
        yield from each_in_thread(waiting, fitting.of, threads=plan.workers)
        return
    executor = executor_for(plan.where, workers=plan.workers)
    executor.check()
    try:
        for n, result in executor.run(waiting, fitting.prepare):
            if isinstance(result, Death | TimedOut):
                reason = f"its process died twice without a message ({result})"
                yield n, FailedArm(fitting.arms[n], reason)
            else:
                yield n, result
    except CannotStartError as error:
        raise ConfigError(f"arms cannot be fitted elsewhere: {error}. Leave --executor out.") from error


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


def _fit_arm(
    arm: Arm,
    bags: Bags,
    outcome: Outcome,
    folds: Sequence[Fold],
    settings: ProbeSettings,
    plan: FitPlan,
    external: ExternalBags | None,
    whole: Fold | None,
) -> ArmFits | FailedArm:
    # What is fitted, beside its bags; not the arm's name: the same arm of another folder is the same fit.
    name, train_bags = f"{arm.method} {arm.reads}", [bags[key] for key in arm.bags]
    test_bags = [external.bags[key] for key in arm.bags] if external is not None else []
    cache = StepCache(plan.keep, (FoldPrediction,))

    def kept(folds: Sequence[Fold], seeded: ProbeSettings, *, on_test: bool) -> tuple[list[FoldPrediction], float]:
        def fit() -> list[FoldPrediction]:
            assert arm.pool is not None  # those that average others are not fitted
            probes = arm.pool(train_bags, outcome, folds, seeded)
            if not on_test:
                return predict(probes, train_bags, folds)
            return [
                FoldPrediction(one.score(test_bags, np.arange(len(test_bags[0].slides))), one.chosen) for one in probes
            ]

        def timed() -> tuple[list[FoldPrediction], float]:
            started = time.monotonic()
            return attempt_fit(fit, folds), time.monotonic() - started

        # Everything that decides the predictions: the numbers themselves, and not where they are computed.
        read = [*train_bags, *(test_bags if on_test else ())]
        choices = seeded.model_dump(mode="json", exclude={"device"})
        return cache.step(name, [read, outcome, list(folds), choices], timed)

    by_seed, tested, seconds, where = [], [], 0.0, ""
    try:
        for number in range(plan.seeds if arm.is_random else 1):
            # Only the fit has another seed: splits and inner folds stay, so that seeds differ in nothing else.
            seeded = settings.model_copy(update={"seed": settings.seed + number})
            where = f"seed {seeded.seed}: " if number else ""
            predictions, took = kept(folds, seeded, on_test=False)
            by_seed.append(tuple(predictions))
            seconds += took
            if whole is not None:
                where += "fitted on all slides for the test cohort: "
                predictions, took = kept([whole], seeded, on_test=True)
                tested.append(predictions)
                seconds += took
    except FitFailedError as failure:
        return FailedArm(arm, f"{where}{failure}")
    return _fits(by_seed, tested, sum(bag.n_instances.mean() for bag in train_bags), seconds)


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
