"""Mean, standard deviation and covariance of tile embeddings in one pass, every slide weighing the same."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from parfocal.pretrain.holdout import SlidePart
from parfocal.stats.whitening import Whitening, leading_components
from parfocal.store import LeftOut, SlideTokens


@dataclass(frozen=True, eq=False)
class Moments:
    """Slide-balanced moments per magnification.

    Attributes:
        mean: the mean of the slides' means.
        sd: from the mean of the slides' second moments, so the spread between slides counts.
        covariance: the same for pairs of dims; empty when it was not asked.
    """

    mean: dict[float, Float64[np.ndarray, " dim"]]
    sd: dict[float, Float64[np.ndarray, " dim"]]
    covariance: dict[float, Float64[np.ndarray, "dim dim"]]


def training_moments(
    parts: Iterable[SlidePart],
    read: Callable[[str], SlideTokens],
    *,
    covariance: bool = False,
    left_out: LeftOut | None = None,
) -> Moments:
    """Go through the parts once; memory is that of one slide.

    Args:
        parts: the regions that count.
        read: gives a slide's tokens.
        covariance: whether to gather the covariances as well.
        left_out: takes the slides that cannot be read; None raises.
    """
    shift: dict[float, np.ndarray] = {}
    first: dict[float, np.ndarray] = {}
    second: dict[float, np.ndarray] = {}
    n_slides: Counter[float] = Counter()
    left_out = left_out or LeftOut(strict=True)
    for part in parts:
        with left_out.reading(part.slide):
            tokens = read(part.slide)
            for mpp in tokens.mpps:
                rows = tokens.features[mpp]
                if len(part.regions) < tokens.n_regions:
                    rows = rows[np.isin(tokens.region[mpp], part.regions)]
                if len(rows) == 0:
                    continue
                values = rows.astype(np.float64)
                # About the first slide's mean: squares of a large common offset would cost digits.
                about = shift.setdefault(mpp, values.mean(axis=0))
                values -= about
                squares = values.T @ values / len(values) if covariance else np.square(values).mean(axis=0)
                first[mpp] = first.get(mpp, 0.0) + values.mean(axis=0)
                second[mpp] = second.get(mpp, 0.0) + squares
                n_slides[mpp] += 1
    mean, sd, covariances = {}, {}, {}
    for mpp in sorted(n_slides, reverse=True):
        offset, squares = first[mpp] / n_slides[mpp], second[mpp] / n_slides[mpp]
        mean[mpp] = shift[mpp] + offset
        if covariance:
            covariances[mpp] = squares - np.outer(offset, offset)
        variance = covariances[mpp].diagonal() if covariance else squares - np.square(offset)
        sd[mpp] = np.sqrt(np.maximum(variance, 0.0))
    return Moments(mean, sd, covariances)


def whitening_of(
    covariance: Float64[np.ndarray, "dim dim"], sd: Float64[np.ndarray, " dim"], *, shrinkage: float
) -> Whitening:
    """PCA whitening of standardised embeddings, the correlation matrix shrunk towards the identity.

    With no shrinkage the last directions, which are noise, would weigh as much as the first; with `shrinkage` s a
    direction of variance v comes out with variance v / ((1 - s) v + s). A dim that never changes is left alone.

    Args:
        covariance: of the embeddings as stored.
        sd: the standard deviations that standardise them.
        shrinkage: share of the identity, above 0 so that the matrix has an inverse, to 1 (no whitening, a rotation).
    """
    scale = np.where(sd > 0, sd, 1.0)
    correlation = (1 - shrinkage) * covariance / np.outer(scale, scale) + shrinkage * np.eye(len(sd))
    directions, variance = leading_components(correlation)
    # The sign of a direction is free: its largest entry is made positive, so that a rerun gives the same targets.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(sd))])
    return Whitening(None, np.ones(len(sd)), directions, np.sqrt(np.maximum(variance, 1e-12)))
