"""Predictive entropy: the tiles first that a pretrained model is least sure of, given the coarser ones of their region.

Half the sum of the log variances that the decoder predicts for each planned tile, of numbers whose standard deviations
count times the share of tissue in the region (`looks`): where a coarse tile is half glass the model is unsure of where
the glass is. It asks what is hard to predict and not what matters for a label: where the two have nothing to do with
each other it is no better than random.
"""

import numpy as np
from jaxtyping import Float64, Int

from parfocal.bags import TileDecoder
from parfocal.embed.glance import Glance, Ranked
from parfocal.store import SlideTokens
from parfocal.zoom.looks import tissue_share
from parfocal.zoom.policies.policy import Order, Policy


def entropy_of_tiles(
    decoder: TileDecoder, glance: Glance, given: SlideTokens, tiles: Int[np.ndarray, " tile"]
) -> Float64[np.ndarray, " tile"]:
    """How unsure the model is of some planned tiles of a slide; NaN for those of regions of which nothing is given.

    Args:
        decoder: asked for tiles of the magnification that is to be read.
        glance: of the slide.
        given: what the model is given.
        tiles: their numbers, rising.
    """
    region = glance.region[tiles]
    # A number whose standard deviation counts s times has log(s) more entropy, and there are `dim` of them.
    share = decoder.dim * np.log(np.maximum(tissue_share(glance), 1e-9))
    return np.asarray(decoder.entropy(given, region, glance.center_um[tiles]) + share[region])


def most_first(entropy: Float64[np.ndarray, " tile"]) -> Int[np.ndarray, " tile"]:
    """The places of the largest ones first, equal ones in their order; what is no number comes last."""
    return np.argsort(-np.where(np.isnan(entropy), -np.inf, entropy), kind="stable")


def _by_entropy(decoder: TileDecoder) -> Order:
    def order(glance: Glance) -> Ranked:
        entropy = entropy_of_tiles(decoder.at(glance.mpp), glance, glance.coarse, np.arange(glance.n_tiles))
        return Ranked.by(most_first(entropy), entropy)

    return order


ENTROPY = Policy("entropy", needs=("model",), binds=_by_entropy, over_slides=True)
