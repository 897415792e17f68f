"""How large the effect is once noise is taken off, and what this cohort could have shown.

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

from parfocal.lab.synergy.moments import PairMoments
from parfocal.lab.synergy.permutation import PairingTest, Planted, candidate_statistics

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
        planted = Planted(times * edge * norm, first, second)
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
