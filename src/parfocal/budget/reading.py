"""Held-out slides that were read whole, read again in part: by every policy, to every budget, scored by every head.

Heads are fitted on whole training slides, and policies that ask a head ask that of the same fold, so nothing of a
held-out slide but what a policy may see has a say in what is read of it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64

from parfocal.bags import glance_at
from parfocal.budget.result import ORACLE
from parfocal.cohort import Cohort, Fold, Outcome
from parfocal.errors import ConfigError, ParfocalError
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.fitting import Bags, FitsWhere, each_fit
from parfocal.heads import (
    FittedProbe,
    FoldPrediction,
    ProbeSettings,
    ProbeState,
    load_probe,
    predict,
)
from parfocal.run.cache import StepCache, content_digest
from parfocal.run.failures import Failed
from parfocal.run.processes import Death, TimedOut
from parfocal.store import SlideTokens
from parfocal.zoom import (
    POLICIES,
    Glance,
    HeadOfBags,
    PartReader,
    Policy,
    TileOrder,
    best_regions_first,
    chosen,
    replayed,
)


@dataclass(frozen=True, eq=False)
class Oracle:
    """Regions in the order of what reading each of them does to the score of a head, beside reading none.

    No policy can know it: it takes every region to be read. It shows how soon this head's score of the whole slide can
    be had, and is no bound of AUC: what it puts last may be what misleads the head.

    Attributes:
        head: whose score.
    """

    head: HeadOfBags
    name: str = ORACLE

    def order(self, tokens: SlideTokens, glance: Glance, usual: Float32[np.ndarray, " dim"]) -> TileOrder:
        """The order of a slide's fine tiles; arguments as of `read_slide`."""
        reader, rows = PartReader.of(glance, usual), tokens.features[glance.mpp]

        def score(read: Bool[np.ndarray, " tile"]) -> float:
            return float(reader.scores([self.head], rows[read], read)[0][0])

        nothing = score(np.zeros(glance.n_tiles, dtype=bool))
        effect = [abs(score(glance.region == number) - nothing) for number in range(tokens.n_regions)]
        return best_regions_first(np.array(effect), glance).order


def order_of(
    policy: Policy | Oracle,
    tokens: SlideTokens,
    glance: Glance,
    usual: Float32[np.ndarray, " dim"],
    *,
    budget: float = 1.0,
) -> TileOrder:
    """The order in which a slide is read.

    Args:
        policy: sees the glance and what it has read, unless it is the oracle.
        tokens: all of the slide.
        glance: what is known of it before fine tiles are read.
        usual: the fine mean of a slide of which none is read.
        budget: the share of its fine tiles that is read.

    Raises:
        ConfigError: the policy cannot say where to read.
    """
    if isinstance(policy, Oracle):
        return policy.order(tokens, glance, usual)
    return replayed(policy, tokens, glance, budget=budget)


def read_slide(
    tokens: SlideTokens,
    heads: Sequence[HeadOfBags],
    policies: Sequence[Policy | Oracle],
    budgets: Sequence[float],
    usual: Float32[np.ndarray, " dim"],
    seed: int,
) -> tuple[Float64[np.ndarray, "head policy budget"], dict[str, str]]:
    """The scores of one slide, and which policies could not say where to read it, with the reason.

    A stride is read where a policy cannot say, as whoever is told so would do.
    """
    glance = glance_at(tokens, seed)
    reader, rows = PartReader.of(glance, usual), tokens.features[glance.mpp]
    scores, silent = np.empty((len(heads), len(policies), len(budgets))), dict[str, str]()
    for place, policy in enumerate(policies):
        try:
            order = order_of(policy, tokens, glance, usual, budget=max(budgets))
        except ConfigError as error:
            silent[policy.name] = str(error)
            order = POLICIES.get("stride")(glance)
        for number, budget in enumerate(budgets):
            read = chosen(order, budget)
            scores[:, place, number] = [one[0] for one in reader.scores(heads, rows[read], read)]
    return scores, silent


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of held-out slides.

    Attributes:
        heads: the arms that score slides which are read in part.
        attention: the arm that the policy attention asks, where that is among them; other policies that need a head
            ask the first of `heads`.
        policies: names; the oracle asks the first of `heads`.
        budgets: shares below 1.
        seed: of policies that draw.
    """

    heads: tuple[Arm, ...]
    attention: Arm | None
    policies: tuple[str, ...]
    budgets: tuple[float, ...]
    seed: int

    def bound(self, probes: Mapping[str, FittedProbe]) -> list[Policy | Oracle]:
        """The policies, with the heads of one fold where they need one."""
        result = list[Policy | Oracle]()
        for name in self.policies:
            if name == ORACLE:
                result.append(Oracle(head_of(self.heads[0], probes)))
                continue
            policy = POLICIES.get(name)
            arm = self.attention if name == "attention" and self.attention else self.heads[0]
            try:
                result.append(policy.with_head(head_of(arm, probes)))
            except ConfigError as error:  # told by `read_slide`, which goes on without it
                result.append(replace(policy, order=partial(_refuse, error)))
        return result


def _refuse(error: ConfigError, glance: Glance) -> TileOrder:
    """The order of a policy that cannot say where to read."""
    raise error


def head_of(arm: Arm, probes: Mapping[str, FittedProbe]) -> HeadOfBags:
    """An arm's head of one fold."""
    return HeadOfBags(probes[arm.id], tuple(name for _, name in arm.bags))


