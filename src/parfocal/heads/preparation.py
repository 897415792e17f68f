"""The same preparation of vectors for every arm: as they are, or whitened to a few components, fitted on training rows.

Every arm chooses, inside its training fold, among the same list: **as it is** (each column z-scored; where that is
wider than `widest`, its leading principal components, which keep their scale) and **whitened** to k components for
each k of a small grid. What the vectors are centred on follows from what the pooling does with them:

- attention: as they are, rows are centred on the training mean; whitened, on their own slide's mean and by the
  covariance within slides, which takes out stain and everything else that moves a whole slide;
- contrast: always on the slide's mean. Where part of a magnification's regions was not read, that magnification is
  centred on the training mean instead: the mean of the regions that were read depends on which they were;
- mean pooling: the mean of a slide after centring within the slide is zero by construction, so slide means are centred
  on the training mean and whitened by the covariance between slides.

Networks take a preparation as one linear map.

A slide of which a magnification is left out has no instance there. Behind the map it stands where the mean training
slide does, at 0, and the map is fitted on the others. A mean that is NaN is none that is left out, and stays NaN.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from parfocal.bags import Bag, RowsAsNeeded
from parfocal.heads.base import Bags, ProbeSettings, Slides
from parfocal.region_encoder.batch import number_ranges
from parfocal.stats.whitening import AffineMap, Whitening, fit_whitening

# Rows that a map is fitted on, at least; and numbers in them, at most where that is more rows.
_FEWEST_ROWS = 4096
_MOST_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Preparation:
    """One way to prepare vectors: `components` whitened, or None for as they are."""

    components: int | None

    @property
    def label(self) -> str:
        """How a report names it."""
        return "as is" if self.components is None else f"{self.components} whitened"

    def map_of(self, whitening: Whitening) -> AffineMap:
        """The map that prepares rows so; fewer components than asked where the training rows span no more."""
        return whitening.rotated() if self.components is None else whitening.whitened(self.components)


def preparations(components: Sequence[int]) -> tuple[Preparation, ...]:
    """What every arm is offered: as they are, and each number of whitened components."""
    return (Preparation(None), *(Preparation(k) for k in sorted(set(components))))


@dataclass(frozen=True, eq=False)
class Table:
    """Prepared vectors of some slides, one slide after the other.

    Attributes:
        rows: the vectors.
        start: where those of each slide begin, and the end.
    """

    rows: Float32[np.ndarray, "row kept"]
    start: Int64[np.ndarray, " bound"]


def fit_map(
    rows: Float[np.ndarray, "row dim"] | RowsAsNeeded,
    numbers: Int64[np.ndarray, " used"],
    of_slide: Int64[np.ndarray, " used"],
    slide_mean: Float[np.ndarray, "slide dim"] | None,
    preparation: Preparation,
    settings: ProbeSettings,
) -> AffineMap:
    """Fit the map on the rows of training slides; slides count alike whatever their number of rows.

    Columns of the matrix are 0 where the training rows span less than was asked for.

    Args:
        rows: of all slides.
        numbers: which of them are training slides'; of very many a random part is used.
        of_slide: the place of each used row's slide among the training slides.
        slide_mean: what rows are centred on; None: their common mean.
        preparation: whitened or not.
        settings: the most components, and the seed.
    """
    weight = 1 / np.bincount(of_slide)[of_slide]
    most = max(_FEWEST_ROWS, _MOST_NUMBERS // rows.shape[1])
    if len(numbers) > most:
        # Here and not after the rows were centred: a copy of all rows for every fold would take longer than the fit.
        picked = np.sort(np.random.default_rng([settings.seed, 6]).choice(len(numbers), most, replace=False))
        numbers, of_slide, weight = numbers[picked], of_slide[picked], weight[picked]
    used = rows[numbers] if slide_mean is None else rows[numbers] - slide_mean[of_slide]
    widest = preparation.components or settings.widest
    whitening = fit_whitening(used, weight, widest=widest, centred=slide_mean is not None, seed=settings.seed)
    kept = preparation.map_of(whitening).matrix
    matrix = np.zeros((rows.shape[1], min(widest, rows.shape[1])), dtype=np.float32)
    matrix[:, : kept.shape[1]] = kept
    return AffineMap(None if whitening.mean is None else whitening.mean.astype(np.float32), matrix)


def has_mean(bag: Bag, slides: Slides) -> Bool[np.ndarray, " picked"]:
    """Which of some slides have a mean: those of which the magnification is not left out."""
    return np.asarray(bag.n_instances[slides] > 0)


def prepare_means(
    prepared_by: AffineMap, means: Float[np.ndarray, "slide dim"], there: Bool[np.ndarray, " slide"]
) -> Float[np.ndarray, "slide kept"]:
    """Slide means behind a map that is centred on the training mean; 0, which is that mean, where there is none."""
    if there.all():
        return prepared_by.apply(means)
    known = prepared_by.apply(means[there])
    prepared = np.zeros((len(means), known.shape[1]), dtype=known.dtype)
    prepared[there] = known
    return prepared


def together(bags: Bags, slides: Slides) -> Iterator[slice]:
    """Which of some slides to look at together in all bags: all of them where these are in memory, else a few."""
    largest = max(bags, key=lambda bag: 0 if bag.is_held else len(bag.region_mean) * bag.dim)
    return largest.together(slides)


def over_slides(
    bags: Bags,
    slides: Slides,
    start: Int64[np.ndarray, " bound"],
    make: Callable[[Slides], Float[np.ndarray, "_row *_rest"]],
) -> Float[np.ndarray, "_all *_rest"]:
    """What is made of the vectors of some slides, of a few at a time where they are not in memory.

    Args:
        bags: whose vectors they are.
        slides: numbers.
        start: where the result of each slide begins, and the end.
        make: the result of some of the slides, one slide after the other.
    """
    parts = list(together(bags, slides))
    if len(parts) == 1:
        return make(slides)
    first = make(slides[parts[0]])
    result = np.empty((int(start[-1]), *first.shape[1:]), dtype=first.dtype)
    result[: len(first)] = first
    for part in parts[1:]:
        result[start[part.start] : start[part.stop]] = make(slides[part])
    return result


def gather(bag: Bag, slides: Slides) -> tuple[Float32[np.ndarray, "row dim"], np.ndarray]:
    """The instances of some slides and where those of each begin; no copy where it is all of them in order."""
    counts = np.diff(bag.start)[slides]
    whole = len(slides) == len(bag.slides) and np.array_equal(slides, np.arange(len(slides)))
    if whole and isinstance(bag.rows, np.ndarray):
        return bag.rows, bag.start
    if len(slides) == 1:
        return bag.rows_of(int(slides[0])), bounds_of(counts)
    return bag.rows[joined(bag.start, slides)], bounds_of(counts)


def joined(start: Int64[np.ndarray, " bound"], slides: Slides) -> Int64[np.ndarray, " row"]:
    """The numbers of all rows of some slides."""
    return number_ranges(start[slides], np.diff(start)[slides])


def bounds_of(counts: Int64[np.ndarray, " slide"]) -> Int64[np.ndarray, " bound"]:
    """Where each slide's rows begin, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
