"""Predictive entropy in rounds: the tiles first that a pretrained model is least sure of, by all that has been read.

As `entropy`, and after every round the model is given the tiles that were read beside the coarse ones and asked again
about the others of their regions. So a region is left where a few of its tiles say what the rest is like, and others
are begun; `entropy` reads a region that was hard to predict to its end. Which of the two a head is told more by depends
on the slides: where regions that are hard to predict are those that matter, to read them whole was better
(`docs/evidence.md`).
"""

import numpy as np
from jaxtyping import Float64, Int

from parfocal.bags import TileDecoder
from parfocal.embed.glance import Glance, Ranked, ReadSoFar
from parfocal.zoom.policies.entropy import entropy_of_tiles, most_first
from parfocal.zoom.policies.policy import Order, Policy


def _ranked(decoder: TileDecoder, entropy: Float64[np.ndarray, " planned"], left: Int[np.ndarray, " left"]) -> Ranked:
    """The tiles that are left by the entropy of each planned one, and how it changes with what is read."""

    def goes_on(so_far: ReadSoFar) -> Ranked:
        touched, glance, now = so_far.touched, so_far.glance, entropy.copy()
        asked = so_far.left[np.isin(glance.region[so_far.left], touched)]
        if len(asked):
            now[asked] = entropy_of_tiles(decoder, glance, so_far.tokens(touched), asked)
        return _ranked(decoder, now, so_far.left)

    return Ranked(left[most_first(entropy[left])], goes_on=goes_on)


def _in_rounds(decoder: TileDecoder) -> Order:
    def order(glance: Glance) -> Ranked:
        asked, every = decoder.at(glance.mpp), np.arange(glance.n_tiles)
        return _ranked(asked, entropy_of_tiles(asked, glance, glance.coarse, every), every)

    return order


ENTROPY_ROUNDS = Policy("entropy-rounds", needs=("model",), binds=_in_rounds)