@dataclass(frozen=True, eq=False)
class _FoldScores:
    """Of the held-out slides of one fold: their scores, and which policies could not say where to read, and why."""

    scores: Float64[np.ndarray, "head policy budget test"]
    silent: dict[str, str]


KEPT = (ProbeState, _FoldScores)
"""What finished steps are made of."""


@dataclass(frozen=True, eq=False)
class BudgetScores:
    """What heads say about held-out slides.

    Attributes:
        whole: by the id of each arm, of each fold, of slides that are read whole.
        part: of each fold, of slides that are read in part: head, policy, budget, slide.
        silent: of each policy that could not say where to read in some folds, in how many, and why.
        policies: of each fold, as they were asked.
        usual: of each fold, the fine mean of a slide of which nothing is read.
    """

    whole: Mapping[str, list[FoldPrediction]]
    part: tuple[Float64[np.ndarray, "head policy budget _test"], ...]
    silent: Mapping[str, tuple[int, str]]
    policies: tuple[list[Policy | Oracle], ...]
    usual: tuple[Float32[np.ndarray, " _dim"], ...]

    def predictions(self, head: int, policy: int, budget: int) -> list[FoldPrediction]:
        """One point of a curve, fold by fold."""
        return [FoldPrediction(one[head, policy, budget][:, None], "") for one in self.part]


def score_budgets(
    arms: Sequence[Arm],
    bags: Bags,
    cohort: Cohort,
    folds: Sequence[Fold],
    tokens_of: Callable[[str], SlideTokens],
    asked: Asked,
    settings: ProbeSettings,
    cache: StepCache,
    on_step: Callable[[str], None],
    where: FitsWhere | None = None,
) -> BudgetScores:
    """Fit every arm on the training slides of each fold, and read the held-out ones.

    Args:
        arms: all that are fitted, those of `asked` among them.
        bags: what they pool; their slides are the cohort's, in its order.
        cohort: labels, of which those of a fold's held-out slides have no say in its scores.
        folds: the outer folds.
        tokens_of: the embeddings of a slide, by its id.
        asked: policies, budgets and heads.
        settings: what arms choose among.
        cache: of finished steps: the fits of an arm on the folds of a repeat, and the reading of a fold.
        on_step: told what is done, once for each of these.
        where: arms are fitted, and folds are read; in threads of this process where it does not say.

    Raises:
        ConfigError: what `where` asks for cannot be started.
        ParfocalError: a step failed in another process, or took the process with it.
    """
    where = where or FitsWhere()
    fits = _Fits(arms, bags, cohort.outcome, folds, settings, cache)
    repeats = list(dict.fromkeys(fold.repeat for fold in folds))
    tasks = [(number, repeat) for number in range(len(arms)) for repeat in repeats]
    by_arm: dict[str, list[ProbeState]] = {arm.id: [] for arm in arms}
    states = _all_of(tasks, fits, where, lambda task: arms[task[0]].label, on_step)
    for (number, _), own in zip(tasks, states, strict=True):
        by_arm[arms[number].id] += own
    # As they are kept, so that a run which goes on has the same numbers as one that was not stopped.
    probes = [{name: load_probe(own[place]) for name, own in by_arm.items()} for place in range(len(folds))]
    whole = {arm.id: predict([own[arm.id] for own in probes], [bags[key] for key in arm.bags], folds) for arm in arms}
    finest = bags[asked.heads[0].bags[-1]]
    needed = [arm for arm in (*asked.heads, asked.attention) if arm]
    fitted = [{arm.id: by_arm[arm.id][place] for arm in needed} for place in range(len(folds))]
    usual = [finest.mean[fold.train].mean(axis=0, dtype=np.float64).astype(np.float32) for fold in folds]
    # Whoever reads needs no bag but to know that it is another one.
    content = content_digest([bags[key] for arm in needed for key in arm.bags])
    reads = _Reads(cohort.slides, tokens_of, asked, folds, fitted, usual, content, cache)

    def named(place: int) -> str:
        return f"fold {folds[place].number + 1} of repeat {folds[place].repeat + 1}"

    parts = _all_of(range(len(folds)), reads, where, named, on_step)
    counts = Counter(name for one in parts for name in one.silent)
    reasons = {name: why for one in parts for name, why in one.silent.items()}
    return BudgetScores(
        whole,
        tuple(one.scores for one in parts),
        {name: (counts[name], why) for name, why in reasons.items()},
        tuple(asked.bound(own) for own in probes),
        tuple(usual),
    )


