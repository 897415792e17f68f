"""Where to look closely: a slide's coarse magnifications first, and of finer ones what a policy puts first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from parfocal.embed.glance import Glance, Ranked, TileOrder, is_order, known_first
from parfocal.embed.settings import EmbedSettings
from parfocal.embed.stored_part import called, in_part
from parfocal.errors import ConfigError, MismatchError, ParfocalError, StoreError
from parfocal.geometry import format_mpp
from parfocal.run.shards import refuse_shard
from parfocal.slides import SlideSource
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import BOUND, BUDGET, COARSER, POLICY, RULE, SEED, SETTLED, TOTAL, index_path

IsSettled = Callable[[Float[np.ndarray, "there dim"], Bool[np.ndarray, " tile"], Bool[np.ndarray, " tile"], int], bool]
"""Whether reading ends: of the rows that are there, as stored, which of the planned fine tiles they are, which have not
been read, and the number of the rung. A tile that is in neither is absent."""


@dataclass(frozen=True, eq=False)
class Stop:
    """When the reading of a slide ends before its budget is spent.

    Attributes:
        rule: the digest of all that decides it.
        rungs: the shares of a slide's planned fine tiles at which it is asked, rising, all below 1.
        prepare: gives the question of a slide. Each process of a run calls it once, as that of `Zoom`.
    """

    rule: str
    rungs: tuple[float, ...]
    prepare: Callable[[], Callable[[Glance], IsSettled]]

    @cached_property
    def question(self) -> Callable[[Glance], IsSettled]:
        """The question, prepared in this process."""
        return self.prepare()


@dataclass(frozen=True, eq=False)
class Zoom:
    """How much of the finest magnifications is read, and in which order.

    Attributes:
        policy: what the order is called.
        prepare: gives the order, a function from a glance to all planned fine tiles, the first to be looked at first,
            with what they are worth where `shares` needs it. Each process of a run calls it once; so it can be pickled,
            and what it loads need not.
        budget: the share of each slide's planned finest tiles that is read; with `stop` the most that is; with
            `shares` the share of those of all slides.
        seed: of policies that draw.
        bound: the digest of the model or head that the policy asks, of several joined by +; empty where it asks none.
        draws: whether the seed matters; else it is neither kept nor compared.
        stop: when reading ends before; None where the budget is always spent.
        shares: where the budget is of all slides that are given together, what it comes to for each of them, as far as
            that is known; the others are read coarsely until it is. None where each slide is read to the budget.
        coarser: the shares of the magnifications before the finest one of which a part is read, coarse to fine; those
            before them are read whole, so the first of these shares is below 1.
    """

    policy: str
    prepare: Callable[[], Callable[[Glance], TileOrder | Ranked]]
    budget: float
    seed: int = 0
    bound: str = ""
    draws: bool = False
    stop: Stop | None = None
    shares: Mapping[str, float] | None = None
    coarser: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.stop is not None and self.shares is not None:
            raise ConfigError(
                "a budget of all slides together is not for reading until a slide is settled, which has a promise for "
                "each slide. Use one of the two."
            )
        for share in (self.budget, *self.coarser):
            if not 0 <= share <= 1:
                raise ConfigError(f"--budget {share:g} is no share. Use one from 0 to 1, such as 0.1.")
        if 0 in self.coarser:
            raise ConfigError(
                "--budget 0 of a magnification before the finest one reads none of it. Leave that one out of --mpps."
            )
        if self.coarser and self.coarser[0] == 1:
            raise ValueError("coarser begins with the first magnification of which a part is read")
        if self.coarser and (self.stop is not None or self.shares is not None):
            asked = "reading until a slide is settled" if self.stop is not None else "a budget of all slides together"
            raise ConfigError(f"{asked} is of the finest magnification alone. Name one share for it.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is below 0. Use a whole number from 0 on.")

    @cached_property
    def order(self) -> Callable[[Glance], TileOrder | Ranked]:
        """The order, prepared in this process."""
        return self.prepare()

    @property
    def reads_all(self) -> bool:
        """Whether every slide is read whole."""
        return self.budget >= 1 and self.stop is None and not self.coarser

    def budget_of(self, slide: str) -> float:
        """The share of a slide's planned fine tiles that is read; with `stop` the most that is."""
        return self.budget if self.shares is None or self.reads_all else self.shares.get(slide, 0.0)

    def shares_of(self, slide: str, mpps: Sequence[float]) -> dict[float, float]:
        """The share of each magnification of which a part is read, the finest one always, coarse to fine."""
        shares = (*self.coarser, self.budget_of(slide))
        return dict(zip(mpps[-len(shares) :], shares, strict=True))

    def rounds(self, slide: str) -> tuple[float, ...]:
        """The shares of the finest tiles that are read one after the other: all rungs below its budget, and that."""
        most = self.budget_of(slide)
        return (*(rung for rung in (self.stop.rungs if self.stop else ()) if rung < most), most)

    def attributes(self, budget: float, *, is_settled: bool = False) -> dict[str, Any]:
        """What a slide's index keeps of it.

        Args:
            budget: the share of the slide's finest tiles that was read.
            is_settled: whether reading ended by `stop`.
        """
        own = {POLICY: self.policy, BUDGET: budget, BOUND: self.bound} | ({SEED: self.seed} if self.draws else {})
        own |= {} if self.shares is None else {TOTAL: self.budget}
        own |= {COARSER: np.array(self.coarser)} if self.coarser else {}
        return own | ({RULE: self.stop.rule, SETTLED: is_settled} if self.stop else {})

    def has_read(self, slide: str, stored: Mapping[str, Any]) -> bool:
        """Whether a slide has been read as far as is asked, by what its index keeps."""
        if self.shares is not None and self.reads_all:
            return not in_part(stored)
        is_settled = self.stop is not None and bool(stored.get(SETTLED))
        return self.budget_of(slide) <= float(stored.get(BUDGET, 1.0)) or is_settled

    def ordered(self, glance: Glance, after: float | None = None) -> Ranked:
        """The order of a slide's tiles, and with `shares` what they are worth.

        Args:
            glance: of the slide.
            after: the magnification before, where a part of it was read: regions come first of which that has a tile.

        Raises:
            ParfocalError: the policy gives something else than an order of the tiles, or not what they are worth.
        """
        if not glance.n_tiles:  # a slide without tissue shows a policy nothing
            return Ranked(np.zeros(0, dtype=np.int64), np.zeros(0))
        ranked = Ranked.of(self.order(glance))
        if not is_order(ranked.order, glance.n_tiles):
            raise ParfocalError(
                f"the policy {self.policy} does not name each of the {glance.n_tiles} tiles of "
                f"{glance.coarse.slide} once."
            )
        if self.shares is not None and ranked.worth is None:
            raise ParfocalError(
                f"the policy {self.policy} does not say what the tiles of {glance.coarse.slide} are worth, so a budget "
                "of all slides together cannot be spent by it. Use a budget of each slide."
            )
        return ranked if after is None else ranked.changed(lambda order: known_first(order, glance, after))

    def check(self, slide: str, stored: Mapping[str, Any], anew: str) -> None:
        """Refuse to go on with a slide that another policy or rule, other shares or a larger budget have read in part.

        Raises:
            MismatchError: it has been read so.
        """
        if not in_part(stored):
            return
        kept = {name: value for name, value in stored.items() if name != SEED or self.draws}
        was, now = map(called, (kept, self.attributes(self.budget)))
        if was != now:
            raise MismatchError(
                f"{slide} is in the store as the policy {was} has read it, and {now} is asked now. Ask for the same, "
                f"use another store, or {anew}."
            )
        if self.shares is None and stored[BUDGET] > self.budget:
            raise MismatchError(
                f"{slide} is in the store with a budget of {stored[BUDGET]:g} by the policy {stored[POLICY]}, and "
                f"{self.budget:g} is asked now. Ask for at least as much, use another store, or {anew}."
            )


