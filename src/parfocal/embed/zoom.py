"""Where to look closely: a slide's coarse magnifications first, and of the finest one what a policy puts first."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.embed.glance import Glance, Ranked, TileOrder, chosen, is_order, n_chosen
from parfocal.embed.reading import TileRows
from parfocal.embed.settings import EmbedSettings
from parfocal.errors import ConfigError, MismatchError, ParfocalError, ParfocalWarning, StoreError
from parfocal.geometry import Box, format_mpp
from parfocal.regions import PlannedTiles, RegionPlan
from parfocal.slides import Slide, tile_window
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import (
    BOUND,
    BUDGET,
    POLICY,
    RULE,
    SEED,
    SETTLED,
    TOTAL,
    features_path,
    index_path,
    repair_advice,
)
from parfocal.store.set import open_set
from parfocal.store.tokens import SlideTokens
from parfocal.store.write import SlideWriter

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
    """How much of the finest magnification is read, and in which order.

    Attributes:
        policy: what the order is called.
        prepare: gives the order, a function from a glance to all planned fine tiles, the first to be looked at first,
            with what they are worth where `shares` needs it. Each process of a run calls it once; so it can be pickled,
            and what it loads need not.
        budget: the share of each slide's planned fine tiles that is read; with `stop` the most that is; with `shares`
            the share of those of all slides.
        seed: of policies that draw.
        bound: the digest of the model or head that the policy asks, of several joined by +; empty where it asks none.
        draws: whether the seed matters; else it is neither kept nor compared.
        stop: when reading ends before; None where the budget is always spent.
        shares: where the budget is of all slides that are given together, what it comes to for each of them, as far as
            that is known; the others are read coarsely until it is. None where each slide is read to the budget.
    """

    policy: str
    prepare: Callable[[], Callable[[Glance], TileOrder | Ranked]]
    budget: float
    seed: int = 0
    bound: str = ""
    draws: bool = False
    stop: Stop | None = None
    shares: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.stop is not None and self.shares is not None:
            raise ConfigError(
                "a budget of all slides together is not for reading until a slide is settled, which has a promise for "
                "each slide. Use one of the two."
            )
        if not 0 <= self.budget <= 1:
            raise ConfigError(f"--budget {self.budget:g} is no share. Use one from 0 to 1, such as 0.1.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is below 0. Use a whole number from 0 on.")

    @cached_property
    def order(self) -> Callable[[Glance], TileOrder | Ranked]:
        """The order, prepared in this process."""
        return self.prepare()

    @property
    def reads_all(self) -> bool:
        """Whether every slide is read whole."""
        return self.budget >= 1 and self.stop is None

    def budget_of(self, slide: str) -> float:
        """The share of a slide's planned fine tiles that is read; with `stop` the most that is."""
        return self.budget if self.shares is None or self.reads_all else self.shares.get(slide, 0.0)

    def rounds(self, slide: str) -> tuple[float, ...]:
        """The shares that are read one after the other: all rungs below the slide's budget, and that."""
        most = self.budget_of(slide)
        return (*(rung for rung in (self.stop.rungs if self.stop else ()) if rung < most), most)

    def attributes(self, budget: float, *, is_settled: bool = False) -> dict[str, Any]:
        """What a slide's index keeps of it.

        Args:
            budget: the share of the slide that was read.
            is_settled: whether reading ended by `stop`.
        """
        own = {POLICY: self.policy, BUDGET: budget, BOUND: self.bound} | ({SEED: self.seed} if self.draws else {})
        own |= {} if self.shares is None else {TOTAL: self.budget}
        return own | ({RULE: self.stop.rule, SETTLED: is_settled} if self.stop else {})

    def has_read(self, slide: str, stored: Mapping[str, Any]) -> bool:
        """Whether a slide has been read as far as is asked, by what its index keeps."""
        if self.shares is not None and self.reads_all:
            return not in_part(stored)
        is_settled = self.stop is not None and bool(stored.get(SETTLED))
        return self.budget_of(slide) <= float(stored.get(BUDGET, 1.0)) or is_settled

    def ordered(self, glance: Glance) -> Ranked:
        """The order of a slide's tiles, and with `shares` what they are worth.

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
        return ranked

    def check(self, slide: str, stored: Mapping[str, Any], anew: str) -> None:
        """Refuse to go on with a slide that another policy or rule, or a larger budget, has read in part.

        Raises:
            MismatchError: one has.
        """
        if not in_part(stored):
            return
        kept = {name: value for name, value in stored.items() if name != SEED or self.draws}
        was, now = map(_called, (kept, self.attributes(self.budget)))
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


def _called(attributes: Mapping[str, Any]) -> str:
    """A policy with all that decides its order, from what an index keeps of it."""
    given = [f"the seed {attributes[SEED]}"] if SEED in attributes else []
    if attributes.get(BOUND):
        given.append(f"the head or model {attributes[BOUND]}")
    called = str(attributes[POLICY]) + (f" with {' and '.join(given)}" if given else "")
    called += f", until settled by the head {attributes[RULE]}" if RULE in attributes else ""
    return called + (" over all slides together" if TOTAL in attributes else "")


def zoomable(settings: EmbedSettings) -> EmbedSettings:
    """The same settings, with coarse tiles from the slide's own levels.

    Raises:
        ConfigError: there is one magnification, regions overlap, or coarse tiles are to be averaged from fine ones.
    """
    if len(settings.grid.mpps) < 2:
        raise ConfigError("--zoom looks at coarser magnifications first, and one alone is asked. Name more (--mpps).")
    if settings.places is not None or settings.grid.overlaps:
        raise ConfigError("--zoom chooses among regions side by side: leave --places and --stride-um out.")
    if settings.coarse == "derived":
        raise ConfigError(
            "--zoom looks at coarser magnifications before the finest one is read, and --coarse derived makes them of "
            "it. Leave --coarse out."
        )
    return settings.model_copy(update={"coarse": "native"})


def warn_of_missing_levels(slide: Slide, plan: RegionPlan) -> None:
    """Say so where a slide has no coarser level, so that its level 0 is read whole whatever is chosen."""
    corner = Box(0.0, 0.0, plan.grid.region_um, plan.grid.region_um)
    without = [mpp for mpp in plan.grid.mpps[:-1] if tile_window(slide, corner, mpp=mpp)[0] == 0]
    if without:
        names = " and ".join(map(format_mpp, without))
        warnings.warn(
            f"{slide.name} has no level of its own for {names} mpp, so its level 0 is read everywhere for it: "
            "--zoom saves encoding tiles of this slide, and no reading.",
            ParfocalWarning,
            stacklevel=2,
        )


def in_part(stored: Mapping[str, Any]) -> bool:
    """Whether the slide of an index was read in part; one that a rule or a total has read whole counts."""
    return min(float(stored.get(BUDGET, 1.0)), float(stored.get(TOTAL, 1.0))) < 1 or RULE in stored


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


def as_word(stored: Mapping[str, Any]) -> str:
    """How the policy of a slide's index is asked for."""
    if RULE in stored:
        return f"predict and the head {stored[RULE]}"
    bound = str(stored.get(BOUND, ""))
    return f"--zoom {stored[POLICY]}" + ("=" + ",".join("FOLDER" for _ in bound.split("+")) if bound else "")


