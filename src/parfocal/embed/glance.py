"""What is known of a slide before a finer magnification of it is read, and how much of an order a budget pays for.

A budget is a prefix of an order, so what a small budget reads a larger one reads too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64

from parfocal.store.tokens import SlideTokens


@dataclass(frozen=True, eq=False)
class Glance:
    """What a policy knows of a slide before a magnification of it is read.

    That is the finest one, where no other is chosen before it. The magnifications before may have been read in part.

    Attributes:
        coarse: the embeddings of the coarser magnifications alone; a region may have no tile in some of them.
        region: the number of each planned fine tile's region in `coarse`, never falling.
        center_um: each fine tile's centre about its region's centre, in micrometres.
        mpp: micrometres per pixel of the fine tiles.
        tissue: share of each fine tile that is tissue, 0 to 1.
        seed: of the run; policies that draw mix it with the slide's id.

    Raises:
        ValueError: the tiles' region, centre and tissue differ in length, regions fall or do not exist, a share is
            outside 0 to 1, or `coarse` holds a magnification that is not coarser.
    """

    coarse: SlideTokens
    region: Int32[np.ndarray, " tile"]
    center_um: Float32[np.ndarray, "tile 2"]
    mpp: float
    tissue: Float64[np.ndarray, " tile"]
    seed: int

    def __post_init__(self) -> None:
        region, slide = self.region, self.coarse.slide
        if not len(region) == len(self.center_um) == len(self.tissue):
            raise ValueError(
                f"region, center_um and tissue of {slide} are of {len(region)}, {len(self.center_um)} and "
                f"{len(self.tissue)} tiles; they describe the same ones"
            )
        if len(region) and (region[0] < 0 or region[-1] >= self.coarse.n_regions or np.any(np.diff(region) < 0)):
            raise ValueError(f"the planned tiles of {slide} are not in the order of its regions")
        if not ((self.tissue >= 0) & (self.tissue <= 1)).all():
            raise ValueError(f"the tissue of {slide} is not a share between 0 and 1 in every tile")
        if any(mpp <= self.mpp for mpp in self.coarse.mpps):
            raise ValueError(
                f"{slide} has embeddings at {self.coarse.mpps[-1]:g} mpp; what is looked at before tiles of "
                f"{self.mpp:g} mpp are read is coarser than these"
            )

    @property
    def n_tiles(self) -> int:
        """How many fine tiles are planned."""
        return len(self.region)

    @property
    def xy_um(self) -> Float64[np.ndarray, "tile 2"]:
        """The centre of each fine tile in the slide's frame, in micrometres."""
        middle = self.coarse.region_xy_um + self.coarse.region_um / 2
        return np.asarray(middle[self.region] + self.center_um)

    def generator(self) -> np.random.Generator:
        """Random numbers of the run for this slide, whatever other slides there are and in which order."""
        of_slide = int.from_bytes(sha256(self.coarse.slide.encode()).digest()[:8], "big")
        return np.random.default_rng([self.seed, 31, of_slide])


TileOrder = Int64[np.ndarray, " tile"]
"""The numbers of all planned tiles of a slide, the first to be read first."""


