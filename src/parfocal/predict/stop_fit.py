"""Beside the fit of a head: how far slides must be read for it, on slides that its folds had not seen."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import Cohort, Fold
from parfocal.errors import ConfigError
from parfocal.evaluate.arm import Arm
from parfocal.files import digest8
from parfocal.heads import FittedProbe, FoldPrediction
from parfocal.predict.calibration import Calibration
from parfocal.predict.facts import MetricFacts, StoppingFacts
from parfocal.predict.fit_settings import FitSettings
from parfocal.predict.source import is_made_by_model
from parfocal.predict.stopping import Stopping, fewest_patients, fit_stopping
from parfocal.run.cache import StepCache
from parfocal.store import EmbeddingSet
from parfocal.zoom import POLICIES, HeadOfBags, Policy, scores_by_share

RUNGS = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of a slide's fine tiles at which its class is looked at: doubling, so that looking costs few rounds."""

InPart = list[Float64[np.ndarray, "_test rung column"]]
"""Of each fold, the scores of the slides that it holds out with each rung read; last those of all by the last probe."""


@dataclass(frozen=True, eq=False)
class StopFit:
    """What is needed to read the slides of a cohort in part.

    Attributes:
        tiles: their tile embeddings, read whole.
        cohort: they and their labels.
        bags: the names of the bags that the head pools.
        policy: by which they are read.
        seed: of the policy.
        rate: the share of patients that may be called otherwise than when their slides are read whole.
        confidence: that no more are.
        call_at: of two classes the second is called from this probability on.
    """

    tiles: EmbeddingSet
    cohort: Cohort
    bags: tuple[str, ...]
    policy: str
    seed: int
    rate: float
    confidence: float
    call_at: float

    @staticmethod
    def of(
        branches: Sequence[Arm],
        tiles: EmbeddingSet,
        cohort: Cohort,
        settings: FitSettings,
    ) -> "StopFit":
        """Look whether the arm and its slides can say when a slide has been read far enough; no embedding is read.

        Args:
            branches: of the arm.
            tiles: what it reads.
            cohort: the slides and their labels.
            settings: with a rate of stopping.

        Raises:
            ConfigError: they cannot, there is no such policy, or so few patients bear out no such rate.
        """
        rate, policy = settings.stop_rate, settings.stop_policy
        assert rate is not None
        where = "--stop-rate makes a head that says when a slide has been read far enough"
        if policy not in POLICIES or "model" in POLICIES.get(policy).needs or policy == "attention":
            raise ConfigError(
                f"--stop-policy {policy} cannot be used: no such policy is known, or it asks more than the head and a "
                "set of embeddings say. Use contrast-tiles, contrast or stride."
            )
        if not cohort.outcome.classes:
            raise ConfigError(f"{where}, by the class that it calls, and {cohort.target!r} has no classes.")
        if len(branches) != 1 or branches[0].method != "contrast" or is_made_by_model(tiles):
            raise ConfigError(
                f"{where}, and for that it must know what it has not seen, as contrast on tile embeddings does: "
                "use --arm contrast."
            )
        if tiles.settings.get("coarse") != "native":
            raise ConfigError(
                f"{where}, by coarse tiles of the slide's own levels, and those of {tiles.name} are averaged from fine "
                "ones. Embed with --coarse native."
            )
        if policy == "tissue" and not all(map(tiles.has_tissue, cohort.slides)):
            raise ConfigError(
                f"--stop-policy tissue cannot be used: {tiles.name} does not keep how much of each tile is tissue. Use "
                "contrast-tiles, contrast or stride."
            )
        parts = [slide for slide in cohort.slides if tiles.reading(slide) is not None]
        if parts:
            raise ConfigError(
                f"{where}, by comparing with reading everything, and {len(parts)} slides of {tiles.name} were read in "
                f"part, such as {parts[0]}. Read the rest with --budget 1."
            )
        fewest_patients(cohort.n_groups, rate, settings.stop_confidence)
        bags = tuple(name for _, name in branches[0].bags)
        return StopFit(
            tiles, cohort, bags, policy, settings.probes.seed, rate, settings.stop_confidence, settings.call_at
        )

    def scores(self, probes: Sequence[FittedProbe], folds: Sequence[Fold], cache: StepCache) -> InPart:
        """The scores of slides with each rung read: of held-out ones by the probes of their folds, of all by the last.

        Each slide is read once.

        Raises:
            ConfigError: the probe of all slides cannot say where to read.
        """
        states = [probe.state() for probe in probes]
        decided_by = [states, folds, list(self.cohort.slides), digest8(self.tiles.settings), list(self.bags), self.seed]
        return cache.step(f"read in part by {self.policy}", decided_by, partial(self._scores, probes, folds))

    def _scores(self, probes: Sequence[FittedProbe], folds: Sequence[Fold]) -> InPart:
        policy, heads = POLICIES.get(self.policy), [HeadOfBags(probe, self.bags) for probe in probes]
        try:
            orders: list[Policy] = [*([POLICIES.get("stride")] * len(folds)), policy.with_head(heads[-1])]
        except ConfigError as error:
            raise ConfigError(f"--stop-policy {self.policy} cannot be used: {error}") from error
        for number, head in enumerate(heads[:-1]):
            with suppress(ConfigError):  # a fold whose head cannot say where to read reads a stride, as `budget` does
                orders[number] = policy.with_head(head)
        tested = [*(fold.test for fold in folds), np.arange(len(self.cohort.slides))]
        found = [np.empty((len(test), len(RUNGS), len(self.cohort.outcome.columns))) for test in tested]
        place = [{int(number): at for at, number in enumerate(test)} for test in tested]
        for number, slide in enumerate(self.cohort.slides):
            tokens = self.tiles.read(slide)
            for at, head, order, own in zip(place, heads, orders, found, strict=True):
                if number in at:
                    own[at[number]] = scores_by_share(head, order, tokens, RUNGS, self.seed)
        return found

    def fitted(
        self,
        parts: InPart,
        whole: Float64[np.ndarray, "repeat slide column"],
        own: Float64[np.ndarray, "slide column"],
        calibration: Calibration,
        folds: Sequence[Fold],
    ) -> "Stopped":
        """Find the limit, and see what it does to the slides that it was found on.

        Args:
            parts: as `scores` gives them.
            whole: of slides that are read whole, by probes that had not seen them.
            own: of the same, by the probe of all slides.
            calibration: of the head.
            folds: all but that of the probe of all slides.

        Raises:
            ConfigError: so few patients bear out no such rate.
        """
        *of_folds, of_all = parts
        repeats = sorted({fold.repeat for fold in folds})
        by_repeat = np.empty((len(repeats), len(self.cohort.slides), len(RUNGS), whole.shape[2]))
        for fold, held_out in zip(folds, of_folds, strict=True):
            by_repeat[repeats.index(fold.repeat), fold.test] = held_out
        says, of_whole = _probabilities(calibration, by_repeat), _probabilities(calibration, whole)
        seen = _probabilities(calibration, of_all[None]), _probabilities(calibration, own[None])
        rule = fit_stopping(
            [(says, of_whole), seen],
            self.cohort.groups,
            policy=self.policy,
            rungs=RUNGS,
            rate=self.rate,
            confidence=self.confidence,
            call_at=self.call_at,
        )
        ends = np.stack([rule.stops(one) for one in says])
        reached = np.concatenate([by_repeat, whole[:, :, None]], axis=2)
        stopped = np.take_along_axis(reached, ends[:, :, None, None], axis=2)[:, :, 0]
        predictions = tuple(FoldPrediction(stopped[repeats.index(fold.repeat), fold.test], "") for fold in folds)
        return Stopped(rule, predictions, *rule.on(says, of_whole, self.cohort.groups))


@dataclass(frozen=True, eq=False)
class Stopped:
    """What stopping does to the slides that its limit was found on.

    Attributes:
        rule: from when on a class is settled.
        predictions: of each fold, of the slides that it holds out, each read until it is settled.
        share: mean share of the fine tiles that is read; patients count alike.
        other: share of patients that are called otherwise than when read whole.
    """

    rule: Stopping
    predictions: tuple[FoldPrediction, ...]
    share: float
    other: float

    def facts(self, metric: MetricFacts) -> StoppingFacts:
        """What a head keeps of it.

        Args:
            metric: what the predictions reach.
        """
        rule = {name: value for name, value in vars(self.rule).items() if name != "usual"}
        usual = tuple(self.rule.usual.tolist())
        return StoppingFacts(**rule, usual=usual, share=self.share, other=self.other, metric=metric)


def _probabilities(
    calibration: Calibration, score: Float64[np.ndarray, "*batch column"]
) -> Float64[np.ndarray, "*batch class"]:
    flat = calibration.probability(score.reshape(-1, score.shape[-1]))
    return np.asarray(flat.reshape(*score.shape[:-1], flat.shape[-1]))
