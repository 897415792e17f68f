"""Predictive entropy: the tiles first that a pretrained model is least sure of, given the coarser ones of their region.

Half the sum of the log variances that the decoder predicts for each planned tile, of numbers whose standard deviations
count times the share of tissue in the region (`looks`): where a coarse tile is half glass the model is unsure of where
the glass is. It asks what is hard to predict and not what matters for a label: where the two have nothing to do with
each other it is no better than random.
"""

import numpy as np

from parfocal.bags import TileDecoder
from parfocal.embed.glance import Glance, Ranked
from parfocal.errors import MismatchError
from parfocal.geometry import format_mpp
from parfocal.zoom.looks import tissue_share
from parfocal.zoom.policies.policy import Order, Policy


def check_asked(decoder: TileDecoder, glance: Glance) -> None:
    """Return if a model is asked for the tiles that are to be read.

    Raises:
        MismatchError: it is asked for another magnification.
    """
    if format_mpp(decoder.mpp) != format_mpp(glance.mpp):
        raise MismatchError(
            f"the model is asked for tiles at {format_mpp(decoder.mpp)} mpp, and {format_mpp(glance.mpp)} is what "
            "is to be read. Open the decoder at that magnification."
        )


def _by_entropy(decoder: TileDecoder) -> Order:
    def order(glance: Glance) -> Ranked:
        check_asked(decoder, glance)
        # A number whose standard deviation counts s times has log(s) more entropy, and there are `dim` of them.
        share = decoder.dim * np.log(np.maximum(tissue_share(glance), 1e-9))
        entropy = decoder.entropy(glance.coarse, glance.region, glance.center_um) + share[glance.region]
        return Ranked.by(np.argsort(-np.where(np.isnan(entropy), -np.inf, entropy), kind="stable"), entropy)

    return order


ENTROPY = Policy("entropy", needs=("model",), binds=_by_entropy, over_slides=True)
