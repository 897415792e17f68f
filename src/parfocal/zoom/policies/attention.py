"""Coarse attention: the regions first that a fitted attention head looks at most at the coarsest magnification.

As in ZoomMIL (arXiv 2204.12454) and EAGLE (Nature Communications 2026), which take a fixed number of tiles so. The head
may be one of the coarsest magnification alone, or of several in one bag: then it is asked as if the slide had no other
tiles.
"""

import numpy as np
from jaxtyping import Float64

from parfocal.bags import Bag, bag_of_slide
from parfocal.embed.glance import Glance, TileOrder
from parfocal.errors import ConfigError
from parfocal.heads import FittedProbe
from parfocal.heads.abmil import FittedAbmil
from parfocal.heads.attention import AttentionNetwork
from parfocal.heads.network import FittedNetwork
from parfocal.zoom.head import HeadOfBags
from parfocal.zoom.order import best_regions_first
from parfocal.zoom.policies.policy import Order, Policy


def _shares(probe: FittedProbe, bag: Bag, number: int) -> Float64[np.ndarray, " instance"]:
    """How the head divides attention among a slide's tiles; the mean over the columns of its outcome."""
    if isinstance(probe, FittedAbmil):
        return probe.shares(bag, number)
    assert isinstance(probe, FittedNetwork)
    assert isinstance(probe.network, AttentionNetwork)
    network = probe.network
    return np.asarray(np.mean([network.shares(one, bag, number) for one in probe.columns], axis=0))


def _by_attention(head: HeadOfBags) -> Order:
    probe = head.probe
    if not (
        isinstance(probe, FittedAbmil)
        or (isinstance(probe, FittedNetwork) and isinstance(probe.network, AttentionNetwork))
    ):
        raise ConfigError(
            "the policy attention needs an attention head. Fit one with --arms attention or abmil, or choose another."
        )

    def order(glance: Glance) -> TileOrder:
        if not glance.coarse.mpps:
            raise ConfigError(f"the policy attention looks at coarse tiles, and {glance.coarse.slide} has none.")
        coarsest = glance.coarse.mpps[0]
        number = head.number_of(coarsest)
        share = _shares(probe, bag_of_slide(glance.coarse, coarsest), number)
        region = glance.coarse.region[coarsest]
        worth = np.bincount(region, share, minlength=glance.coarse.n_regions)
        return best_regions_first(worth, glance).order

    return order


ATTENTION = Policy("attention", needs=("head",), binds=_by_attention)
