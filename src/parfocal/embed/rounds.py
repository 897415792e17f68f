"""Reading a slide in part: a magnification after the other, and of the finest one round after round."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.embed.glance import Glance, n_chosen
from parfocal.embed.reading import TileRows
from parfocal.embed.stored_part import StoredRows
from parfocal.embed.unfolding import Unfolding
from parfocal.embed.zoom import Zoom
from parfocal.errors import ParfocalWarning, StoreError
from parfocal.geometry import Box, format_mpp
from parfocal.regions import RegionPlan
from parfocal.slides import Slide, tile_window
from parfocal.store.tokens import SlideTokens
from parfocal.store.write import SlideWriter


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


def glance_of(
    plan: RegionPlan,
    slide: str,
    mpp: float,
    coarse: Mapping[float, Float[np.ndarray, "_tile _dim"]],
    without: Mapping[float, Int64[np.ndarray, " _tile"]],
    seed: int,
) -> Glance:
    """What is known of a planned slide before tiles of a magnification are read.

    Args:
        plan: the plan of all magnifications.
        slide: the slide's id.
        mpp: of the tiles that are to be read.
        coarse: per coarser magnification, a row for each planned tile that is there, as stored.
        without: of these magnifications, the numbers of the planned tiles that are not there.
        seed: of the run.
    """
    placed = {one: plan.tiles(one) for one in (*coarse, mpp)}
    there = {one: np.setdiff1d(np.arange(len(placed[one])), without[one]) for one in coarse}
    tokens = SlideTokens(
        slide,
        plan.grid.region_um,
        plan.slide_mpp,
        plan.region_xy_um(),
        {one: rows.astype(np.float32) for one, rows in coarse.items()},
        {one: placed[one].region[rows] for one, rows in there.items()},
        {one: placed[one].center_um[rows] for one, rows in there.items()},
    )
    fine, tissue = placed[mpp], plan.tissue_of_tiles(mpp).astype(np.float64)
    return Glance(tokens, fine.region, fine.center_um, mpp, tissue, seed)


@dataclass(frozen=True, eq=False)
class Reached:
    """How far a slide has been read.

    Attributes:
        unread: of each magnification of which a part is read, the numbers of the planned tiles that are not.
        budget: the share of the finest tiles that is read.
        is_settled: whether reading ended before the budget was spent.
        worth: of all planned finest tiles as they are ordered, where the policy says so.
    """

    unread: Mapping[float, Int64[np.ndarray, " _tile"]]
    budget: float
    is_settled: bool
    worth: Float[np.ndarray, " planned"] | None = None


def append_zoomed(writer: SlideWriter, tiles: TileRows, zoom: Zoom, before: StoredRows | None, slide: str) -> Reached:
    """Write the coarse magnifications of a slide, and of each finer one what the policy puts first, one after another.

    Args:
        writer: of the slide, with all planned tiles announced.
        tiles: reads and encodes them.
        zoom: the policy, its shares, and when reading ends before.
        before: what a smaller budget has read, which is not read again.
        slide: the slide's id.

    Raises:
        UnreadableSlideError: the slide cannot be read, or more of a part of its tiles are absent than may be.
        StoreError: what was read before is not what the policy puts first now.
    """
    plan, mpps = tiles.plan, tiles.plan.grid.mpps
    shares, finest, n_tiles = zoom.shares_of(slide, mpps), mpps[-1], {mpp: plan.n_tiles(mpp) for mpp in mpps}
    budget, rounds = zoom.budget_of(slide), zoom.rounds(slide)
    if before is None:
        tiles.expect({mpp: n_chosen(n, {**shares, finest: rounds[0]}.get(mpp, 1.0)) for mpp, n in n_tiles.items()})
    else:
        tiles.absent.update({mpp: dict(found) for mpp, found in before.absent.items()})
    whole = {mpp: np.ones(n, dtype=bool) for mpp, n in n_tiles.items() if mpp not in shares}
    coarse, unread = _append(writer, tiles, whole, before), dict[float, Int64[np.ndarray, " _tile"]]()
    nothing, after = np.zeros(0, np.int64), None
    for mpp, share in shares.items():
        without = {
            one: np.union1d([*tiles.absent.get(one, ())], unread.get(one, nothing)).astype(np.int64) for one in coarse
        }
        glance = glance_of(plan, slide, mpp, coarse, without, zoom.seed)
        ranked, known = zoom.ordered(glance, after), _KnownRows(tiles, mpp, before, writer)
        order = Unfolding(zoom.policy, glance, ranked)
        if before is not None:
            is_read = before.is_read[mpp]
            if (is_read ^ order.first(int(is_read.sum()), known.read)).any():
                raise StoreError(
                    f"cannot go on with {slide}: the policy {zoom.policy} does not put those tiles first that have "
                    "been read. Its model or this program has changed; use another store."
                )
        if mpp != finest:
            rows, _ = known.read(order.first(n_chosen(n_tiles[mpp], share), known.read))
            coarse[mpp] = writer.append(mpp, rows)
            unread[mpp], after = np.flatnonzero(~known.is_read), mpp
    worth = None if zoom.shares is None else ranked.worth
    if before is None and zoom.stop is None and ranked.goes_on is None:
        # Rows go to the file as they come.
        is_chosen = order.first(n_chosen(n_tiles[finest], budget), known.read)
        for _, own in tiles.read({finest: is_chosen}):
            writer.append(finest, own)
        return Reached({**unread, finest: np.flatnonzero(~is_chosen)}, budget, is_settled=False, worth=worth)
    # Rows of several rounds take turns in the file.
    is_settled = zoom.stop.question(glance) if zoom.stop else None
    for rung, share in enumerate(rounds):
        n = n_chosen(n_tiles[finest], share)
        if n < known.is_read.sum():
            continue  # it was asked when so few had been read
        tiles.expect({finest: n - int(known.is_read.sum())})
        rows, there = known.read(order.first(n, known.read))
        if is_settled is not None and share < budget and is_settled(rows, there, ~known.is_read, rung):
            break
    writer.append(finest, rows)
    unread[finest] = np.flatnonzero(~known.is_read)
    return Reached(unread, share, is_settled=share < budget, worth=worth)


def _append(
    writer: SlideWriter, tiles: TileRows, wanted: Mapping[float, Bool[np.ndarray, " _tile"]], before: StoredRows | None
) -> dict[float, Float[np.ndarray, "_tile _dim"]]:
    """Write the wanted tiles of some magnifications, from what was read before or as they come, and give them back."""
    if before is not None:
        return {mpp: writer.append(mpp, before.rows[mpp]) for mpp in wanted}
    parts = {mpp: [np.zeros((0, tiles.dim(mpp)), np.float32)] for mpp in wanted}
    for mpp, own in tiles.read(wanted):
        parts[mpp].append(writer.append(mpp, own).astype(np.float32))
    return {mpp: np.concatenate(own) for mpp, own in parts.items()}


class _KnownRows:
    """The rows of a slide's tiles of one magnification that have been read, some before and some in rounds."""

    def __init__(self, tiles: TileRows, mpp: float, before: StoredRows | None, writer: SlideWriter) -> None:
        self._tiles, self._mpp, self._writer = tiles, mpp, writer
        shape = (tiles.plan.n_tiles(mpp), tiles.dim(mpp))
        self._rows = np.empty(shape, writer.as_stored(mpp, np.zeros((0, shape[1]), np.float32)).dtype)
        self.is_read = np.zeros(shape[0], dtype=bool)
        if before is not None:
            self.is_read |= before.is_read[mpp]
            self._rows[self._there(self.is_read)] = before.rows[mpp]

    def read(
        self, wanted: Bool[np.ndarray, " tile"]
    ) -> tuple[Float[np.ndarray, "there dim"], Bool[np.ndarray, " tile"]]:
        """The rows of the wanted tiles as stored, and which tiles they are; those that have not been read are read."""
        more = wanted & ~self.is_read
        found = [self._writer.as_stored(self._mpp, own) for _, own in self._tiles.read({self._mpp: more})]
        if found:
            self._rows[self._there(more)] = np.concatenate(found)
        self.is_read |= more
        there = self._there(wanted)
        return self._rows[there], there

    def _there(self, read: Bool[np.ndarray, " tile"]) -> Bool[np.ndarray, " tile"]:
        there = read.copy()
        there[list(self._tiles.absent.get(self._mpp, ()))] = False
        return there
