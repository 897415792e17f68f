"""The contrast itself: which matrix of cross-moments goes with the outcome, and how many of its directions to trust."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from parfocal.cohort import Column

__all__ = ["RANKS", "Contrasts", "contrast_matrices", "find_contrasts", "rank_name"]

RANKS: tuple[int | None, ...] = (1, 2, 4, None)
"""How many leading pairs of directions are used; None shrinks the singular values by the noise of the data."""


def rank_name(rank: int | None) -> str:
    """How a report names it."""
    return "shrunk" if rank is None else f"rank {rank}"


@dataclass(frozen=True, eq=False)
class Contrasts:
    """D of each problem, as its singular value decomposition in units of a rise of the outcome by one.

    Attributes:
        u: directions on the first side, the leading one first.
        s: how much of the outcome goes with each pair of directions.
        vt: directions on the second side.
        noise: variance that chance gives each entry of D.
        differs: whether the slides of the problem differ at all; if not, D is 0 and nothing is said.
    """

    u: Float64[np.ndarray, "problem a value"]
    s: Float64[np.ndarray, "problem value"]
    vt: Float64[np.ndarray, "problem value b"]
    noise: Float64[np.ndarray, " problem"]
    differs: Bool[np.ndarray, " problem"]

    def factors(
        self, rank: int | None
    ) -> tuple[Float64[np.ndarray, "problem a value"], Float64[np.ndarray, "problem b value"]]:
        """U and V of the matrices U V^T of norm one, 0 where nothing differs.

        They hold the leading `rank` pairs of directions, or all of them shrunk by the noise.
        """
        shape = self.u.shape[1], self.vt.shape[2]
        kept = _singular_weights(self.s, self.noise, shape, rank) * self.differs[:, None]
        norm = np.maximum(np.sqrt((kept**2).sum(axis=1)), 1e-300)
        root = np.sqrt(kept / norm[:, None])[:, None]
        return self.u * root, self.vt.transpose(0, 2, 1) * root

    def along(
        self, u: Float64[np.ndarray, "problem a"], v: Float64[np.ndarray, "problem b"]
    ) -> Float64[np.ndarray, " problem"]:
        """u^T D v of each problem."""
        left = np.einsum("pa,pas->ps", u, self.u)
        right = np.einsum("psb,pb->ps", self.vt, v)
        result: Float64[np.ndarray, " problem"] = (left * self.s * right).sum(axis=1)
        return result


def find_contrasts(
    moments: Float[np.ndarray, "slide a b"], column: Column, weight: Float64[np.ndarray, "problem slide"]
) -> Contrasts:
    """D = sum_i w_i e_i F_i / sum_i w_i e_i^2 for each problem, e the residual of the column.

    For two classes it is the difference of their mean F. The noise is taken from the spread of F that the residual
    does not explain.

    Args:
        moments: of the training slides.
        column: of the same slides.
        weight: of each slide in each problem; 0 leaves it out.

    Raises:
        ValueError: no problem has slides that differ.
    """
    residual = column.residual(weight)  # (problem, slide)
    power = (weight * residual**2).sum(axis=1)
    differs = power > 1e-12 * weight.sum(axis=1)
    if not differs.any():
        raise ValueError("a contrast needs slides that differ, such as two classes")
    flat = moments.reshape(len(moments), -1)
    power = np.where(differs, power, 1.0)
    # In the precision of the moments: they are the largest thing in memory.
    rise = ((weight * residual / power[:, None]).astype(flat.dtype) @ flat).astype(np.float64)
    mean = (weight.astype(flat.dtype) @ flat).astype(np.float64) / weight.sum(axis=1, keepdims=True)
    squares = np.einsum("ij,ij->i", flat, flat).astype(np.float64) / flat.shape[1]
    left = weight @ squares - weight.sum(axis=1) * (mean**2).mean(axis=1) - power * (rise**2).mean(axis=1)
    n = (weight > 0).sum(axis=1)
    variance = np.maximum(left, 0) / weight.sum(axis=1) * n / np.maximum(n - 2, 1)
    noise = variance * (weight**2 * residual**2).sum(axis=1) / power**2
    u, s, vt = np.linalg.svd(rise.reshape(-1, *moments.shape[1:]), full_matrices=False)
    return Contrasts(u, s, vt, noise, differs)


def contrast_matrices(
    moments: Float[np.ndarray, "slide a b"], column: Column, weight: Float64[np.ndarray, "problem slide"]
) -> Float64[np.ndarray, "problem rank a b"]:
    """For each problem and each of `RANKS` the matrix of norm one whose score is `<F_i, M>`.

    The shrunk one weighs singular values by what is left of them above the noise (Gavish and Donoho 2017); where
    nothing is left, it is the leading pair.

    Args:
        moments: of the training slides.
        column: of the same slides.
        weight: of each slide in each problem; 0 leaves it out.

    Raises:
        ValueError: no problem has slides that differ.
    """
    found = find_contrasts(moments, column, weight)
    factors = [found.factors(rank) for rank in RANKS]
    return np.stack([u @ v.transpose(0, 2, 1) for u, v in factors], axis=1)


def _singular_weights(
    s: Float64[np.ndarray, "problem value"],
    noise: Float64[np.ndarray, " problem"],
    shape: tuple[int, ...],
    rank: int | None,
) -> Float64[np.ndarray, "problem value"]:
    if rank is not None:
        return np.where(np.arange(s.shape[1]) < rank, s, 0.0)
    a, b = shape
    variance = noise[:, None]
    above = s > np.sqrt(variance) * (np.sqrt(a) + np.sqrt(b))
    inside = (s**2 - (a + b) * variance) ** 2 - 4 * a * b * variance**2
    shrunk = np.where(above, np.sqrt(np.maximum(inside, 0)) / np.maximum(s, 1e-300), 0.0)
    nothing = ~above.any(axis=1)
    shrunk[nothing, 0] = s[nothing, 0]
    return shrunk