def split_shares(budget: float | Sequence[float]) -> tuple[tuple[float, ...], float]:
    """A budget as `Zoom` takes it: the shares before the last one, from the first on of which a part is read; the last.

    Raises:
        ConfigError: no share is named.
    """
    shares = list(budget) if isinstance(budget, Sequence) else [budget]
    if not shares:
        raise ConfigError("--budget names no share. Use one from 0 to 1, such as 0.1.")
    while len(shares) > 1 and shares[0] == 1:
        shares.pop(0)
    return tuple(shares[:-1]), shares[-1]


def zoomable(settings: EmbedSettings, zoom: Zoom) -> EmbedSettings:
    """The same settings, with coarse tiles from the slide's own levels.

    Raises:
        ConfigError: there are no more magnifications than shares, regions overlap, or coarse tiles are to be averaged
            from fine ones.
    """
    mpps = settings.grid.mpps
    if len(mpps) < 2:
        raise ConfigError("--zoom looks at coarser magnifications first, and one alone is asked. Name more (--mpps).")
    if len(zoom.coarser) + 1 >= len(mpps):
        raise ConfigError(
            f"--budget names {len(zoom.coarser) + 1} shares, and of {' '.join(map(format_mpp, mpps))} mpp the first is "
            f"always read whole. Name at most {len(mpps) - 1}."
        )
    if settings.places is not None or settings.grid.overlaps:
        raise ConfigError("--zoom chooses among regions side by side: leave --places and --stride-um out.")
    if settings.coarse == "derived":
        raise ConfigError(
            "--zoom looks at coarser magnifications before the finest one is read, and --coarse derived makes them of "
            "it. Leave --coarse out."
        )
    return settings.model_copy(update={"coarse": "native"})


def own_slides(sources: Sequence[SlideSource], settings: EmbedSettings, zoom: Zoom | None) -> list[SlideSource]:
    """The slides of the run's shard, all where it is of none.

    Raises:
        ConfigError: a shard is asked for, and the budget is of all slides together.
    """
    if zoom is not None and zoom.shares is not None and not zoom.reads_all:
        refuse_shard(settings.shard, "a budget of all slides together (--budget-total)")
    return settings.own(sources, name=lambda source: source.slide)


def is_read(set_path: Path, slide: str, zoom: Zoom | None) -> bool:
    """Whether a set has a slide, with as much of it as is asked."""
    path = index_path(set_path, slide)
    if zoom is None or not path.is_file():
        return path.is_file()
    try:
        with opened_h5(path) as index:
            return zoom.has_read(slide, index.attrs)
    except StoreError:  # told where the slide is asked for
        return True
