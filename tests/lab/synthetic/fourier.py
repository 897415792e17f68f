"""Late fusion re-pairs bags by what both magnifications share: how the tests look for a leak in XScale."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from parfocal.lab.synthetic.adversary import UnorderedBags


def fourier_score(bags: UnorderedBags, frequencies: Float[np.ndarray, "frequency k"]) -> float:
    """Agreement of A and C by sums over each bag alone, without any matching.

    F = sum of sign * exp(i w z) is a plain sum over a bag, what any late-fusion network can compute, yet the real part
    of <F_coarse, F_fine> is large where members with equal nuisances agree: a random-feature kernel does the pairing.
    """
    found = 0.0
    # Real and imaginary part apart, in float32: numpy takes exponentials of complex numbers one by one.
    coarse, fine = ((z @ frequencies.T).astype(np.float32) for z in (bags.coarse_nuisance, bags.fine_nuisance))
    for part in (np.cos, np.sin):
        found += float((bags.coarse_sign @ part(coarse)) @ (bags.fine_sign @ part(fine)))
    return found / len(frequencies)


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


def _centred(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    centred: Float[np.ndarray, "n k"] = (values - values.mean(axis=0)).astype(np.float64)
    return centred


def _whitening(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """The map that makes the covariance the identity; directions with (almost) no variance are dropped to 0."""
    variance, directions = np.linalg.eigh(x.T @ x / len(x))
    scale = np.where(variance > 1e-9 * variance.max(), 1 / np.sqrt(np.maximum(variance, 1e-300)), 0.0)
    whitening: Float[np.ndarray, "d d"] = directions * scale
    return whitening
