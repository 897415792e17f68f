"""What a slide's mean in one magnification is expected to be from its mean in another, along a few directions.

Where only a part of a magnification's regions is read, the mean of these depends on which were read, so they cannot be
centred on it. The training mean does not depend on it, but leaves what moves a whole slide, such as stain; and what was
read was chosen by the other side, so that the shift does not cancel. Most of what moves a slide moves all its
magnifications: a ridge regression on the slide's mean in the magnification that is read in full says how far. Where it
says nothing, the training mean is left.
"""

from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float64

from parfocal.bags import Bag
from parfocal.heads.base import Slides
from parfocal.heads.contrast.moments import PickedRegions, slide_means
from parfocal.heads.preparation import over_slides
from parfocal.stats.whitening import fit_whitening

Expected = Float64[np.ndarray, "_dim_and_one kept"]
"""Coefficients of the other bag's slide mean, a column for each direction, and a last row that is added."""

_COMPONENTS = 64
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Times the number of slides; components have a mean square of one."""

_KNOWN: "WeakKeyDictionary[Bag, np.ndarray]" = WeakKeyDictionary()


def means_of_regions(bag: Bag, slides: Slides) -> Float64[np.ndarray, "picked dim"]:
    """The mean of each slide's regions, whatever their number of instances; 0 for a slide without any.

    Where regions are not in memory, the means of all slides are taken in one pass over them, and kept with the bag.
    """
    if bag.is_held:
        return _means(bag, slides)
    known = _KNOWN.get(bag)
    if known is None:
        every = np.arange(len(bag.slides))
        known = over_slides([bag], every, np.arange(len(every) + 1), partial(_means, bag))
        _KNOWN[bag] = known
    return np.asarray(known[slides])


def _means(bag: Bag, slides: Slides) -> Float64[np.ndarray, "picked dim"]:
    picked = PickedRegions.of(bag, slides)
    return slide_means(bag.region_mean[picked.present], picked.of_slide, len(slides))


def expect(known: Float64[np.ndarray, "train dim"], along: Float64[np.ndarray, "train kept"], seed: int) -> Expected:
    """Fit what is expected of slide means along some directions; the penalty of each has the least error left out.

    Args:
        known: means of the training slides in the magnification that is read in full.
        along: of the same slides along the directions of the other one.
        seed: of the leading components.

    Returns:
        Columns of 0 with the mean below, where no penalty is better than the mean.
    """
    one = fit_whitening(known, np.ones(len(known)), widest=_COMPONENTS, centred=False, seed=seed).rotated()
    components, matrix, n = one.apply(known), np.asarray(one.matrix), len(known)
    centred = along - along.mean(axis=0)
    left, size, right = np.linalg.svd(components, full_matrices=False)
    # Of the mean itself, every slide left out: its residual grows by n / (n - 1).
    least = (centred**2).sum(axis=0) * (n / max(n - 1, 1)) ** 2
    coefficient = np.zeros((matrix.shape[1], along.shape[1]))
    for penalty in _PENALTIES:
        kept = size**2 / (size**2 + penalty * n)
        projected = left.T @ centred
        residual = centred - left @ (kept[:, None] * projected)
        leverage = 1 / n + (left**2 @ kept)
        error = ((residual / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2).sum(axis=0)
        shrunk = (kept / np.where(size > 0, size, 1.0))[:, None] * projected
        better = error < least
        coefficient[:, better] = (right.T @ shrunk)[:, better]
        least = np.where(better, error, least)
    in_columns = matrix @ coefficient
    return np.concatenate([in_columns, (along.mean(axis=0) - known.mean(axis=0) @ in_columns)[None]])


def expected_along(expected: Expected, known: Float64[np.ndarray, "slide dim"]) -> Float64[np.ndarray, "slide kept"]:
    """What is expected of slides along the directions."""
    return np.asarray(known @ expected[:-1] + expected[-1])
