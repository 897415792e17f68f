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

from parfocal.embed.glance import Glance, TileOrder, chosen, is_order, n_chosen
from parfocal.embed.reading import TileRows
from parfocal.embed.settings import EmbedSettings
from parfocal.errors import ConfigError, MismatchError, ParfocalError, ParfocalWarning, StoreError
from parfocal.geometry import Box, format_mpp
from parfocal.regions import PlannedTiles, RegionPlan
from parfocal.slides import Slide, tile_window
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import BOUND, BUDGET, POLICY, SEED, features_path, index_path, repair_advice
from parfocal.store.set import open_set
from parfocal.store.tokens import SlideTokens
from parfocal.store.write import SlideWriter


@dataclass(frozen=True, eq=False)
class Zoom:
    """How much of the finest magnification is read, and in which order.

    Attributes:
        policy: what the order is called.
        prepare: gives the order, a function from a glance to all planned fine tiles, the first to be looked at first.
            Each process of a run calls it once; so it can be pickled, and what it loads need not.
        budget: the share of each slide's planned fine tiles that is read.
        seed: of policies that draw.
        bound: the digest of the model or head that the policy asks; empty where it asks none.
    """

    policy: str
    prepare: Callable[[], Callable[[Glance], TileOrder]]
    budget: float
    seed: int = 0
    bound: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise ConfigError(f"--budget {self.budget:g} is no share. Use one from 0 to 1, such as 0.1.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is below 0. Use a whole number from 0 on.")

    @cached_property
    def order(self) -> Callable[[Glance], TileOrder]:
        """The order, prepared in this process."""
        return self.prepare()

    def attributes(self) -> dict[str, Any]:
        """What a slide's index keeps of it."""
        return {POLICY: self.policy, BUDGET: self.budget, SEED: self.seed, BOUND: self.bound}

    def chosen(self, glance: Glance) -> Bool[np.ndarray, " tile"]:
        """The tiles that are read: as many of the first as the budget pays for.

        Raises:
            ParfocalError: the policy gives something else than an order of the tiles.
        """
        order = self.order(glance)
        if not is_order(order, glance.n_tiles):
            raise ParfocalError(
                f"the policy {self.policy} does not name each of the {glance.n_tiles} tiles of "
                f"{glance.coarse.slide} once."
            )
        return chosen(order, self.budget)

    def check(self, slide: str, stored: Mapping[str, Any], anew: str) -> None:
        """Refuse to go on with a slide that another policy, or a larger budget, has read in part.

        Raises:
            MismatchError: one has.
        """
        if stored.get(BUDGET, 1.0) >= 1:
            return
        found = stored[POLICY], stored[SEED], stored[BOUND]
        if found != (self.policy, self.seed, self.bound):
            was, now = (
                f"{policy} with the seed {seed}" + (f" and the head or model {bound}" if bound else "")
                for policy, seed, bound in (found, (self.policy, self.seed, self.bound))
            )
            raise MismatchError(
                f"{slide} is in the store as the policy {was} has read it, and {now} is asked now. Ask for the same, "
                f"use another store, or {anew}."
            )
        if stored[BUDGET] > self.budget:
            raise MismatchError(
                f"{slide} is in the store with a budget of {stored[BUDGET]:g} by the policy {found[0]}, and "
                f"{self.budget:g} is asked now. Ask for at least as much, use another store, or {anew}."
            )


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


def is_read(set_path: Path, slide: str, zoom: Zoom | None) -> bool:
    """Whether a set has a slide, with as much of it as is asked."""
    path = index_path(set_path, slide)
    if zoom is None or not path.is_file():
        return path.is_file()
    try:
        with opened_h5(path) as index:
            return zoom.budget <= float(index.attrs.get(BUDGET, 1.0))
    except StoreError:  # told where the slide is asked for
        return True


def as_word(stored: Mapping[str, Any]) -> str:
    """How the policy of a slide's index is asked for."""
    return f"--zoom {stored[POLICY]}" + ("=FOLDER" if stored.get(BOUND) else "")


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
    fine = placed[finest]
    edges = np.concatenate([fine.xy_um, fine.xy_um + plan.grid.tile_um(finest)], axis=1)
    return Glance(tokens, fine.region, fine.center_um, finest, np.clip(plan.tissue.shares(edges), 0, 1), seed)


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


def append_zoomed(
    writer: SlideWriter, tiles: TileRows, zoom: Zoom, before: StoredRows | None, slide: str
) -> dict[float, Int64[np.ndarray, " tile"]]:
    """Write the coarser magnifications of a slide, and of the finest one what the policy puts first.

    Args:
        writer: of the slide, with all planned tiles announced.
        tiles: reads and encodes them.
        zoom: the policy and its budget.
        before: what a smaller budget has read, which is not read again.
        slide: the slide's id.

    Returns:
        The numbers of the planned fine tiles that are not read.

    Raises:
        UnreadableSlideError: the slide cannot be read, or more of a part of its tiles are absent than may be.
        StoreError: what was read before is not what the policy puts first now.
    """
    plan = tiles.plan
    *coarser, finest = plan.grid.mpps
    n_fine = plan.n_tiles(finest)
    if before is None:
        n_coarse = {mpp: plan.n_tiles(mpp) for mpp in coarser}
        tiles.expect({**n_coarse, finest: n_chosen(n_fine, zoom.budget)})
        parts = {mpp: [np.zeros((0, tiles.dim(mpp)), np.float32)] for mpp in coarser}
        for mpp, own in tiles.read({mpp: np.ones(n, dtype=bool) for mpp, n in n_coarse.items()}):
            parts[mpp].append(writer.append(mpp, own).astype(np.float32))
        coarse = {mpp: np.concatenate(own) for mpp, own in parts.items()}
        is_read, known = np.zeros(n_fine, dtype=bool), np.zeros((0, tiles.dim(finest)), np.float32)
    else:
        tiles.absent.update({mpp: dict(found) for mpp, found in before.absent.items()})
        coarse, is_read, known = {mpp: before.rows[mpp] for mpp in coarser}, before.is_read, before.rows[finest]
        tiles.expect({finest: n_chosen(n_fine, zoom.budget) - int(is_read.sum())})
        for mpp, own in coarse.items():
            writer.append(mpp, own)
    is_chosen = zoom.chosen(glance_of(plan, slide, coarse, tiles.absent, zoom.seed))
    if (is_read & ~is_chosen).any():
        raise StoreError(
            f"cannot go on with {slide}: the policy {zoom.policy} does not put those tiles first that have been read. "
            "Its model or this program has changed; use another store."
        )
    known_at = np.setdiff1d(np.flatnonzero(is_read), list(tiles.absent.get(finest, ())))
    wanted = is_chosen & ~is_read
    if len(known_at):
        # Rows of before and new ones take turns, and which of these are absent is known when all are read.
        added = [known, *(own for _, own in tiles.read({finest: wanted}))]
        added_at = np.setdiff1d(np.flatnonzero(wanted), list(tiles.absent.get(finest, ())))
        writer.append(finest, np.concatenate(added)[np.argsort(np.concatenate([known_at, added_at]))])
    else:
        for _, own in tiles.read({finest: wanted}):
            writer.append(finest, own)
    return {finest: np.flatnonzero(~is_chosen)}
