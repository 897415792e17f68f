"""The contrast itself: which matrix of cross-moments goes with the outcome, and how many of its directions to trust."""

import numpy as np
from jaxtyping import Float, Float64

from parfocal.cohort import Column

__all__ = ["RANKS", "contrast_matrices", "rank_name"]

RANKS: tuple[int | None, ...] = (1, 2, 4, None)
"""How many leading pairs of directions are used; None shrinks the singular values by the noise of the data."""


def rank_name(rank: int | None) -> str:
    """How a report names it."""
    return "shrunk" if rank is None else f"rank {rank}"


def contrast_matrices(
    moments: Float[np.ndarray, "slide a b"], column: Column, weight: Float64[np.ndarray, "problem slide"]
) -> Float64[np.ndarray, "problem rank a b"]:
    """For each problem and rank the matrix of norm one whose score is `<F_i, M>`.

    It is D = sum_i w_i e_i F_i / sum_i w_i, e the residual of the column. The shrunk one weighs singular values by
    what is left of them above the noise (Gavish and Donoho 2017), the noise taken from the spread of F that the
    residual does not explain; where nothing is left, it is the leading pair. A problem without any difference between
    its slides has matrices of zeros.

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
    mean = (weight.astype(flat.dtype) @ flat) / weight.sum(axis=1, keepdims=True)
    squares = np.einsum("ij,ij->i", flat, flat).astype(np.float64) / flat.shape[1]
    left = weight @ squares - weight.sum(axis=1) * (mean.astype(np.float64) ** 2).mean(axis=1)
    left -= power * (rise**2).mean(axis=1)
    n = (weight > 0).sum(axis=1)
    variance = np.maximum(left, 0) / weight.sum(axis=1) * n / np.maximum(n - 2, 1)
    noise = variance * (weight**2 * residual**2).sum(axis=1) / power**2
    u, s, vt = np.linalg.svd(rise.reshape(-1, *moments.shape[1:]), full_matrices=False)
    kept = np.stack([_singular_weights(s, noise, moments.shape[1:], rank) for rank in RANKS], axis=1)
    matrices = np.einsum("pas,prs,psb->prab", u, kept, vt, optimize=True)
    norm = np.sqrt((kept**2).sum(axis=2))[:, :, None, None]
    result: Float64[np.ndarray, "problem rank a b"] = matrices / np.maximum(norm, 1e-300)
    return np.where(differs[:, None, None, None], result, 0.0)


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
