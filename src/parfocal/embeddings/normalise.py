"""The mean and the spread of every feature of a set, one slide counting as much as another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from parfocal.embeddings.left_out import LeftOut
from parfocal.embeddings.store import EmbeddingSet
from parfocal.errors import StoreError

__all__ = ["SetStatistics", "compute_statistics"]


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """Mean and standard deviation of each feature, per magnification.

    Attributes:
        mean: per magnification, the mean over slides of the slides' means.
        sd: per magnification, the root of the mean over slides of the squared distance from `mean`.
        n_slides: per magnification, how many slides had a tile.
    """

    mean: dict[float, Float64[np.ndarray, " _dim"]]
    sd: dict[float, Float64[np.ndarray, " _dim"]]
    n_slides: dict[float, int]

    @property
    def mpps(self) -> tuple[float, ...]:
        """The magnifications, coarse to fine."""
        return tuple(self.mean)


def compute_statistics(embeddings: EmbeddingSet, slides: Sequence[str] | None = None) -> SetStatistics:
    """Mean and standard deviation of the tile embeddings, in one pass and with one slide in memory.

    Slides are balanced, because one large resection would otherwise set the scale for a hundred biopsies. Sums are in
    float64 and about each slide's own mean, so that a large common offset does not eat the digits of the spread.

    A slide whose rows cannot be read is left out with a warning that names it.

    Args:
        embeddings: a set of tiles.
        slides: which slides, for statistics of a training fold; all that are done when None.

    Raises:
        StoreError: a magnification has no tile in any of the slides, or none of them can be read.
    """
    chosen = embeddings.slides if slides is None else tuple(slides)
    moments: dict[float, _Moments] = {mpp: _Moments(dim) for mpp, dim in embeddings.dims.items()}
    left_out = LeftOut()
    for slide in chosen:
        with left_out.reading(slide):
            tokens = embeddings.read(slide)
            for mpp, moment in moments.items():
                moment.add(tokens.features[mpp])
    left_out.refuse_none_left(chosen, embeddings.name)
    left_out.notes()
    empty = [f"{mpp:g}" for mpp, moment in moments.items() if moment.n_slides == 0]
    if empty:
        raise StoreError(
            f"cannot standardise {embeddings.path}: its {len(chosen)} slides have no tile at {', '.join(empty)} mpp. "
            "Embed slides that hold tissue first."
        )
    return SetStatistics(
        {mpp: moment.mean for mpp, moment in moments.items()},
        {mpp: np.sqrt(moment.spread / moment.n_slides) for mpp, moment in moments.items()},
        {mpp: moment.n_slides for mpp, moment in moments.items()},
    )


class _Moments:
    """Mean over slides, and summed mean squares about it, brought up to date slide by slide (Chan et al. 1979)."""

    def __init__(self, dim: int) -> None:
        self.n_slides = 0
        self.mean = np.zeros(dim)
        self.spread = np.zeros(dim)

    def add(self, rows: np.ndarray) -> None:
        if len(rows) == 0:
            return
        slide_mean = rows.mean(axis=0, dtype=np.float64)
        # In blocks: a float64 copy of a large slide would be the largest thing in memory by far.
        within = np.zeros_like(slide_mean)
        for start in range(0, len(rows), 4096):
            within += np.square(rows[start : start + 4096] - slide_mean).sum(axis=0)
        apart = slide_mean - self.mean
        self.n_slides += 1
        self.mean = self.mean + apart / self.n_slides
        self.spread += within / len(rows) + apart * (slide_mean - self.mean)
