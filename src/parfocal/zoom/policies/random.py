"""At random: single tiles, or all tiles of a region at a time. What every other policy has to be better than.

They are two questions. Single tiles leave no region out for long, so a head that pools regions sees a little of each;
regions at random are the fair comparison for policies that read regions whole.
"""

import numpy as np

from parfocal.embed.glance import Glance, TileOrder
from parfocal.zoom.order import best_regions_first
from parfocal.zoom.policies.policy import Policy


def _tiles(glance: Glance) -> TileOrder:
    return glance.generator().permutation(glance.n_tiles)


def _regions(glance: Glance) -> TileOrder:
    drawn = glance.generator().permutation(glance.coarse.n_regions)
    return best_regions_first(-drawn.astype(np.float64), glance).order


RANDOM = Policy("random", _tiles, draws=True)
RANDOM_REGIONS = Policy("random-regions", _regions, draws=True)
