"""The permutation test: is the within-region cross-moment of two magnifications tied to the label, and how strongly?

For each pair of magnifications and each number of components k, the class difference D of the residual cross-moments
has a leading pair of directions u, v. The statistic is the covariance of u^T F_i v with the label **after the second
moments u^T S_a u and v^T S_b v along the same directions are taken out as well**: a factor that both magnifications
share, with another spread in each class, shows in all three, and only what is left is pairing. It is divided by the
norm of what is left of the label (without that, main effects alone reject up to 70 % of null cohorts). Each statistic
is standardised by its permutations, and the largest over pairs and k is compared with the largest of each permutation:
one p-value, whatever was tried.

D is a rank-one effect plus noise with entries of variance sigma^2. Noise alone has a leading singular value near
2 sigma sqrt(k), so the observed one is inflated; what is left of it has a closed form (the spiked model of Benaych-
Georges and Nadakuditi 2012), and below the edge nothing is visible. What a cohort could have shown is measured: pairs
of known strength are planted into its own moments under permuted labels, and the test is run on them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.lab.synergy.crossfit import ResidualBasis
from parfocal.lab.synergy.moments import PairMoments

_CHUNK = 500


Planted = tuple[Float64[np.ndarray, "permutation k"], Float64[np.ndarray, "permutation k"]]
"""Pairs of known strength, one for each row of labels: first second^T is added to D, first as long as it is strong."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One pair of magnifications at one number of components.

    Attributes:
        pair: its number among the pairs.
        mpps: the pair.
        components: k.
        singular_value: the leading one of D.
        noise_variance: of an entry of D.
        first: u, in whitened components of the coarser magnification.
        second: v, of the finer one.
        z: the statistic in standard deviations of its permutations.
        p_value: of this candidate alone, not corrected for the others.
    """

    pair: int
    mpps: tuple[float, float]
    components: int
    singular_value: float
    noise_variance: float
    first: Float64[np.ndarray, " k"]
    second: Float64[np.ndarray, " k"]
    z: float
    p_value: float


@dataclass(frozen=True, eq=False)
class PairingTest:
    """What the test found.

    Attributes:
        p_value: of the maximum over pairs and k; at least one over the number of permutations plus one.
        candidates: every pair and k.
        centre: mean of each candidate's statistic over permutations.
        spread: its standard deviation.
        permuted: the maximum of each permutation, the observed one first.
    """

    p_value: float
    candidates: tuple[Candidate, ...]
    centre: Float64[np.ndarray, " candidate"]
    spread: Float64[np.ndarray, " candidate"]
    permuted: Float64[np.ndarray, " permutation"]

    @property
    def best(self) -> Candidate:
        """The candidate with the largest z."""
        return max(self.candidates, key=lambda one: one.z)


def residuals_of(moments: PairMoments, basis: ResidualBasis) -> PairMoments:
    """The moments in the residual basis."""
    k = moments.cross.shape[1]

    def project(values: np.ndarray) -> np.ndarray:
        return np.asarray((basis.columns.T @ values.reshape(len(values), -1)).reshape(-1, k, k))

    return PairMoments(moments.mpps, project(moments.cross), project(moments.first), project(moments.second))


def draw_permutations(
    number: int, site: Int64[np.ndarray, " residual"] | None, n_residuals: int, rng: np.random.Generator
) -> Int64[np.ndarray, "permutation residual"]:
    """The identity, and `number` random orders of the residuals, within sites where sites are given."""
    orders = np.empty((number + 1, n_residuals), dtype=np.int64)
    orders[0] = np.arange(n_residuals)
    groups = [np.arange(n_residuals)] if site is None else [np.flatnonzero(site == one) for one in np.unique(site)]
    for group in groups:
        keys = rng.random((number, len(group)))
        orders[1:, group] = group[keys.argsort(axis=1)]
    return orders


def pairing_test(
    pairs: Sequence[PairMoments],
    label: Float64[np.ndarray, " residual"],
    orders: Int64[np.ndarray, "permutation residual"],
    components: Sequence[int],
) -> PairingTest:
    """Test one label against all pairs and all numbers of components at once.

    Args:
        pairs: residual moments.
        label: the residual label, `basis.columns.T @ y`.
        orders: permutations of the residuals, the identity first.
        components: the numbers k that are tried.
    """
    norm = float(np.linalg.norm(label))
    labels = label[orders] / norm
    values = candidate_statistics(pairs, labels, components)
    centre, spread = values.mean(axis=1), np.maximum(values.std(axis=1), 1e-300)
    z = (values - centre[:, None]) / spread[:, None]
    candidates = []
    for number, (pair, k) in enumerate(_grid(pairs, components)):
        own = pairs[pair].cross[:, :k, :k]
        difference = np.tensordot(labels[0], own, axes=1)
        u, s, vt = np.linalg.svd(difference)
        sign = np.sign(u[np.abs(u[:, 0]).argmax(), 0])  # arbitrary, but the same at every run
        candidates.append(
            Candidate(
                pair=pair,
                mpps=pairs[pair].mpps,
                components=k,
                singular_value=float(s[0]) / norm,
                noise_variance=float((own**2).mean()) / norm**2,
                first=sign * u[:, 0],
                second=sign * vt[0],
                z=float(z[number, 0]),
                p_value=_p_value(values[number]),
            )
        )
    return PairingTest(
        p_value=_p_value(z.max(axis=0)),
        candidates=tuple(candidates),
        centre=centre,
        spread=spread,
        permuted=z.max(axis=0),
    )


def candidate_statistics(
    pairs: Sequence[PairMoments],
    labels: Float64[np.ndarray, "permutation residual"],
    components: Sequence[int],
    planted: tuple[int, Planted] | None = None,
) -> Float64[np.ndarray, "candidate permutation"]:
    """The statistic of every pair and k for every row of labels, each of norm one.

    Args:
        pairs: residual moments.
        labels: rows of permuted labels.
        components: the numbers k.
        planted: the number of a pair, and what is added to its cross-moments in proportion to the labels.
    """
    result = np.empty((len(_grid(pairs, components)), len(labels)))
    for begin in range(0, len(labels), _CHUNK):
        part = slice(begin, min(begin + _CHUNK, len(labels)))
        for number, (pair, k) in enumerate(_grid(pairs, components)):
            extra = planted[1] if planted is not None and planted[0] == pair else ()
            result[number, part] = _statistic(pairs[pair], labels[part], k, *(one[part, :k] for one in extra))
    return result


def _statistic(
    moments: PairMoments, labels: Float64[np.ndarray, "permutation residual"], k: int, *planted: np.ndarray
) -> Float64[np.ndarray, " permutation"]:
    cross = moments.cross[:, :k, :k].reshape(len(moments.cross), -1)
    difference = (labels @ cross).reshape(-1, k, k)
    if planted:
        difference += planted[0][:, :, None] * planted[1][:, None, :]
    # The leading pair alone, through the k x k Gram matrix: half the time of a full SVD.
    vectors = np.linalg.eigh(difference.transpose(0, 2, 1) @ difference)[1]
    v = vectors[:, :, -1]
    u = np.einsum("pab,pb->pa", difference, v)
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300)
    score = _along(cross, u, v)
    if planted:
        score += ((u * planted[0]).sum(axis=1) * (v * planted[1]).sum(axis=1))[:, None] * labels
    first = _along(moments.first[:, :k, :k].reshape(len(cross), -1), u, u)
    second = _along(moments.second[:, :k, :k].reshape(len(cross), -1), v, v)
    return _partial_covariance(score, labels, first, second)


def _along(
    flat: Float64[np.ndarray, "residual _entry"], u: Float64[np.ndarray, "permutation k"], v: np.ndarray
) -> Float64[np.ndarray, "permutation residual"]:
    """u^T M v of every residual's matrix."""
    outer = (u[:, :, None] * v[:, None, :]).reshape(len(u), -1)
    return np.asarray(outer @ flat.T)


