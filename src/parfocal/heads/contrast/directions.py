"""The contrast itself: which matrix of cross-moments goes with the outcome, and how many of its directions to trust."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from parfocal.cohort import Column

_FLIP_FLOPS = 2
_SHRINKAGE = 0.1
_MOST_SLIDES = 256
"""That the covariances of the noise are taken from, at even steps; their error is then a sixteenth."""

RANKS: tuple[int | None, ...] = (1, 2, 4, None)
"""How many leading pairs of directions are used; None shrinks the singular values by the noise of the data."""


def rank_name(rank: int | None) -> str:
    """How a report names it."""
    return "shrunk" if rank is None else f"rank {rank}"


@dataclass(frozen=True, eq=False)
class Contrasts:
    """D of each problem, in units of a rise of the outcome by one, and its pairs of directions.

    These are the singular directions of A^-1/2 D B^-1/2, with A and B the covariances of the noise of D between rows
    and between columns, brought back into the components of F. A singular value says how far a pair stands above chance
    only where the noise of all entries is alike. Where two magnifications share a component, as the tokens of a region
    encoder do, the entries of F along it are noisier, and the leading pair of D as it is would be that noise.

    Attributes:
        d: how much of each entry of F goes with the outcome.
        u: directions on the first side, the leading one first.
        s: singular values.
        v: directions on the second side.
        noise: variance that chance gives each entry of A^-1/2 D B^-1/2.
        differs: whether the slides of the problem differ at all; if not, D is 0 and nothing is said.
    """

    d: Float64[np.ndarray, "problem a b"]
    u: Float64[np.ndarray, "problem a value"]
    s: Float64[np.ndarray, "problem value"]
    v: Float64[np.ndarray, "problem b value"]
    noise: Float64[np.ndarray, " problem"]
    differs: Bool[np.ndarray, " problem"]

    def factors(
        self, rank: int | None
    ) -> tuple[Float64[np.ndarray, "problem a value"], Float64[np.ndarray, "problem b value"]]:
        """U and V of the matrices U V^T of norm one, 0 where nothing differs.

        They hold the leading `rank` pairs of directions; or all of them, with singular values shrunk to what is left
        above the noise (Gavish and Donoho 2017), and where nothing is left the leading pair.
        """
        kept = _singular_weights(self.s, self.noise, self.d.shape[1:], rank) * self.differs[:, None]
        u, v = self.u * np.sqrt(kept)[:, None], self.v * np.sqrt(kept)[:, None]
        norm = np.sqrt(((u.transpose(0, 2, 1) @ u) * (v.transpose(0, 2, 1) @ v)).sum(axis=(1, 2)))
        root = np.sqrt(np.maximum(norm, 1e-300))[:, None, None]
        return u / root, v / root

    def leading(self) -> tuple[Float64[np.ndarray, "problem a"], Float64[np.ndarray, "problem b"]]:
        """The leading pair of directions, each of norm one."""
        u, v = self.u[:, :, 0], self.v[:, :, 0]
        return u / np.linalg.norm(u, axis=1, keepdims=True), v / np.linalg.norm(v, axis=1, keepdims=True)

    def along(
        self, u: Float64[np.ndarray, "problem a"], v: Float64[np.ndarray, "problem b"]
    ) -> Float64[np.ndarray, " problem"]:
        """u^T D v of each problem."""
        return np.asarray(np.einsum("pa,pab,pb->p", u, self.d, v))


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
    d = rise.reshape(-1, *moments.shape[1:])
    u, s, v, noise = [], [], [], []
    for number in range(len(weight)):
        used = np.flatnonzero(weight[number] > 0)
        some = used[:: -(-len(used) // _MOST_SLIDES)]
        explained = mean[number] + residual[number, some, None] * rise[number]
        left = (flat[some] - explained.astype(flat.dtype)).reshape(-1, *moments.shape[1:])
        of_rows, of_columns, variance = even_noise(left, weight[number, some])
        # Two numbers of every entry are estimated from these slides, its mean and its rise.
        times = len(used) / len(some) * len(used) / max(len(used) - 2, 1)
        noise.append(times * float((weight[number, some] * residual[number, some]) ** 2 @ variance))
        first, values, second = np.linalg.svd(of_rows @ d[number] @ of_columns, full_matrices=False)
        u.append(of_rows @ first)
        s.append(values)
        v.append(of_columns @ second.T)
    return Contrasts(d, np.stack(u), np.stack(s), np.stack(v), np.array(noise) / power**2, differs)


def even_noise(
    left: Float[np.ndarray, "slide a b"], weight: Float64[np.ndarray, " slide"]
) -> tuple[Float64[np.ndarray, "a a"], Float64[np.ndarray, "b b"], Float64[np.ndarray, " slide"]]:
    """A^-1/2 and B^-1/2, between which the noise of every entry is about alike, and the variance that it then has.

    The covariance of a matrix-normal law, by two steps of the flip-flop (Dutilleul 1999), each shrunk by a tenth
    towards even noise, because a few dozen slides do not know a covariance of many components.

    Args:
        left: what is left of each slide's F without its mean and its outcome.
        weight: of each slide.

    Returns:
        Both roots, and for each slide the mean square of A^-1/2 F B^-1/2.
    """
    n, a, b = left.shape
    root = np.sqrt(weight / weight.sum()).astype(left.dtype)
    # Rows first: every product below is then one of two plain matrices, which is five times as fast as slide by slide.
    rows_first = np.ascontiguousarray((left * root[:, None, None]).transpose(1, 0, 2))
    of_rows, of_columns = np.eye(a), np.eye(b)
    for _ in range(_FLIP_FLOPS):
        long = (rows_first.reshape(-1, b) @ of_columns.astype(left.dtype)).reshape(a, -1)
        of_rows = _inverse_root(long @ long.T)
        tall = (of_rows.astype(left.dtype) @ rows_first.reshape(a, -1)).reshape(-1, b)
        of_columns = _inverse_root(tall.T @ tall)
    even = (tall @ of_columns.astype(left.dtype)).reshape(a, n, b)
    square = np.einsum("anb,anb->n", even, even, dtype=np.float64) / (a * b)
    return of_rows, of_columns, square / np.maximum(root.astype(np.float64) ** 2, 1e-300)


def _inverse_root(covariance: np.ndarray) -> Float64[np.ndarray, "k k"]:
    """The inverse square root of a covariance that is shrunk and scaled to a mean variance of one."""
    k = len(covariance)
    covariance = covariance.astype(np.float64)
    mean = float(np.trace(covariance)) / k
    if not mean > 0:
        return np.eye(k)  # slides that do not differ have no noise, and nothing to even out
    values, vectors = np.linalg.eigh((1 - _SHRINKAGE) * covariance / mean + _SHRINKAGE * np.eye(k))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


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
