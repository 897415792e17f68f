"""The tiles with the most tissue first; among equals, and most are full, such that every prefix is spread evenly."""

import numpy as np

from parfocal.embed.glance import Glance, TileOrder
from parfocal.zoom.policies.policy import Policy
from parfocal.zoom.policies.stride import stride_order


def _by_tissue(glance: Glance) -> TileOrder:
    spread = stride_order(glance)
    return spread[np.argsort(-glance.tissue[spread], kind="stable")]


TISSUE = Policy("tissue", _by_tissue)
