"""How the regions of a slide look at its coarser magnifications, in units in which they can be compared."""

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.embed.glance import Glance
from parfocal.stats.whitening import varying


def tissue_share(glance: Glance) -> Float64[np.ndarray, " region"]:
    """How much tissue each region holds, over what a region of the grid can hold.

    That is the most tiles of a region at any magnification, in fine tiles: a biopsy may have no region full of these,
    and its coarse tiles say how many there would be.

    At the edge of the tissue a region shows glass beside it, and looks unlike all others for that alone. What its
    tissue adds to an embedding is about this share of what it would add to a full one, so wherever a region is judged
    by how far an embedding lies from another, or may lie, that distance counts times the share. Glass is not planned,
    so it is seen in the number of a region's tiles as well as in their tissue.

    Returns:
        0 to 1; 0 for a region without a planned tile.
    """
    coarse, n_regions = glance.coarse, glance.coarse.n_regions
    held = {glance.mpp: glance.region, **coarse.region}
    most = max(np.bincount(region).max(initial=0) * (mpp / glance.mpp) ** 2 for mpp, region in held.items()) or 1.0
    return np.asarray(np.bincount(glance.region, glance.tissue, minlength=n_regions) / most)


def region_looks(glance: Glance) -> list[tuple[Float64[np.ndarray, "region dim"], Bool[np.ndarray, " region"]]]:
    """For each magnification the regions about the slide's mean, in units of their spread, times their share of tissue.

    So stain and everything else that moves a whole slide does not count, no column counts for its scale, and a region
    does not stand out for the glass in it (`tissue_share`). A column that never changes on the slide is 0.

    Returns:
        Of each magnification, coarse to fine, the regions' vectors and which regions have any tile; the others are 0.
    """
    coarse, share = glance.coarse, tissue_share(glance)
    looks = []
    for mpp in coarse.mpps:
        means = coarse.region_means(mpp)
        there = ~np.isnan(means).any(axis=1)
        centred = np.zeros_like(means)
        if there.any():
            centred[there] = means[there] - means[there].mean(axis=0)
            spread = np.sqrt((centred[there] ** 2).mean(axis=0))
            centred *= np.where(varying(spread), 1 / np.where(varying(spread), spread, 1.0), 0.0)
        looks.append((centred * share[:, None], there))
    return looks