def n_chosen(n_tiles: int, budget: float) -> int:
    """How many tiles a budget pays for: its share of them rounded to the nearest number, a half upwards.

    A budget above 0 pays for at least one tile, where there is one: a slide of 20 tiles is looked at closely even at
    one per cent.

    Args:
        n_tiles: of the slide.
        budget: share of them, 0 (none) to 1 (all).

    Raises:
        ValueError: the budget is not a share.
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget={budget:g} is not a share between 0 and 1")
    # Rounded before: .285 times 1000 is a little less than 285 in binary, and a half must stay a half.
    nearest = math.floor(round(budget * n_tiles, 9) + 0.5)
    return min(max(nearest, int(budget > 0)), n_tiles)


def chosen(order: TileOrder, budget: float) -> Bool[np.ndarray, " tile"]:
    """Which tiles a budget reads: the first `n_chosen` of the order. Those of a smaller budget are among them.

    Args:
        order: as a policy gives it.
        budget: share of the tiles, 0 (none) to 1 (all).

    Raises:
        ValueError: the budget is not a share.
    """
    read = np.zeros(len(order), dtype=bool)
    read[order[: n_chosen(len(order), budget)]] = True
    return read


def known_first(order: TileOrder, glance: Glance, mpp: float) -> TileOrder:
    """An order with the tiles first of whose region a tile of a coarser magnification is known, else as it was."""
    is_known = np.isin(glance.region, glance.coarse.region[mpp])
    return np.asarray(order)[np.argsort(~is_known[order], kind="stable")]


@dataclass(frozen=True, eq=False)
class ReadSoFar:
    """What has been read of a slide's tiles when a round of reading ends.

    Attributes:
        glance: what was known of the slide before.
        order: of all planned tiles, as they have been read and would be read.
        n_read: how many of the first of them have been read.
        n_before: how many of these were before the last round.
        there: which of the planned tiles have rows; one that has been read and is absent has none.
        rows: of these tiles, as they are stored, so that they are the same when a store goes on.
    """

    glance: Glance
    order: TileOrder
    n_read: int
    n_before: int
    there: Bool[np.ndarray, " tile"]
    rows: Float32[np.ndarray, "there dim"]

    @property
    def left(self) -> Int[np.ndarray, " left"]:
        """The numbers of the tiles that have not been read, rising."""
        return np.sort(self.order[self.n_read :])

    @property
    def touched(self) -> Int32[np.ndarray, " region"]:
        """The numbers of the regions of which the last round has read a tile."""
        return np.unique(self.glance.region[self.order[self.n_before : self.n_read]])

    @property
    def n_there(self) -> Int[np.ndarray, " region"]:
        """How many tiles of each region have rows."""
        return np.bincount(self.glance.region[self.there], minlength=self.glance.coarse.n_regions)

    def tokens(self, regions: Int[np.ndarray, " region"]) -> SlideTokens:
        """What is known of the slide by now: its coarser tiles, and of some regions the tiles that have been read."""
        glance, mpp = self.glance, self.glance.mpp
        coarse, of_row = glance.coarse, glance.region[self.there]
        some = np.isin(of_row, regions)
        return replace(
            coarse,
            features={**coarse.features, mpp: self.rows[some]},
            region={**coarse.region, mpp: of_row[some]},
            center_um={**coarse.center_um, mpp: glance.center_um[self.there][some]},
        )


@dataclass(frozen=True, eq=False)
class Ranked:
    """An order of a slide's tiles, and what reading each of them is worth where that can be compared between slides.

    Attributes:
        order: of all planned tiles, or of all that are left.
        worth: of the tiles as they are ordered, in one unit on all slides; it never rises, and is -inf where nothing
            is known. None where a tile of one slide cannot be compared with one of another.
        goes_on: gives the order of the tiles that are left, by what has been read; it is asked once, when the next
            round has been read. None where the order stays as it is.

    Raises:
        ValueError: there is not one worth for each tile, one is no number or infinite, or they rise; or the order goes
            on, so that worth is not known beforehand.
    """

    order: TileOrder
    worth: Float64[np.ndarray, " tile"] | None = None
    goes_on: "Callable[[ReadSoFar], Ranked] | None" = None

    def __post_init__(self) -> None:
        worth = self.worth
        if worth is not None and self.goes_on is not None:
            raise ValueError("what tiles are worth is not known beforehand where their order depends on what is read")
        if worth is not None and (
            worth.shape != np.shape(self.order) or not (worth < np.inf).all() or (worth[1:] > worth[:-1]).any()
        ):
            raise ValueError(
                "the worth of tiles is one number below infinity for each as they are ordered, never rising"
            )

    @staticmethod
    def by(order: TileOrder, worth: Float64[np.ndarray, " tile"]) -> "Ranked":
        """An order with the worth of each tile by its number.

        Where one that comes later is worth more, it counts as much as those before it: it is not read without them.

        Args:
            order: of all planned tiles.
            worth: of tile 0, 1 and so on; one that is no number is known nothing of.
        """
        return Ranked(order, np.minimum.accumulate(np.where(np.isnan(worth), -np.inf, worth)[order]))

    @staticmethod
    def of(found: "TileOrder | Ranked") -> "Ranked":
        """An order as it is, or without worth."""
        return found if isinstance(found, Ranked) else Ranked(found)

    def changed(self, change: Callable[[TileOrder], TileOrder]) -> "Ranked":
        """The same with every order changed, without worth."""
        goes_on = self.goes_on
        return Ranked(
            change(self.order), goes_on=None if goes_on is None else lambda so_far: goes_on(so_far).changed(change)
        )


def is_order(order: TileOrder, n_tiles: int) -> bool:
    """Whether every tile is named once."""
    numbers = np.asarray(order)
    return numbers.shape == (n_tiles,) and np.array_equal(np.sort(numbers), np.arange(n_tiles))
