"""What of a slide was read by choice, where not all of it was: by which policy, which shares, and what was left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from scipy.spatial import KDTree

from parfocal.geometry import format_mpp, lattice_um
from parfocal.store.layout import BUDGET, COARSER, POLICY
from parfocal.store.slide_index import SlideIndex


@dataclass(frozen=True)
class Reading:
    """How a slide was read in part.

    Attributes:
        policy: what chose.
        budget: the share of the planned finest tiles that was read.
        coarser: the shares of the magnifications before the finest one of which a part was read, coarse to fine; those
            before them were read whole.
    """

    policy: str
    budget: float
    coarser: tuple[float, ...] = ()

    @staticmethod
    def of(stored: Mapping[str, Any]) -> "Reading | None":
        """What the index of a slide keeps of it; None where all was read."""
        budget, coarser = float(stored.get(BUDGET, 1.0)), tuple(map(float, stored.get(COARSER, ())))
        return Reading(str(stored[POLICY]), budget, coarser) if budget < 1 or coarser else None

    @property
    def shares(self) -> str:
        """The shares as they are asked for, coarse to fine."""
        return shares_text(self.budget, self.coarser)


def shares_text(budget: float, coarser: Sequence[float]) -> str:
    """Shares of magnifications as they are asked for, coarse to fine, such as `0.3 0.1`."""
    return " ".join(f"{share:g}" for share in (*coarser, budget))


def unread_tiles(
    index: SlideIndex, mpp: float, tile_px: int
) -> tuple[Int32[np.ndarray, " tile"], Float32[np.ndarray, "tile 2"]]:
    """The planned tiles of a magnification that were not read by choice, from the index of a slide.

    Args:
        index: of the slide.
        mpp: of the tiles.
        tile_px: their side.

    Returns:
        the number of each one's region, never falling, and its centre about its region's centre in micrometres. Of
        regions of which nothing was read, which are not in the set, no tile is named.
    """
    xy_um = np.asarray(index.values["region_xy_um"], np.float64)
    slide_mpp, region_um = float(index.attrs["slide_mpp"]), float(index.attrs["region_um"])
    unread = index.groups[format_mpp(mpp)].values.get("unread_coords", np.zeros((0, 2)))
    if not len(xy_um) or not len(unread):
        return np.zeros(0, np.int32), np.zeros((0, 2), np.float32)
    side_um = mpp * tile_px
    middle_um = (unread + 0.5) * slide_mpp + side_um / 2
    away, region = KDTree(xy_um + region_um / 2).query(middle_um, p=np.inf)
    lattice = lattice_um(region_um, max(1, round(region_um / side_um)))
    # Stored corners are whole pixels: the place of the lattice that is nearest is the one that was planned.
    _, place = KDTree(lattice).query(middle_um - (xy_um[region] + region_um / 2))
    order = np.lexsort((place, region))
    order = order[away[order] < region_um / 2]
    return region[order].astype(np.int32), lattice[place[order]].astype(np.float32)
