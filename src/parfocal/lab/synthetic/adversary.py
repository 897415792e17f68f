"""Adversaries that look for a leak: can late fusion find out which members of two unordered bags belong together?

The theorem of the cohorts says that A and C, read from two unordered bags, know nothing of the label. It holds as far
as nothing else tells which 5x tile belongs to which 20x tiles. Whatever both magnifications of a region show, in pixels
already its mean optical density, can re-pair the bags. So the adversaries are *handed* perfect readers of A and C and
only have to pair; their AUC is the reference beside every late-fusion arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression

from parfocal.lab.synthetic.ceilings import auc


@dataclass(frozen=True, eq=False)
class UnorderedBags:
    """What late fusion holds of one slide: a coarse and a fine bag, whose order says nothing.

    Attributes:
        coarse_sign: reading of A for each coarse member, -1 to 1.
        coarse_nuisance: what each coarse member shows that fine ones may show too.
        fine_sign: reading of C for each fine member, -1 to 1.
        fine_nuisance: the same quantities as `coarse_nuisance`, in units of their own.
    """

    coarse_sign: Float[np.ndarray, " coarse"]
    coarse_nuisance: Float[np.ndarray, "coarse k"]
    fine_sign: Float[np.ndarray, " fine"]
    fine_nuisance: Float[np.ndarray, "fine k"]


def match_bags(
    coarse: Float[np.ndarray, "coarse k"], fine: Float[np.ndarray, "fine k"], rng: np.random.Generator
) -> Int[np.ndarray, "fine"]:
    """For each fine member, the coarse member it most likely belongs to: a one-to-many optimal assignment.

    Each quantity is standardised within its bag, and the sum of squared differences is the smallest possible. Both bags
    are shuffled first: the solver would break ties by position, and position is what the adversary must not know.

    Raises:
        ValueError: the fine bag is not a whole number of times as large as the coarse one.
    """
    n_coarse, n_fine = len(coarse), len(fine)
    if n_fine % n_coarse:
        raise ValueError(f"{n_fine} fine members cannot be shared evenly by {n_coarse} coarse ones")
    slots = rng.permutation(np.repeat(np.arange(n_coarse), n_fine // n_coarse))
    order = rng.permutation(n_fine)
    difference = _standardised(fine)[order][:, None] - _standardised(coarse)[slots][None]  # (fine, slot, k)
    rows, columns = linear_sum_assignment((difference**2).sum(axis=2))
    match = np.empty(n_fine, dtype=np.int64)
    match[order[rows]] = slots[columns]
    return match


def repairing_auc(
    slides: Sequence[UnorderedBags], positive: Bool[np.ndarray, "slide"], *, n_draws: int = 1, seed: int = 0
) -> float:
    """The AUC of the adversary that re-pairs each slide's bags by their nuisances and asks whether A and C agree.

    Args:
        slides: the bags of each slide.
        positive: the label.
        n_draws: how often it is repeated with ties broken anew; the mean is returned. One is enough where the
            nuisances are continuous.
        seed: breaks the ties.
    """
    aucs = []
    for draw in range(n_draws):
        scores = []
        for number, bags in enumerate(slides):
            match = match_bags(bags.coarse_nuisance, bags.fine_nuisance, np.random.default_rng([seed, draw, number]))
            scores.append(float(np.mean(bags.coarse_sign[match] * bags.fine_sign)))
        aucs.append(auc(np.array(scores), positive))
    return float(np.mean(aucs))


def fourier_score(bags: UnorderedBags, frequencies: Float[np.ndarray, "frequency k"]) -> float:
    """Agreement of A and C by sums over each bag alone, without any matching.

    F = sum of sign * exp(i w z) is a plain sum over a bag, what any late-fusion network can compute, yet the real part
    of <F_coarse, F_fine> is large where members with equal nuisances agree: a random-feature kernel does the pairing.
    """
    coarse = bags.coarse_sign @ np.exp(1j * bags.coarse_nuisance @ frequencies.T)
    fine = bags.fine_sign @ np.exp(1j * bags.fine_nuisance @ frequencies.T)
    return float(np.real(coarse @ fine.conj()) / len(frequencies))


class FourierAdversary:
    """The random-Fourier adversary for embeddings: it learns what two magnifications share, then re-pairs by it.

    Fitted on slides whose pairing is known: readers of A and C by logistic regression on the truth, and the shared
    components by canonical correlation of the embeddings, centred within the slide. On other slides it sees two
    unordered bags.
    """

    def __init__(self, *, n_components: int = 4, n_frequencies: int = 256, seed: int = 0) -> None:
        """Choose how many shared components and how many frequencies are used."""
        self._n_components = n_components
        self._n_frequencies = n_frequencies
        self._seed = seed

    def fit(
        self,
        coarse: Sequence[Float[np.ndarray, "_region dim_c"]],
        fine: Sequence[Float[np.ndarray, "_region dim_f"]],
        a: Sequence[Bool[np.ndarray, " _region"]],
        c: Sequence[Bool[np.ndarray, " _region"]],
    ) -> "FourierAdversary":
        """Learn readers and shared components from slides, one row per region in both magnifications."""
        x, y = (np.concatenate([_centred(slide) for slide in slides]) for slides in (coarse, fine))
        self._read_a = LogisticRegression(max_iter=1000).fit(x, np.concatenate(list(a)))
        self._read_c = LogisticRegression(max_iter=1000).fit(y, np.concatenate(list(c)))
        white_x, white_y = _whitening(x), _whitening(y)
        u, correlation, vt = np.linalg.svd(white_x.T @ (x.T @ y / len(x)) @ white_y)
        k = self._n_components
        self._to_shared = white_x @ u[:, :k], white_y @ vt[:k].T
        self.correlation: Float[np.ndarray, "k"] = correlation[:k]
        # Components that are not really shared would only blur the kernel.
        self._weight = self.correlation / np.sqrt(np.maximum(1 - self.correlation**2, 1e-3))
        rng = np.random.default_rng(self._seed)
        self._frequencies: Float[np.ndarray, "frequency k"] = rng.standard_normal((self._n_frequencies, k))
        return self

    def bags(self, coarse: Float[np.ndarray, "region dim_c"], fine: Float[np.ndarray, "region dim_f"]) -> UnorderedBags:
        """One slide as the adversary sees it; the order of `fine` may be any."""
        x, y = _centred(coarse), _centred(fine)
        return UnorderedBags(
            coarse_sign=2 * self._read_a.predict_proba(x)[:, 1] - 1,
            coarse_nuisance=x @ self._to_shared[0] * self._weight,
            fine_sign=2 * self._read_c.predict_proba(y)[:, 1] - 1,
            fine_nuisance=y @ self._to_shared[1] * self._weight,
        )

    def score(self, coarse: Float[np.ndarray, "region dim_c"], fine: Float[np.ndarray, "region dim_f"]) -> float:
        """How much A and C agree in a slide, as far as two unordered bags can tell."""
        return fourier_score(self.bags(coarse, fine), self._frequencies)


def _standardised(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    spread = values.std(axis=0)
    standardised: Float[np.ndarray, "n k"] = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return standardised


def _centred(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    centred: Float[np.ndarray, "n k"] = (values - values.mean(axis=0)).astype(np.float64)
    return centred


def _whitening(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """The map that makes the covariance the identity; directions with (almost) no variance are dropped to 0."""
    variance, directions = np.linalg.eigh(x.T @ x / len(x))
    scale = np.where(variance > 1e-9 * variance.max(), 1 / np.sqrt(np.maximum(variance, 1e-300)), 0.0)
    whitening: Float[np.ndarray, "d d"] = directions * scale
    return whitening
