"""How the regions of a slide look at its coarser magnifications, in units in which they can be compared."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from parfocal.stats.whitening import varying
from parfocal.store import SlideTokens


def region_means(
    rows: Float[np.ndarray, "tile dim"], region: Int[np.ndarray, " tile"], n_regions: int
) -> Float64[np.ndarray, "region dim"]:
    """The mean of each region's tiles; NaN for a region without any."""
    means = np.full((n_regions, rows.shape[1]), np.nan)
    there, first, count = np.unique(region, return_index=True, return_counts=True)
    if len(there):
        means[there] = np.add.reduceat(rows.astype(np.float64), first, axis=0) / count[:, None]
    return means


def region_looks(coarse: SlideTokens) -> list[tuple[Float64[np.ndarray, "region dim"], Bool[np.ndarray, " region"]]]:
    """For each magnification the regions about the slide's mean, in units of their spread over the slide.

    So stain and everything else that moves a whole slide does not count, and no column counts for its scale. A column
    that never changes on the slide is 0.

    Returns:
        Of each magnification, coarse to fine, the regions' vectors and which regions have any tile; the others are 0.
    """
    looks = []
    for mpp in coarse.mpps:
        means = region_means(coarse.features[mpp], coarse.region[mpp], coarse.n_regions)
        there = ~np.isnan(means).any(axis=1)
        centred = np.zeros_like(means)
        if there.any():
            centred[there] = means[there] - means[there].mean(axis=0)
            spread = np.sqrt((centred[there] ** 2).mean(axis=0))
            centred *= np.where(varying(spread), 1 / np.where(varying(spread), spread, 1.0), 0.0)
        looks.append((centred, there))
    return looks
