"""In which order the fine tiles of a slide are looked at, by what its coarser magnifications show.

In: a `Glance` of `embed`, and for some policies a fitted head or a pretrained model. Out: an order of the planned
tiles, of which a budget reads a prefix. Nothing here reads a slide.
"""

from parfocal.embed.glance import Glance, Ranked, ReadSoFar, TileOrder, chosen, is_order, n_chosen
from parfocal.zoom.head import HeadOfBags
from parfocal.zoom.order import best_regions_first, best_tiles_first
from parfocal.zoom.policies import POLICIES, Policy
from parfocal.zoom.reader import PartReader, scores_by_share
from parfocal.zoom.replay import replayed

__all__ = [
    "POLICIES",
    "Glance",
    "HeadOfBags",
    "PartReader",
    "Policy",
    "Ranked",
    "ReadSoFar",
    "TileOrder",
    "best_regions_first",
    "best_tiles_first",
    "chosen",
    "is_order",
    "n_chosen",
    "replayed",
    "scores_by_share",
]
