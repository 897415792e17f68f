"""Every way from vectors to a score, by name: ours and those of other packages.

One of ours is a file of this folder with a `RegisteredHead` in it. Another package's is found by its entry point in the
group `parfocal.heads`; `parfocal.testing.HeadContract` says what it must do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from parfocal.errors import MismatchError, PluginError
from parfocal.heads.base import Arrays, Bags, Fit, FittedProbe, ProbeState, Scores, Slides
from parfocal.plugins import Origin, Plugin, Registry

Pools = Literal["means", "tiles", "regions"]


@dataclass(frozen=True)
class RegisteredHead(Plugin):
    """One way from the vectors of slides to a score.

    Attributes:
        name: the word that arms and saved heads know it by, such as `mean`.
        label: how it pools, for people, such as `mean, linear model`.
        pools: what it reads of a bag: means of slides, every tile (or other instance), or the means of regions. Of a
            cohort that is larger than memory, a head of another package is given these as arrays, and nothing else.
        load: from what a fitted one's `state()` said back to the probe.
        fit: bags, outcome, folds and settings to one probe for each fold; None for one that needs more, such as a
            model, and is made where that is known.
        takes_several: whether it takes the bags of several magnifications at once.
        is_random: whether its fit draws random numbers, so that another seed gives another result.
        may_lack: whether slides may have no instance in one of several bags, and are scored without its mean.
        by_request: whether it takes so long that it makes arms only where it is named.
    """

    label: str
    pools: Pools
    load: Callable[[ProbeState], FittedProbe]
    fit: Fit | None = None
    takes_several: bool = False
    is_random: bool = False
    may_lack: bool = False
    by_request: bool = False

    def guarded(self, origin: Origin) -> "RegisteredHead":
        """The same as it comes from another package."""
        if self.fit is None:
            raise PluginError(f"cannot use {origin}: it has no function `fit`.")
        load = origin.guarded(self.load, partial(_AddedProbe, pools=self.pools))
        return replace(self, load=load, fit=_Fitted(origin, self.fit, self.pools))


HEADS: Registry[RegisteredHead] = Registry(RegisteredHead, "head", "parfocal.heads")


def load_probe(state: ProbeState) -> FittedProbe:
    """The probe whose `state()` this is.

    Raises:
        MismatchError: there is no head of that name.
        PluginError: the package that adds it fails.
    """
    if state.probe not in HEADS:
        raise MismatchError(
            f"there is no probe {state.probe!r} here, only {', '.join(sorted(HEADS.names))}; it was saved by another "
            "version of parfocal, or comes from a package that is not installed here."
        )
    return HEADS.get(state.probe).load(state)


@dataclass(frozen=True)
class _Fitted:
    """The fit of another package's head."""

    origin: Origin
    fit: Fit
    pools: Pools

    def __call__(self, bags: Bags, outcome: Any, folds: Sequence[Any], settings: Any) -> list[FittedProbe]:
        with self.origin.blamed():
            probes = self.fit(_in_memory(bags, self.pools), outcome, folds, settings)
            if len(probes) != len(folds):
                raise PluginError(f"{self.origin} gave {len(probes)} probes for {len(folds)} folds.")
        return [_AddedProbe(self.origin, probe, self.pools) for probe in probes]


def _in_memory(bags: Bags, pools: Pools) -> Bags:
    """Bags with the vectors in memory that a head of another package pools: it may do with them what it likes."""
    return [bag.held(rows=pools == "tiles", regions=pools == "regions") for bag in bags]


@dataclass(frozen=True, eq=False)
class _AddedProbe(FittedProbe):
    """A probe of another package: what it gives is looked at, and what goes wrong names the package."""

    origin: Origin
    probe: FittedProbe
    pools: Pools

    @property
    def chosen(self) -> str:
        """What the probe says."""
        with self.origin.blamed():
            return str(self.probe.chosen)

    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The probe's scores, if they are a number for each slide and column."""
        with self.origin.blamed():
            own, numbers = bags, slides
            if not all(bag.is_held for bag in bags):
                own, numbers = [bag.of_slides(slides.tolist()) for bag in bags], np.arange(len(slides))
            scores = np.asarray(self.probe.score(_in_memory(own, self.pools), numbers), dtype=np.float64)
        if scores.ndim != 2 or len(scores) != len(slides):
            raise PluginError(f"{self.origin} gave scores of shape {scores.shape} for {len(slides)} slides.")
        return scores

    def state(self) -> ProbeState:
        """What the probe says, under the name that it is registered by."""
        with self.origin.blamed():
            state = self.probe.state()
            arrays: Arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
        return replace(state, arrays=arrays)
