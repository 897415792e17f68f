"""Held-out slides that were read whole, read again in part: by every policy, to every budget, scored by every head.

Heads are fitted on whole training slides, and policies that ask a head ask that of the same fold, so nothing of a
held-out slide but what a policy may see has a say in what is read of it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64

from parfocal.bags import Bag, bag_of_slide
from parfocal.cohort import Cohort, Fold
from parfocal.errors import ConfigError
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.fitting import Bags
from parfocal.geometry import format_mpp
from parfocal.heads import (
    FittedProbe,
    FoldPrediction,
    ProbeSettings,
    ProbeState,
    load_probe,
    predict,
    score_partly_read,
)
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.run.cache import StepCache
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, Glance, HeadOfBags, Policy, chosen


def glance_at(tokens: SlideTokens, seed: int) -> Glance:
    """What a policy sees of a slide that was read whole: nothing of its finest embeddings.

    A set does not keep how much of a tile is tissue, so all tiles count as full.
    """
    finest = tokens.mpps[-1]
    coarser = tokens.mpps[:-1]
    coarse = replace(
        tokens,
        features={mpp: tokens.features[mpp].astype(np.float32) for mpp in coarser},
        region={mpp: tokens.region[mpp] for mpp in coarser},
        center_um={mpp: tokens.center_um[mpp] for mpp in coarser},
    )
    region = tokens.region[finest]
    return Glance(coarse, region, tokens.center_um[finest], finest, np.ones(len(region)), seed)


def fine_bag(tokens: SlideTokens, read: Bool[np.ndarray, " tile"], usual: Float32[np.ndarray, " dim"]) -> Bag:
    """The bag of the finest tiles that are read; rows of the others are not touched.

    Args:
        tokens: of the slide.
        read: which of its finest tiles.
        usual: the mean that the slide is given where none is read, such as that of training slides.
    """
    finest = tokens.mpps[-1]
    if read.any():
        alone = replace(
            tokens,
            features={finest: tokens.features[finest][read]},
            region={finest: tokens.region[finest][read]},
            center_um={finest: tokens.center_um[finest][read]},
        )
        return bag_of_slide(alone, finest)
    return Bag(
        name=format_mpp(finest),
        slides=(tokens.slide,),
        rows=np.zeros((0, len(usual)), dtype=np.float32),
        start=np.array([0, 0]),
        n_instances=np.array([0]),
        mean=usual[None],
        region_mean=np.full((tokens.n_regions, len(usual)), np.nan, dtype=np.float32),
        region_start=np.array([0, tokens.n_regions]),
        region_present=np.zeros(tokens.n_regions, dtype=bool),
    )


def score_in_part(
    head: HeadOfBags, known: Mapping[str, Bag], fine: Bag, share: Float64[np.ndarray, " region"]
) -> float:
    """The score of one slide of which a part of the finest tiles is read.

    Contrast knows what it has not seen; another head takes what is read for all there is, as `predict` does.

    Args:
        head: fitted on whole slides.
        known: the bags of the coarser magnifications by name.
        fine: that of the finest tiles which are read.
        share: of each region's finest tiles, 1 where it has none.
    """
    bags, slide = [fine if name == fine.name else known[name] for name in head.bags], np.array([0])
    if isinstance(head.probe, FittedContrast) and fine.name in head.bags:
        number = head.number_of(float(fine.name))
        return float(score_partly_read(head.probe, bags, slide, (number,), share={number: share})[0, 0])
    return float(head.probe.score(bags, slide)[0, 0])


def read_slide(
    tokens: SlideTokens,
    heads: Sequence[HeadOfBags],
    policies: Sequence[Policy],
    budgets: Sequence[float],
    usual: Float32[np.ndarray, " dim"],
    seed: int,
) -> tuple[Float64[np.ndarray, "head policy budget"], dict[str, str]]:
    """The scores of one slide, and which policies could not say where to read it, with the reason.

    A stride is read where a policy cannot say, as whoever is told so would do.
    """
    glance = glance_at(tokens, seed)
    known = {format_mpp(mpp): bag_of_slide(glance.coarse, mpp) for mpp in glance.coarse.mpps}
    of_region = np.bincount(glance.region, minlength=tokens.n_regions)
    scores, silent = np.empty((len(heads), len(policies), len(budgets))), dict[str, str]()
    for place, policy in enumerate(policies):
        try:
            order = policy(glance)
        except ConfigError as error:
            silent[policy.name] = str(error)
            order = POLICIES.get("stride")(glance)
        for number, budget in enumerate(budgets):
            read = chosen(order, budget)
            fine = fine_bag(tokens, read, usual)
            n_read = np.bincount(glance.region, read, minlength=tokens.n_regions)
            share = np.where(of_region > 0, n_read / np.maximum(of_region, 1), 1.0)
            scores[:, place, number] = [score_in_part(head, known, fine, share) for head in heads]
    return scores, silent


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of held-out slides.

    Attributes:
        heads: the arms that score slides which are read in part.
        attention: the arm that the policy attention asks, where that is among them; other policies that need a head
            ask the first of `heads`.
        policies: names.
        budgets: shares below 1.
        seed: of policies that draw.
    """

    heads: tuple[Arm, ...]
    attention: Arm | None
    policies: tuple[str, ...]
    budgets: tuple[float, ...]
    seed: int

    def bound(self, probes: Mapping[str, FittedProbe]) -> list[Policy]:
        """The policies, with the heads of one fold where they need one."""
        result = []
        for name in self.policies:
            policy = POLICIES.get(name)
            arm = self.attention if name == "attention" and self.attention else self.heads[0]
            result.append(policy.bound(head_of(arm, probes)) if policy.needs == "head" else policy)
        return result


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
    """

    whole: Mapping[str, list[FoldPrediction]]
    part: tuple[Float64[np.ndarray, "head policy budget _test"], ...]
    silent: Mapping[str, tuple[int, str]]

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
        cache: of finished steps: the fits of an arm, and the reading of a fold.
        on_step: told what is done, once for each arm and fold.
    """
    choices = settings.model_dump(mode="json", exclude={"device"})
    states: dict[str, list[ProbeState]] = {}
    for arm in arms:
        own = [bags[key] for key in arm.bags]
        inputs = [own, cohort.outcome, list(folds), choices]
        states[arm.id] = cache.step(f"fit {arm.id}", inputs, partial(_fit, arm, own, cohort, folds, settings))
        on_step(arm.label)
    # As they are kept, so that a run which goes on has the same numbers as one that was not stopped.
    probes = [{name: load_probe(own[place]) for name, own in states.items()} for place in range(len(folds))]
    whole = {arm.id: predict([own[arm.id] for own in probes], [bags[key] for key in arm.bags], folds) for arm in arms}
    finest = bags[asked.heads[0].bags[-1]]
    read = [bags[key] for arm in (*asked.heads, asked.attention) if arm for key in arm.bags]
    needed = {arm.id for arm in (*asked.heads, asked.attention) if arm}
    parts: list[_FoldScores] = []
    for place, fold in enumerate(folds):
        usual = finest.mean[fold.train].mean(axis=0, dtype=np.float64).astype(np.float32)
        fitted = {name: state[place] for name, state in states.items() if name in needed}
        parts.append(
            cache.step(
                f"read {fold.repeat} {fold.number}",
                [fitted, read, fold, list(asked.policies), list(asked.budgets), asked.seed],
                partial(
                    _read_fold, [cohort.slides[slide] for slide in fold.test], tokens_of, asked, probes[place], usual
                ),
            )
        )
        on_step(f"fold {fold.number + 1} of repeat {fold.repeat + 1}")
    counts = Counter(name for one in parts for name in one.silent)
    reasons = {name: why for one in parts for name, why in one.silent.items()}
    return BudgetScores(
        whole, tuple(one.scores for one in parts), {name: (counts[name], why) for name, why in reasons.items()}
    )


def _fit(
    arm: Arm, bags: Sequence[Bag], cohort: Cohort, folds: Sequence[Fold], settings: ProbeSettings
) -> list[ProbeState]:
    assert arm.pool is not None  # arms that average others are refused before
    return [probe.state() for probe in arm.pool(bags, cohort.outcome, folds, settings)]


def _read_fold(
    slides: Sequence[str],
    tokens_of: Callable[[str], SlideTokens],
    asked: Asked,
    probes: Mapping[str, FittedProbe],
    usual: Float32[np.ndarray, " dim"],
) -> _FoldScores:
    heads, policies = [head_of(arm, probes) for arm in asked.heads], asked.bound(probes)
    found = [read_slide(tokens_of(slide), heads, policies, asked.budgets, usual, asked.seed) for slide in slides]
    silent = {name: why for _, reasons in found for name, why in reasons.items()}
    return _FoldScores(np.stack([scores for scores, _ in found], axis=-1), silent)