def _partial_covariance(
    score: np.ndarray, label: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Float64[np.ndarray, " permutation"]:
    """Covariance of score and label after two covariates are taken out of both, over the norm of the label's rest."""
    first = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)
    second = second - (first * second).sum(axis=1, keepdims=True) * first
    second /= np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-300)
    rest = label - (first * label).sum(axis=1, keepdims=True) * first
    rest -= (second * rest).sum(axis=1, keepdims=True) * second
    return np.asarray((score * rest).sum(axis=1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-300))


def _grid(pairs: Sequence[PairMoments], components: Sequence[int]) -> list[tuple[int, int]]:
    return [(pair, k) for pair in range(len(pairs)) for k in components]


def _p_value(values: Float64[np.ndarray, " permutation"]) -> float:
    """Share of the permutations, the observed order among them, that reach the first value."""
    return float((values >= values[0] - 1e-12 * abs(values[0])).mean())


FEWEST_UNITS = 17  # 12 residuals beside a constant and two components of each kind of covariate
_STRENGTHS = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Planted strengths, in units of the visible edge sigma sqrt(k)."""


@dataclass(frozen=True, eq=False)
class Power:
    """The power curve of a cohort for one pair of magnifications.

    Attributes:
        strength: planted effects, in the units of D.
        power: share of planted cohorts that the test rejects.
        edge: the strength from which on a pair is visible at all by the formula, sigma sqrt(k).
        detectable: the strength that is found with the asked power; None where the strongest was not.
        asked: the asked power.
        level: of the test.
    """

    strength: tuple[float, ...]
    power: tuple[float, ...]
    edge: float
    detectable: float | None
    asked: float
    level: float


def debiased_effect(singular_value: float, noise_variance: float, k: int) -> float:
    """The strength of the pair behind an observed singular value of a k x k matrix; 0 where none is visible."""
    excess = singular_value**2 - 2 * k * noise_variance
    inside = excess**2 - 4 * k**2 * noise_variance**2
    if excess <= 0 or inside <= 0:
        return 0.0
    return math.sqrt((excess + math.sqrt(inside)) / 2)


def slides_needed(n: int, effect: float, detectable: float | None) -> int | None:
    """How many units (slides or patients) would show this effect: the detectable one falls with their square root.

    Never fewer than the test takes at all.
    """
    if effect <= 0 or detectable is None:
        return None
    return max(FEWEST_UNITS, math.ceil(n * (detectable / effect) ** 2))


def measure_power(
    pairs: Sequence[PairMoments],
    label: Float64[np.ndarray, " residual"],
    orders: Int64[np.ndarray, "permutation residual"],
    components: Sequence[int],
    test: PairingTest,
    *,
    asked: float,
    level: float,
    rng: np.random.Generator,
) -> Power:
    """Plant pairs into the moments of the best pair of magnifications under permuted labels, and test them.

    The planted directions are random among as many leading components as the best candidate has. The critical value is
    that of the test itself.

    Args:
        pairs: residual moments.
        label: the residual label.
        orders: permutations to plant into; not the identity.
        components: the numbers k of the test.
        test: its result: critical value and standardisation.
        asked: the power to reach, 0.8.
        level: of the test, 0.05.
        rng: of the planted directions.
    """
    norm = float(np.linalg.norm(label))
    labels = label[orders] / norm
    widest, best = max(components), test.best
    critical = float(np.quantile(test.permuted, 1 - level, method="higher"))
    edge = math.sqrt(best.noise_variance * best.components)
    first = _directions(len(labels), best.components, widest, rng)
    second = _directions(len(labels), best.components, widest, rng)
    powers = []
    for times in _STRENGTHS:
        # The labels have norm one here, so a difference of `strength` between classes appears times the norm.
        planted = times * edge * norm * first, second
        values = candidate_statistics(pairs, labels, components, (best.pair, planted))
        z = (values - test.centre[:, None]) / test.spread[:, None]
        powers.append(float((z.max(axis=0) > critical).mean()))
    strengths = tuple(times * edge for times in _STRENGTHS)
    return Power(strengths, tuple(powers), edge, _crossing(strengths, powers, asked), asked, level)


def _crossing(strengths: Sequence[float], powers: Sequence[float], asked: float) -> float | None:
    """Where the rising curve first reaches `asked`, by linear interpolation."""
    rising = np.maximum.accumulate(powers)
    if rising[-1] < asked:
        return None
    after = max(int(np.argmax(rising >= asked)), 1)
    return float(np.interp(asked, rising[after - 1 : after + 1], strengths[after - 1 : after + 1]))


def _directions(number: int, k: int, widest: int, rng: np.random.Generator) -> Float64[np.ndarray, "permutation k"]:
    directions = np.zeros((number, widest))
    directions[:, :k] = rng.standard_normal((number, k))
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))
