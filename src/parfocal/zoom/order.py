"""Orders of tiles that are made of what regions are worth."""

import numpy as np
from jaxtyping import Float64

from parfocal.embed.glance import Glance, Ranked, TileOrder


def best_regions_first(worth: Float64[np.ndarray, " region"], glance: Glance) -> Ranked:
    """All tiles of the region that is worth most, then those of the next; equal ones by their number.

    A tile is worth what its region is, over the number of its tiles.

    Args:
        worth: of every region; one that is no number comes last, because nothing is known of it.
        glance: whose tiles are ordered.
    """
    known = np.where(np.isnan(worth), -np.inf, worth)
    # Stable: the tiles of a region stay in their order, and regions are in theirs where they are worth the same.
    order = np.argsort(-known[glance.region], kind="stable")
    return Ranked.by(order, known[glance.region] / np.bincount(glance.region)[glance.region])


def best_tiles_first(
    worth: Float64[np.ndarray, " region"], glance: Glance, spread: TileOrder, *, noise: float
) -> Ranked:
    """The tile first that adds most to what is known: a second tile of a region adds less than its first one.

    Of what a region is worth, squared, the share s of its tiles tells s / (s + noise), as the mean of noisy readings of
    one number does. So regions that are worth much are read further than others, and none needs to be finished before
    others are begun. A tile is worth what it adds, in the square of the unit.

    Args:
        worth: of every region, as if what its tiles have in common were known; one that is no number comes last.
        glance: whose tiles are ordered.
        spread: an order of all tiles, such as a stride; tiles of one region are read in it, and equal ones by region.
        noise: of the mean of all tiles of a region, over what they have in common; 0 or more.
    """
    place = np.empty(glance.n_tiles, dtype=np.int64)
    place[spread] = np.arange(glance.n_tiles)
    inside = np.lexsort((place, glance.region))  # by region, in each as `spread` has it
    region = glance.region[inside]
    of_region = np.bincount(region, minlength=len(worth))
    before = (np.arange(len(region)) - (np.cumsum(of_region) - of_region)[region]) / of_region[region]
    after = before + 1 / of_region[region]
    # As a difference it would be rounding where both shares are nearly told.
    gain = noise * (after - before) / np.maximum((after + noise) * (before + noise), 1e-300)
    gain = np.where((noise == 0) & (before == 0), 1.0, gain)
    adds = np.where(np.isnan(worth[region]), -np.inf, worth[region] ** 2 * gain)
    first = np.argsort(-adds, kind="stable")
    return Ranked(inside[first], adds[first])
