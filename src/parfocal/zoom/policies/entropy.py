"""Predictive entropy: the tiles first that a pretrained model is least sure of, given the coarser ones of their region.

Half the sum of the log variances that the decoder predicts for each planned tile. It asks what is hard to predict and
not what matters for a label: where the two have nothing to do with each other it is no better than random.
"""

import numpy as np

from parfocal.bags import TileDecoder
from parfocal.embed.glance import Glance, TileOrder
from parfocal.errors import MismatchError
from parfocal.geometry import format_mpp
from parfocal.zoom.policies.policy import Order, Policy


def _by_entropy(decoder: TileDecoder) -> Order:
    def order(glance: Glance) -> TileOrder:
        if format_mpp(decoder.mpp) != format_mpp(glance.mpp):
            raise MismatchError(
                f"the model is asked for tiles at {format_mpp(decoder.mpp)} mpp, and {format_mpp(glance.mpp)} is what "
                "is to be read. Open the decoder at that magnification."
            )
        entropy = decoder.entropy(glance.coarse, glance.region, glance.center_um)
        return np.argsort(-np.where(np.isnan(entropy), -np.inf, entropy), kind="stable")

    return order


ENTROPY = Policy("entropy", needs="model", binds=_by_entropy)