Task = TypeVar("Task")
Result = TypeVar("Result")


def _all_of(
    tasks: Sequence[Task],
    work: Callable[[Task], Result],
    where: FitsWhere,
    named: Callable[[Task], str],
    on_step: Callable[[str], None],
) -> list[Result]:
    """The results of all tasks, in their order.

    Raises:
        ParfocalError: a task failed in another process, or took the process with it.
    """
    found = dict[Task, Result]()
    with closing(each_fit(tasks, work, where)) as results:
        for task, result in results:
            if isinstance(result, Failed):
                raise ParfocalError(f"{named(task)}: {result.problem}")
            if isinstance(result, Death | TimedOut):
                raise ParfocalError(
                    f"{named(task)}: its process died twice without a message ({result}). What was done before is "
                    "kept: give the same command again, with fewer --arms-at-a-time or without --executor."
                )
            found[task] = result
            on_step(named(task))
    return [found[task] for task in tasks]


@dataclass(frozen=True, eq=False)
class _Fits:
    """All that the fits of arms need; it can be pickled where their heads can."""

    arms: Sequence[Arm]
    bags: Bags
    outcome: Outcome
    folds: Sequence[Fold]
    settings: ProbeSettings
    cache: StepCache

    def __call__(self, task: tuple[int, int]) -> list[ProbeState]:
        """The probes of an arm, one for each fold of a repeat."""
        number, repeat = task
        arm, folds = self.arms[number], [fold for fold in self.folds if fold.repeat == repeat]
        own = [self.bags[key] for key in arm.bags]
        inputs = [own, self.outcome, folds, self.settings.model_dump(mode="json", exclude={"device"})]

        def fit() -> list[ProbeState]:
            assert arm.pool is not None  # arms that average others are refused before
            return [probe.state() for probe in arm.pool(own, self.outcome, folds, self.settings)]

        return self.cache.step(f"fit {arm.id}", inputs, fit)


@dataclass(frozen=True, eq=False)
class _Reads:
    """All that the reading of folds needs; it can be pickled where heads can.

    Attributes:
        slides: the cohort's.
        tokens_of: the embeddings of a slide.
        asked: policies, budgets and heads.
        folds: the outer folds.
        fitted: of each fold, the probes that are asked, by the ids of their arms.
        usual: of each fold, the fine mean of a slide of which nothing is read.
        content: the digest of the bags that probes were fitted on.
        cache: of folds that have been read.
    """

    slides: Sequence[str]
    tokens_of: Callable[[str], SlideTokens]
    asked: Asked
    folds: Sequence[Fold]
    fitted: Sequence[Mapping[str, ProbeState]]
    usual: Sequence[Float32[np.ndarray, " dim"]]
    content: str
    cache: StepCache

    def __call__(self, place: int) -> _FoldScores:
        """The scores of the held-out slides of a fold."""
        asked, fold, fitted = self.asked, self.folds[place], self.fitted[place]
        inputs = [fitted, self.content, fold, list(asked.policies), list(asked.budgets), asked.seed]

        def read() -> _FoldScores:
            probes = {name: load_probe(state) for name, state in fitted.items()}
            heads, policies = [head_of(arm, probes) for arm in asked.heads], asked.bound(probes)
            found = [
                read_slide(
                    self.tokens_of(self.slides[slide]), heads, policies, asked.budgets, self.usual[place], asked.seed
                )
                for slide in fold.test
            ]
            silent = {name: why for _, reasons in found for name, why in reasons.items()}
            return _FoldScores(np.stack([scores for scores, _ in found], axis=-1), silent)

        return self.cache.step(f"read {fold.repeat} {fold.number}", inputs, read)
