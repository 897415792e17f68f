"""The preparation of a bag's vectors as networks take them: one linear map, fitted on training slides."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from parfocal.bags import Bag
from parfocal.probes.settings import ProbeSettings
from parfocal.probes.whitening import Preparation, fit_whitening

__all__ = ["RowMap", "Table", "bounds_of", "fit_map", "gather", "joined"]

# Rows that a map is fitted on, at least; and numbers in them, at most where that is more rows.
_FEWEST_ROWS = 4096
_MOST_NUMBERS = 1 << 22


@dataclass(frozen=True, eq=False)
class Table:
    """Prepared vectors of some slides, one slide after the other.

    Attributes:
        rows: the vectors.
        start: where those of each slide begin, and the end.
    """

    rows: Float32[np.ndarray, "row kept"]
    start: Int64[np.ndarray, " bound"]


@dataclass(frozen=True, eq=False)
class RowMap:
    """Rows are centred, on a training mean or on the mean of their own slide, and multiplied.

    Attributes:
        matrix: what they are multiplied with; columns of 0 where the training rows span less than was asked for.
        mean: of the training rows; 0 where rows are centred on their own slide's mean.
        by_slide: whether they are.
    """

    matrix: Float32[np.ndarray, "dim kept"]
    mean: Float32[np.ndarray, " dim"]
    by_slide: bool

    def __call__(
        self,
        rows: Float[np.ndarray, "row dim"],
        of_slide: Int64[np.ndarray, " row"],
        slide_mean: Float[np.ndarray, "slide dim"],
    ) -> Float32[np.ndarray, "row kept"]:
        """The prepared rows; the slide's mean is taken off behind the matrix, where rows are narrow."""
        prepared = (rows if self.by_slide else rows - self.mean) @ self.matrix
        if self.by_slide:
            prepared -= (slide_mean @ self.matrix)[of_slide]
        result: Float32[np.ndarray, "row kept"] = prepared.astype(np.float32, copy=False)
        return result

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """All of it, for `from_arrays`."""
        return {f"{name}.matrix": self.matrix, f"{name}.mean": self.mean, f"{name}.by_slide": np.array(self.by_slide)}

    @staticmethod
    def from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> "RowMap":
        """What `arrays` was made of."""
        return RowMap(arrays[f"{name}.matrix"], arrays[f"{name}.mean"], bool(arrays[f"{name}.by_slide"]))


def fit_map(
    rows: Float[np.ndarray, "row dim"],
    numbers: Int64[np.ndarray, " used"],
    of_slide: Int64[np.ndarray, " used"],
    slide_mean: Float[np.ndarray, "slide dim"] | None,
    preparation: Preparation,
    settings: ProbeSettings,
) -> RowMap:
    """Fit the map on the rows of training slides; slides count alike whatever their number of rows.

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
    kept = whitening.map_of(preparation)
    matrix = np.zeros((rows.shape[1], min(widest, rows.shape[1])), dtype=np.float32)
    matrix[:, : kept.shape[1]] = kept
    return RowMap(matrix, whitening.mean.astype(np.float32), slide_mean is not None)


def gather(bag: Bag, slides: Int64[np.ndarray, " picked"]) -> tuple[Float32[np.ndarray, "row dim"], np.ndarray]:
    """The instances of some slides and where those of each begin; no copy where it is all of them in order."""
    counts = np.diff(bag.start)[slides]
    if len(slides) == len(bag.slides) and np.array_equal(slides, np.arange(len(slides))):
        return bag.rows, bag.start
    if len(slides) == 1:
        return bag.rows_of(int(slides[0])), bounds_of(counts)
    return bag.rows[joined(bag.start, slides)], bounds_of(counts)


def joined(start: Int64[np.ndarray, " bound"], slides: Int64[np.ndarray, " picked"]) -> Int64[np.ndarray, " row"]:
    """The numbers of all rows of some slides."""
    return np.concatenate([np.arange(start[slide], start[slide + 1]) for slide in slides])


def bounds_of(counts: Int64[np.ndarray, " slide"]) -> Int64[np.ndarray, " bound"]:
    """Where each slide's rows begin, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
