"""Diversity: each next region is the one that looks least like all that came before.

Farthest-point traversal (Gonzalez 1985) of the regions' coarse embeddings: every prefix is within a factor of two of
the best choice of so many regions such that none of the slide is far from one that is read (k-centre; as a choice of
what to look at, Sener and Savarese 2018). It begins with the region that is nearest to the slide's mean. Regions that
are glass in part are drawn towards that mean (`looks`).
"""

import numpy as np
from jaxtyping import Float64

from parfocal.embed.glance import Glance, TileOrder
from parfocal.stats.whitening import fit_whitening
from parfocal.zoom.looks import region_looks, tissue_share
from parfocal.zoom.order import best_regions_first
from parfocal.zoom.policies.policy import Policy

_COMPONENTS = 32
"""Leading components in which regions are compared: a slide of ten thousand regions then takes seconds."""


def places_of_looks(glance: Glance) -> Float64[np.ndarray, "region component"]:
    """Each region in the leading components of all coarse magnifications of its slide, each weighing alike."""
    looks = [rows / np.sqrt(rows.shape[1]) for rows, _ in region_looks(glance)]
    if not looks or not glance.coarse.n_regions:
        return np.zeros((glance.coarse.n_regions, 1))
    rows = np.concatenate(looks, axis=1)
    whitening = fit_whitening(rows, np.ones(len(rows)), widest=_COMPONENTS, centred=True, seed=0)
    # Turned and not scaled: the columns are in one unit already.
    return np.asarray(rows @ whitening.basis)


def farthest_first(
    rows: Float64[np.ndarray, "region component"], share: Float64[np.ndarray, " region"] | float = 1.0
) -> TileOrder:
    """The numbers of the rows: the one nearest to their mean, then always the farthest from all before.

    Of rows equally far the first is taken.

    Args:
        rows: of the regions.
        share: what they are multiplied with already; which one is nearest to the mean is asked without it.
    """
    order = np.zeros(len(rows), dtype=np.int64)
    if not len(rows):
        return order
    nearest = np.full(len(rows), np.inf)
    number = int((((rows - rows.mean(axis=0)) ** 2).sum(axis=1) / np.maximum(share, 1e-9) ** 2).argmin())
    for place in range(len(rows)):
        order[place] = number
        nearest = np.minimum(nearest, ((rows - rows[number]) ** 2).sum(axis=1))
        nearest[number] = -1.0
        number = int(nearest.argmax())
    return order


def _by_diversity(glance: Glance) -> TileOrder:
    order = farthest_first(places_of_looks(glance), tissue_share(glance))
    worth = np.empty(len(order))
    worth[order] = -np.arange(len(order), dtype=np.float64)
    return best_regions_first(worth, glance).order


DIVERSITY = Policy("diversity", _by_diversity)