def as_rest(stored: Mapping[str, Any]) -> str:
    """How the rest of the slide of an index is asked for; one that was read until it was settled has none."""
    if RULE in stored:
        return f"It was read until settled by the head {stored[RULE]}, and nothing reads the rest: use another store"
    budget = "--budget-total" if TOTAL in stored else "--budget"
    return f"Read the rest with {as_word(stored)} {budget} 1, use another store"


def glance_of(
    plan: RegionPlan,
    slide: str,
    coarse: Mapping[float, Float[np.ndarray, "_tile _dim"]],
    absent: Mapping[float, Mapping[int, str]],
    seed: int,
) -> Glance:
    """What is known of a planned slide when its coarser magnifications have been encoded.

    Args:
        plan: the plan of all magnifications.
        slide: the slide's id.
        coarse: per coarser magnification, a row for each planned tile that is not absent, as stored.
        absent: per magnification, the planned tiles that are absent.
        seed: of the run.
    """
    placed = {mpp: plan.tiles(mpp) for mpp in plan.grid.mpps}
    there = {mpp: np.setdiff1d(np.arange(len(placed[mpp])), list(absent.get(mpp, ()))) for mpp in coarse}
    tokens = SlideTokens(
        slide,
        plan.grid.region_um,
        plan.slide_mpp,
        plan.region_xy_um(),
        {mpp: rows.astype(np.float32) for mpp, rows in coarse.items()},
        {mpp: placed[mpp].region[rows] for mpp, rows in there.items()},
        {mpp: placed[mpp].center_um[rows] for mpp, rows in there.items()},
    )
    finest = min(plan.grid.mpps)
    fine, tissue = placed[finest], plan.tissue_of_tiles(finest).astype(np.float64)
    return Glance(tokens, fine.region, fine.center_um, finest, tissue, seed)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The rows of a slide that has been read in part.

    Attributes:
        rows: per magnification, as stored.
        absent: per magnification, which of the planned tiles are absent, and why.
        is_read: which of the planned fine tiles have been read; those that are absent among them.
    """

    rows: Mapping[float, Float[np.ndarray, "_tile _dim"]]
    absent: Mapping[float, Mapping[int, str]]
    is_read: Bool[np.ndarray, " tile"]


def stored_rows_of(set_path: Path, slide: str, planned: Mapping[float, PlannedTiles]) -> StoredRows:
    """What a set has of a slide that has been read in part, by the numbers of its planned tiles.

    Raises:
        StoreError: a file is damaged, or it holds other tiles than are planned now.
    """
    path = index_path(set_path, slide)
    rows = open_set(set_path).read(slide).features
    absent, unread = dict[float, dict[int, str]](), dict[float, list[int]]()
    with opened_h5(path, f"Remove it to embed {slide} anew.") as index:
        for mpp, tiles in planned.items():
            group = index[format_mpp(mpp)]
            number = {tuple(place): row for row, place in enumerate(tiles.coords_l0px.tolist())}
            lost = [number.get(tuple(place), -1) for place in _coords(group, "absent_coords")]
            why = group["absent_reason"].asstr()[...].tolist() if lost else []
            absent[mpp] = dict(zip(lost, why, strict=True))
            unread[mpp] = [number.get(tuple(place), -1) for place in _coords(group, "unread_coords")]
    for mpp, tiles in planned.items():
        others = {*absent[mpp], *unread[mpp]}
        there = np.setdiff1d(np.arange(len(tiles)), list(others))
        features = features_path(set_path, slide, mpp)
        with opened_h5(features, repair_advice(set_path, slide)) as file:
            coords = file["coords"][...]
        if -1 in others or not np.array_equal(coords, tiles.coords_l0px[there]):
            raise StoreError(
                f"cannot go on with {slide}: {path} has other tiles than are planned now. "
                "Remove it to embed the slide anew."
            )
    is_read = np.ones(len(planned[min(planned)]), dtype=bool)
    is_read[unread[min(planned)]] = False
    return StoredRows(rows, {mpp: found for mpp, found in absent.items() if found}, is_read)


def _coords(group: h5py.Group, name: str) -> list[list[int]]:
    found: list[list[int]] = group[name][...].tolist() if name in group else []
    return found


@dataclass(frozen=True, eq=False)
class Reached:
    """How far a slide has been read.

    Attributes:
        unread: the numbers of the planned fine tiles that are not read.
        budget: the share that is.
        is_settled: whether reading ended before the budget was spent.
        worth: of all planned fine tiles as they are ordered, where the policy says so.
    """

    unread: Int64[np.ndarray, " tile"]
    budget: float
    is_settled: bool
    worth: Float[np.ndarray, " planned"] | None = None


def append_zoomed(writer: SlideWriter, tiles: TileRows, zoom: Zoom, before: StoredRows | None, slide: str) -> Reached:
    """Write the coarser magnifications of a slide, and of the finest one what the policy puts first.

    Args:
        writer: of the slide, with all planned tiles announced.
        tiles: reads and encodes them.
        zoom: the policy, its budget, and when reading ends before.
        before: what a smaller budget has read, which is not read again.
        slide: the slide's id.

    Raises:
        UnreadableSlideError: the slide cannot be read, or more of a part of its tiles are absent than may be.
        StoreError: what was read before is not what the policy puts first now.
    """
    plan = tiles.plan
    *coarser, finest = plan.grid.mpps
    n_fine, is_read = plan.n_tiles(finest), np.zeros(plan.n_tiles(finest), dtype=bool)
    budget, rounds = zoom.budget_of(slide), zoom.rounds(slide)
    if before is None:
        n_coarse = {mpp: plan.n_tiles(mpp) for mpp in coarser}
        tiles.expect({**n_coarse, finest: n_chosen(n_fine, rounds[0])})
        parts = {mpp: [np.zeros((0, tiles.dim(mpp)), np.float32)] for mpp in coarser}
        for mpp, own in tiles.read({mpp: np.ones(n, dtype=bool) for mpp, n in n_coarse.items()}):
            parts[mpp].append(writer.append(mpp, own).astype(np.float32))
        coarse = {mpp: np.concatenate(own) for mpp, own in parts.items()}
    else:
        tiles.absent.update({mpp: dict(found) for mpp, found in before.absent.items()})
        coarse, is_read = {mpp: before.rows[mpp] for mpp in coarser}, before.is_read.copy()
        for mpp, own in coarse.items():
            writer.append(mpp, own)
    glance = glance_of(plan, slide, coarse, tiles.absent, zoom.seed)
    ranked = zoom.ordered(glance)
    order, worth = ranked.order, None if zoom.shares is None else ranked.worth
    if (is_read & ~chosen(order, budget)).any():
        raise StoreError(
            f"cannot go on with {slide}: the policy {zoom.policy} does not put those tiles first that have been read. "
            "Its model or this program has changed; use another store."
        )
    if before is None and zoom.stop is None:
        # Rows go to the file as they come.
        is_chosen = chosen(order, budget)
        for _, own in tiles.read({finest: is_chosen}):
            writer.append(finest, own)
        return Reached(np.flatnonzero(~is_chosen), budget, is_settled=False, worth=worth)
    # Rows of several rounds take turns in the file.
    known = _FineRows(tiles, finest, is_read, before.rows[finest] if before else None, writer)
    is_settled = zoom.stop.question(glance) if zoom.stop else None
    for rung, share in enumerate(rounds):
        if n_chosen(n_fine, share) < known.is_read.sum():
            continue  # it was asked when so few had been read
        known.read_to(chosen(order, share))
        if is_settled is not None and share < budget and is_settled(*known.rows(), ~known.is_read, rung):
            break
    writer.append(finest, known.rows()[0])
    return Reached(np.flatnonzero(~known.is_read), share, is_settled=share < budget, worth=worth)


class _FineRows:
    """The rows of a slide's finest tiles that have been read, some before and some in rounds."""

    def __init__(
        self,
        tiles: TileRows,
        mpp: float,
        is_read: Bool[np.ndarray, " tile"],
        before: Float[np.ndarray, "read dim"] | None,
        writer: SlideWriter,
    ) -> None:
        self._tiles, self._mpp, self._writer, self.is_read = tiles, mpp, writer, is_read
        self._rows = [np.zeros((0, tiles.dim(mpp)), np.float32) if before is None else before]
        self._at = [self._there(is_read)]

    def read_to(self, wanted: Bool[np.ndarray, " tile"]) -> None:
        """Read those of the wanted tiles that have not been read."""
        more = wanted & ~self.is_read
        self._tiles.expect({self._mpp: int(more.sum())})
        self._rows += [self._writer.as_stored(self._mpp, own) for _, own in self._tiles.read({self._mpp: more})]
        self.is_read |= more
        self._at.append(self._there(more))

    def rows(self) -> tuple[Float[np.ndarray, "there dim"], Bool[np.ndarray, " tile"]]:
        """The rows as stored, in the order of the tiles, and which tiles they are."""
        at = np.concatenate(self._at)
        there = np.zeros(len(self.is_read), dtype=bool)
        there[at] = True
        return np.concatenate(self._rows)[np.argsort(at)], there

    def _there(self, read: Bool[np.ndarray, " tile"]) -> Int64[np.ndarray, " read"]:
        return np.setdiff1d(np.flatnonzero(read), list(self._tiles.absent.get(self._mpp, ())))
