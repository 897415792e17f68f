"""Contrast value: read first where that can move the score of a fitted contrast head most.

The head adds (u . x_coarse) (v . x_fine) over regions, so before anything is read |u . x_coarse| times the spread of
v . x_fine is how far a region is expected to move it (`heads.contrast.partly`): in closed form, and without a network.
Where the coarse tile says nothing the fine ones, whatever they are, add nothing.

`contrast` reads one region whole before the next. `contrast-tiles` reads the tile that adds most: the tiles of a region
repeat each other, so some of each of several regions tell more than all of one.

Where a coarser magnification is chosen first, a region is worth what it can add there and at the finer ones that it
opens, by the pairs of these with what is known. A head that has no such pair says nothing there, and regions are read
by a stride.

Both are worth what the score of the slide moves by, which is one unit on all slides: its standard deviation, or its
variance where tiles are chosen. A region of a large slide moves that one's score less.
"""

import numpy as np

from parfocal.embed.glance import Glance, Ranked
from parfocal.errors import ConfigError
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import noise_of_regions, pairs_with_known, worth_of_reading
from parfocal.zoom.head import HeadOfBags
from parfocal.zoom.order import best_regions_first, best_tiles_first
from parfocal.zoom.policies.policy import Order, Policy
from parfocal.zoom.policies.stride import stride_order


def _probe(head: HeadOfBags) -> FittedContrast:
    if not isinstance(head.probe, FittedContrast):
        raise ConfigError("this policy needs a contrast head. Fit one with --arms contrast, or choose another policy.")
    if head.finest is not None:
        noise_of_regions(head.probe, head.finest)  # a fit that kept no pair is told before any slide is read
    return head.probe


def _by_region(head: HeadOfBags) -> Order:
    probe = _probe(head)

    def order(glance: Glance) -> Ranked:
        unread = head.unread_at(glance.mpp)
        if not pairs_with_known(probe, unread):
            return _by_nothing(glance)
        return best_regions_first(worth_of_reading(probe, head.known(glance.coarse, unread), *unread), glance)

    return order


def _by_tile(head: HeadOfBags) -> Order:
    probe = _probe(head)

    def order(glance: Glance) -> Ranked:
        unread = head.unread_at(glance.mpp)
        if not pairs_with_known(probe, unread):
            return _by_nothing(glance)
        worth = worth_of_reading(probe, head.known(glance.coarse, unread), *unread)
        return best_tiles_first(worth, glance, stride_order(glance), noise=noise_of_regions(probe, *unread))

    return order


def _by_nothing(glance: Glance) -> Ranked:
    return Ranked(stride_order(glance), np.zeros(glance.n_tiles))


CONTRAST = Policy("contrast", needs=("head",), binds=_by_region, over_slides=True)
CONTRAST_TILES = Policy("contrast-tiles", needs=("head",), binds=_by_tile, over_slides=True)
