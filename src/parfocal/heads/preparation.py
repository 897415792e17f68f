"""The preparation of a bag's vectors as networks take them: one linear map, fitted on training slides.

The same preparation of vectors for every arm: as they are, or whitened to a few components, fitted on training rows.

Every arm chooses, inside its training fold, among the same list: **as it is** (each column z-scored; where that is
wider than `widest`, its leading principal components, which keep their scale) and **whitened** to k components for
each k of a small grid. What the vectors are centred on follows from what the pooling does with them:

- attention: as they are, rows are centred on the training mean; whitened, on their own slide's mean and by the
  covariance within slides, which takes out stain and everything else that moves a whole slide;
- contrast: always on the slide's mean. Where part of a magnification's regions was not read, that magnification is
  centred on the training mean instead: the mean of the regions that were read depends on which they were;
- mean pooling: the mean of a slide after centring within the slide is zero by construction, so slide means are centred
  on the training mean and whitened by the covariance between slides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from parfocal.bags import Bag
from parfocal.heads.settings import ProbeSettings

__all__ = [
    "Preparation",
    "RowMap",
    "Table",
    "Whitening",
    "bounds_of",
    "fit_map",
    "fit_whitening",
    "gather",
    "joined",
    "preparations",
]

# Rows that the covariance is taken from, at least, and numbers in them, at most where that is more rows. Its error in k
# components is the root of k over the rows: 4,096 rows would leave 18 % of a spread at 128 components, 131,072 rows of
# 128 numbers leave 3 %.
_FEWEST_ROWS = 4096
_MOST_NUMBERS = 1 << 24
_ITERATIONS = 8
_SMALLEST = 1e-8  # variance of a component over that of the leading one


@dataclass(frozen=True)
class Preparation:
    """One way to prepare vectors: `components` whitened, or None for as they are."""

    components: int | None

    @property
    def label(self) -> str:
        """How a report names it."""
        return "as is" if self.components is None else f"{self.components} whitened"


def preparations(components: Sequence[int]) -> tuple[Preparation, ...]:
    """What every arm is offered: as they are, and each number of whitened components."""
    return (Preparation(None), *(Preparation(k) for k in sorted(set(components))))


@dataclass(frozen=True, eq=False)
class Whitening:
    """Leading principal components of z-scored training rows.

    Attributes:
        mean: of the training rows; zero where they had been centred within slides.
        scale: spread of each column.
        basis: components of the scaled columns, the leading one first, orthonormal.
        spread: of the training rows along each component.
    """

    mean: Float64[np.ndarray, " dim"]
    scale: Float64[np.ndarray, " dim"]
    basis: Float64[np.ndarray, "dim component"]
    spread: Float64[np.ndarray, " component"]

    def map_of(self, preparation: Preparation) -> Float64[np.ndarray, "dim kept"]:
        """The matrix that prepares centred rows: whitened, or rotated with one common scale (mean square one).

        Fewer components than asked come back where the training rows span no more.
        """
        if preparation.components is None:
            common = np.sqrt((self.spread**2).mean())
            return np.asarray(self.basis / (common * self.scale[:, None]))
        k = min(preparation.components, self.basis.shape[1])
        return np.asarray(self.basis[:, :k] / (self.spread[:k] * self.scale[:, None]))


def fit_whitening(
    rows: Float[np.ndarray, "row dim"],
    weight: Float64[np.ndarray, " row"],
    *,
    widest: int,
    centred: bool,
    seed: int,
) -> Whitening:
    """Fit on training rows; a row's weight makes slides count alike whatever their number of rows.

    Args:
        rows: of training slides only.
        weight: at least 0; only ratios matter.
        widest: the most components that are kept.
        centred: whether the rows are centred already (within slides); their mean is then zero and not estimated.
        seed: of the random start, and of the sample where there are more rows than the covariance needs.
    """
    rng = np.random.default_rng([seed, 2])
    most = max(_FEWEST_ROWS, _MOST_NUMBERS // rows.shape[1])
    if len(rows) > most:
        picked = np.sort(rng.choice(len(rows), most, replace=False))
        rows, weight = rows[picked], weight[picked]
    share = weight / weight.sum()
    mean = np.zeros(rows.shape[1]) if centred else share @ rows.astype(np.float64)
    x = rows.astype(np.float64) - mean
    scale = np.sqrt(share @ x**2)
    # A column that never changes carries nothing; dividing by its rounding error would make noise of it.
    constant = scale <= 1e-6 * max(float(scale.max()), 1e-300)
    scale = np.where(constant, 1.0, scale)
    x = np.where(constant, 0.0, x / scale) * np.sqrt(share)[:, None]
    basis, variance = _leading(x, widest, rng)
    kept = variance > _SMALLEST * max(float(variance[0]), 1e-300)
    kept[0] = True
    # Rows that are all alike, such as one region a slide centred on its slide, stay at zero.
    return Whitening(mean, scale, basis[:, kept], np.sqrt(np.where(variance[kept] > 1e-300, variance[kept], 1.0)))


def _leading(
    x: Float64[np.ndarray, "row dim"], widest: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "dim component"], Float64[np.ndarray, " component"]]:
    """Leading eigenvectors and eigenvalues of x^T x.

    Few rows: exactly, from the small side. Few columns: exactly. Else by subspace iteration, which for 64 of 2,560
    components is a hundred times faster than a full decomposition and differs only inside the last components.
    """
    n_rows, dim = x.shape
    if n_rows < dim and n_rows <= 512:
        _, singular, transposed = np.linalg.svd(x, full_matrices=False)
        return transposed[:widest].T, singular[:widest] ** 2
    if dim <= 2 * widest:
        variance, vectors = np.linalg.eigh(x.T @ x)
        return vectors[:, ::-1][:, :widest], np.maximum(variance[::-1][:widest], 0)
    covariance = x.T @ x if dim <= n_rows // 2 else None
    q = rng.standard_normal((dim, min(widest + 8, dim, n_rows)))
    for _ in range(_ITERATIONS):
        q, _ = np.linalg.qr(covariance @ q if covariance is not None else x.T @ (x @ q))
    small = x @ q
    variance, vectors = np.linalg.eigh(small.T @ small)
    return (q @ vectors[:, ::-1])[:, :widest], np.maximum(variance[::-1][:widest], 0)


# Rows that a map is fitted on, at least; and numbers in them, at most where that is more rows.
_FEWEST_ROWS = 4096
_MOST_NUMBERS_OF_A_MAP = 1 << 22


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
    most = max(_FEWEST_ROWS, _MOST_NUMBERS_OF_A_MAP // rows.shape[1])
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
