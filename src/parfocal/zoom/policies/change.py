"""Representation change: the regions first whose coarse tiles are not what their surroundings say.

A region that looks as the regions around it do is known from them; where the look changes, at the border of a tumour or
a lone gland, it is not. For each coarse magnification the region's mean embedding is compared with the mean of the
regions around it, column by column in units of the spread over the slide and times the share of tissue (`looks`):

    value = mean over columns of (x_r - mean of x around)^2 / (1 + 1 / n around)

and magnifications are averaged. The divisor is what the mean of so few neighbours would deviate by chance, without
which regions at the edge of the tissue came first. This is ours; that a place stands out by its surroundings is the
centre and surround of Itti, Koch and Niebur (1998), there over pixels.
"""

import numpy as np
from jaxtyping import Float64
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from parfocal.embed.glance import Glance, TileOrder
from parfocal.zoom.looks import region_looks
from parfocal.zoom.order import best_regions_first
from parfocal.zoom.policies.policy import Policy

_AROUND = 1.5
"""Sides of a region that the centres of the regions around it are away at most: the eight that touch it in a grid."""


def change(glance: Glance) -> Float64[np.ndarray, " region"]:
    """How far each region is from what the regions around it say; about 1 where they say nothing of one another.

    One without neighbours is compared with the slide's mean. NaN where a region has no coarse tile.
    """
    coarse = glance.coarse
    total, count = np.zeros(coarse.n_regions), np.zeros(coarse.n_regions)
    one, other = cKDTree(coarse.region_xy_um).query_pairs(_AROUND * coarse.region_um, output_type="ndarray").T
    shape = (coarse.n_regions, coarse.n_regions)
    touches = csr_array((np.ones(2 * len(one)), (np.r_[one, other], np.r_[other, one])), shape=shape)
    for rows, there in region_looks(glance):
        n_around = np.maximum(touches @ there.astype(np.float64), 1.0)
        around = touches @ rows  # absent regions are 0
        away = ((rows - around / n_around[:, None]) ** 2).mean(axis=1) / (1 + 1 / n_around)
        total += np.where(there, away, 0.0)
        count += there
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _by_change(glance: Glance) -> TileOrder:
    return best_regions_first(change(glance), glance).order


CHANGE = Policy("change", _by_change)
