"""What rows are prepared by: an affine map, and the principal components that it is made of.

Every place that centres, scales, rotates or whitens vectors fits a `Whitening` on its training rows and applies the
`AffineMap` that follows from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int64

# Rows that the covariance is taken from, at least, and numbers in them, at most where that is more rows. Its error in k
# components is the root of k over the rows: 4,096 rows would leave 18 % of a spread at 128 components, 131,072 rows of
# 128 numbers leave 3 %.
_FEWEST_ROWS = 4096
_MOST_NUMBERS = 1 << 24
_ITERATIONS = 8
_SMALLEST = 1e-8  # variance of a component over that of the leading one


@runtime_checkable
class Indexed(Protocol):
    """Rows that are read when they are indexed, by numbers or by a slice."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""

    def __getitem__(self, index: Any) -> np.ndarray:
        """Some rows."""


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Rows are centred and multiplied.

    Attributes:
        offset: what is subtracted from every row; None where rows are centred on the mean of their own group.
        matrix: what they are multiplied with; a vector is the diagonal of a square one.
    """

    offset: Float[np.ndarray, " dim"] | None
    matrix: Float[np.ndarray, "dim kept"] | Float[np.ndarray, " dim"]

    def apply(
        self,
        rows: Float[np.ndarray, "row dim"],
        group_mean: Float[np.ndarray, "group dim"] | None = None,
        of_row: Int64[np.ndarray, " row"] | None = None,
    ) -> Float[np.ndarray, "row kept"]:
        """The prepared rows.

        Args:
            rows: as they are; without an `offset` and a `group_mean` they are centred already.
            group_mean: of each group; read only where there is no `offset`. It is taken off behind the matrix, where
                rows are narrow.
            of_row: the group of each row.
        """
        if self.offset is not None:
            return self._times(rows - self.offset)
        prepared = self._times(rows)
        if group_mean is not None:
            prepared -= self._times(group_mean)[of_row]
        return prepared

    def _times(self, rows: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, "row kept"]:
        return np.asarray(rows @ self.matrix if self.matrix.ndim == 2 else rows * self.matrix)

    def back(self, coefficient: Float[np.ndarray, " kept"]) -> Float[np.ndarray, " dim"]:
        """Coefficients of the rows as they are that give what `coefficient` gives of the prepared ones."""
        return np.asarray(self.matrix @ coefficient if self.matrix.ndim == 2 else self.matrix * coefficient)

    @staticmethod
    def standardising(rows: Float[np.ndarray, "row dim"]) -> "AffineMap":
        """Each column about its mean, over its standard deviation; one that never changes becomes 0."""
        return AffineMap.of_spread(rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64))

    @staticmethod
    def of_spread(mean: Float64[np.ndarray, " dim"], scale: Float64[np.ndarray, " dim"]) -> "AffineMap":
        """The same from the mean and the standard deviation of each column."""
        varies = varying(scale)
        return AffineMap(mean, np.where(varies, 1 / np.where(varies, scale, 1.0), 0.0))

    def single(self) -> "AffineMap":
        """The same in float32."""
        offset = None if self.offset is None else self.offset.astype(np.float32)
        return AffineMap(offset, self.matrix.astype(np.float32))

    def state(self, name: str) -> dict[str, np.ndarray]:
        """All of it as arrays whose names begin with `name`, for `load`."""
        offset = np.zeros(len(self.matrix), dtype=self.matrix.dtype) if self.offset is None else self.offset
        by_group = np.array(self.offset is None)
        return {f"{name}.matrix": self.matrix, f"{name}.mean": offset, f"{name}.by_slide": by_group}

    @staticmethod
    def load(name: str, arrays: Mapping[str, np.ndarray]) -> "AffineMap":
        """What `state` was made of."""
        by_group = bool(arrays[f"{name}.by_slide"])
        return AffineMap(None if by_group else arrays[f"{name}.mean"], arrays[f"{name}.matrix"])


@dataclass(frozen=True, eq=False)
class Whitening:
    """Leading principal components of z-scored training rows.

    Attributes:
        mean: of the training rows; None where they came centred.
        scale: spread of each column.
        basis: components of the scaled columns, the leading one first, orthonormal.
        spread: of the training rows along each component.
    """

    mean: Float64[np.ndarray, " dim"] | None
    scale: Float64[np.ndarray, " dim"]
    basis: Float64[np.ndarray, "dim component"]
    spread: Float64[np.ndarray, " component"]

    def whitened(self, components: int | None = None) -> AffineMap:
        """The map onto components of variance one: the leading `components`, or all; fewer where rows span no more."""
        k = min(components or self.basis.shape[1], self.basis.shape[1])
        return AffineMap(self.mean, np.asarray(self.basis[:, :k] / (self.spread[:k] * self.scale[:, None])))

    def rotated(self) -> AffineMap:
        """The map onto all components, which keep their scale but for one common factor: mean square one."""
        common = np.sqrt((self.spread**2).mean())
        return AffineMap(self.mean, np.asarray(self.basis / (common * self.scale[:, None])))

    def inverse(self) -> Float64[np.ndarray, "component dim"]:
        """What whitened rows of all components are multiplied with to be centred ones again."""
        return np.asarray((self.basis * self.spread).T * self.scale)

    def state(self, name: str) -> dict[str, np.ndarray]:
        """All of it as arrays whose names begin with `name`, for `load`."""
        mean = np.zeros(len(self.scale)) if self.mean is None else self.mean
        parts = {"mean": mean, "scale": self.scale, "basis": self.basis, "spread": self.spread}
        return {f"{name}.{part}": array for part, array in parts.items()}

    @staticmethod
    def load(name: str, arrays: Mapping[str, np.ndarray]) -> "Whitening":
        """What `state` was made of; rows that came centred have a mean of 0, which subtracts nothing."""
        return Whitening(*(arrays[f"{name}.{part}"] for part in ("mean", "scale", "basis", "spread")))


def fit_whitening(
    rows: Float[np.ndarray, "row dim"] | Indexed,
    weight: Float64[np.ndarray, " used"],
    *,
    widest: int,
    centred: bool,
    seed: int,
    numbers: Int64[np.ndarray, " used"] | None = None,
) -> Whitening:
    """Fit on training rows; a row's weight makes slides count alike whatever their number of rows.

    Args:
        rows: of training slides only, where no `numbers` say which they are.
        weight: of each that is used, at least 0; only ratios matter.
        widest: the most components that are kept.
        centred: whether the rows are centred already (within slides); their mean is then zero and not estimated.
        seed: of the random start, and of the sample where there are more rows than the covariance needs.
        numbers: which rows are used; all where None. No others are looked at.
    """
    rng = np.random.default_rng([seed, 2])
    most = max(_FEWEST_ROWS, _MOST_NUMBERS // rows.shape[1])
    if len(weight) > most:
        picked = np.sort(rng.choice(len(weight), most, replace=False))
        numbers, weight = picked if numbers is None else numbers[picked], weight[picked]
    share = weight / weight.sum()
    x = (rows[:] if numbers is None else rows[numbers]).astype(np.float64)
    mean = None if centred else share @ x
    x = x if mean is None else x - mean
    scale = np.sqrt(share @ x**2)
    varies = varying(scale)
    scale = np.where(varies, scale, 1.0)
    x = np.where(varies, x / scale, 0.0) * np.sqrt(share)[:, None]
    basis, variance = _components_of_rows(x, widest, rng)
    kept = variance > _SMALLEST * max(float(variance[0]), 1e-300)
    kept[0] = True
    # Rows that are all alike, such as one region a slide centred on its slide, stay at zero.
    return Whitening(mean, scale, basis[:, kept], np.sqrt(np.where(variance[kept] > 1e-300, variance[kept], 1.0)))


def varying(scale: Float[np.ndarray, "*batch dim"]) -> np.ndarray:
    """Which columns vary, by their spread: one that never changes must not be divided by its rounding error."""
    return np.asarray(scale > 1e-6 * np.maximum(scale.max(axis=-1, keepdims=True), 1e-300))


def leading_components(
    moment: Float[np.ndarray, "dim dim"], most: int | None = None
) -> tuple[Float64[np.ndarray, "dim component"], Float64[np.ndarray, " component"]]:
    """The principal directions of a matrix of second moments, the largest first, and the variance along each."""
    variance, vectors = np.linalg.eigh(np.asarray(moment, dtype=np.float64))
    return vectors[:, ::-1][:, :most], np.maximum(variance[::-1][:most], 0)


def _components_of_rows(
    x: Float64[np.ndarray, "row dim"], widest: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "dim component"], Float64[np.ndarray, " component"]]:
    """`leading_components` of x^T x.

    Few rows: exactly, from the small side. Few columns: exactly. Else by subspace iteration, which for 64 of 2,560
    components is a hundred times faster than a full decomposition and differs only inside the last components.
    """
    n_rows, dim = x.shape
    if n_rows < dim and n_rows <= 512:
        _, singular, transposed = np.linalg.svd(x, full_matrices=False)
        return transposed[:widest].T, singular[:widest] ** 2
    if dim <= 2 * widest:
        return leading_components(x.T @ x, widest)
    covariance = x.T @ x if dim <= n_rows // 2 else None
    q = rng.standard_normal((dim, min(widest + 8, dim, n_rows)))
    for _ in range(_ITERATIONS):
        q, _ = np.linalg.qr(covariance @ q if covariance is not None else x.T @ (x @ q))
    small = x @ q
    vectors, variance = leading_components(small.T @ small, widest)
    return q @ vectors, variance
