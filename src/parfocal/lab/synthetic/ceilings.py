"""What the best possible observer reaches on each cohort: closed forms, exact sums, and an exact likelihood ratio.

Signs: a = 2A-1 is seen at the coarse magnification, c = 2C-1 at the fine one. A noisy observer of a sign is summed up
by its *reliability* eta = E[m^2], m the posterior mean of the sign: 0 knows nothing, 1 everything.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.signal import convolve2d
from scipy.special import logsumexp, ndtr, ndtri

from parfocal.lab.synthetic.design import overlap_law


def auc_of_laws(positive: Float[np.ndarray, "outcome"], negative: Float[np.ndarray, "outcome"]) -> float:
    """The AUC of the best observer of a discrete outcome: its score is the likelihood ratio.

    Args:
        positive: probability of each outcome in the positive class.
        negative: the same in the negative class.
    """
    possible = (positive > 0) | (negative > 0)
    positive, negative = positive[possible], negative[possible]
    with np.errstate(divide="ignore"):
        ratio = np.log(positive) - np.log(negative)
    # Outcomes with one likelihood ratio are a tie; rounding keeps equal ratios together that differ in the last bits.
    _, group = np.unique(np.round(ratio, 9), return_inverse=True)
    mass_positive = np.bincount(group, positive)
    mass_negative = np.bincount(group, negative)
    below = np.cumsum(mass_negative) - mass_negative
    return float((mass_positive * (below + mass_negative / 2)).sum() / (positive.sum() * negative.sum()))


def reliability(separation: float) -> float:
    """The reliability of Gaussian evidence whose two states lie `separation` standard deviations apart.

    E tanh^2(l / 2) over the log likelihood ratio l ~ N(d^2 / 2, d^2): .204, .381, .550, .803, .931 for d = 1, 1.5, 2,
    3, 4.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    log_ratio = separation**2 / 2 + separation * nodes
    return float(np.tanh(log_ratio / 2) ** 2 @ weights / weights.sum())


def few_tiles_ratio(
    y: Float[np.ndarray, "region tile"], n_informative: int, shift: float
) -> Float[np.ndarray, "region"]:
    """Likelihood ratio of C=1 given one number per tile, when `n_informative` unknown tiles are shifted."""
    n_tiles = y.shape[1]
    polynomial = np.zeros((len(y), n_informative + 1))
    polynomial[:, 0] = 1.0
    for tile in range(n_tiles):
        factor = np.exp(shift * y[:, tile] - shift**2 / 2)[:, None]
        polynomial[:, 1:] += factor * polynomial[:, :-1]
    return polynomial[:, -1] / math.comb(n_tiles, n_informative)


def iid_single_auc(tau: float, share: float, n_regions: int, eta: float = 1.0) -> float:
    """XScale-iid, one magnification: its attribute has probability `share` +- `tau`; many regions."""
    return float(ndtr(tau * math.sqrt(2 * n_regions * eta / (share * (1 - share)))))


def iid_late_auc(rho: float, eta_a: float = 1.0, eta_c: float = 1.0) -> float:
    """XScale-iid without main effects, any function of the two unordered bags; many regions, whatever their number."""
    return (1 + rho * math.sqrt(eta_a * eta_c)) / 2


def iid_late_auc_exact(a: float, c: float, tau_a: float, tau_c: float, kappa: float, n_regions: int) -> float:
    """XScale-iid, late fusion with perfect reading, exactly: the law of (N_A, N_C) in both classes.

    Args:
        a: mean probability of A=1.
        c: mean probability of C=1.
        tau_a: A's main effect: its probability is `a` +- `tau_a`.
        tau_c: the same for C.
        kappa: P(A=1, C=1) is the product of the two probabilities +- `kappa`.
        n_regions: regions of a slide.
    """
    laws = []
    for sign in (1, -1):
        cell = iid_cell_law(a, c, tau_a, tau_c, kappa, positive=sign > 0)
        law = np.ones((1, 1))
        for _ in range(n_regions):
            law = convolve2d(law, cell)
        laws.append(law.ravel())
    return auc_of_laws(laws[0], laws[1])


def iid_cell_law(
    a: float, c: float, tau_a: float, tau_c: float, kappa: float, *, positive: bool
) -> Float[np.ndarray, "2 2"]:
    """Probability of (A, C) for one region of XScale-iid.

    Raises:
        ValueError: a probability would be negative.
    """
    sign = 1 if positive else -1
    p_a, p_c = a + sign * tau_a, c + sign * tau_c
    both = p_a * p_c + sign * kappa
    law = np.array([[1 - p_a - p_c + both, p_c - both], [p_a - both, both]])
    if law.min() < 0:
        raise ValueError(f"kappa={kappa:g} is too large for P(A)={p_a:g} and P(C)={p_c:g}: a probability is negative")
    return law


def iid_mixed_auc(rho: float, n_regions: int, eta_a: float = 1.0, eta_c: float = 1.0) -> float:
    """XScale-iid without main effects, an observer that knows which tiles belong together; many regions."""
    return float(ndtr(rho * math.sqrt(2 * n_regions * eta_a * eta_c)))


def late_auc_of_main_effects(auc_coarse: float, auc_fine: float) -> float:
    """XScale-iid with main effects: late fusion adds the squared effects of its two parts."""
    return float(ndtr(math.hypot(ndtri(auc_coarse), ndtri(auc_fine))))


def mixed_auc_of_main_effects(
    auc_coarse: float, auc_fine: float, rho: float, n_regions: int, eta_a: float = 1.0, eta_c: float = 1.0
) -> float:
    """XScale-iid with main effects: the pairing adds its own squared effect."""
    pairing = 2 * n_regions * rho**2 * eta_a * eta_c
    return float(ndtr(math.sqrt(ndtri(auc_coarse) ** 2 + ndtri(auc_fine) ** 2 + pairing)))


def with_label_noise(auc: float, flipped: float) -> float:
    """The AUC when a share `flipped` of the labels of each class is wrong."""
    return 0.5 + (1 - 2 * flipped) * (auc - 0.5)


def strat_perfect_auc(omega: float, strata: Sequence[int] = (8,) * 8) -> float:
    """XScale-strat, perfect reading, exactly: .748, .888, .981, .9995 for omega = 1.25, 1.5, 2, 3.

    The likelihood ratio is a function of the total overlap of A and C, whose law is the convolution of the strata's.
    Late fusion and single magnifications are at 1/2.

    Args:
        omega: odds of the positive class; 1 / omega in the negative one.
        strata: regions of each stratum, even numbers; half have A=1, half have C=1.
    """
    laws = []
    for odds in (omega, 1 / omega):
        total = np.ones(1)
        for size in strata:
            total = np.convolve(total, overlap_law(size, size // 2, size // 2, odds))
        laws.append(total)
    return auc_of_laws(laws[0], laws[1])


def strat_log_likelihood_ratio(
    log_odds_a: Float[np.ndarray, "slide stratum region"],
    log_odds_c: Float[np.ndarray, "slide stratum region"],
    omega: float,
) -> Float[np.ndarray, "slide"]:
    """XScale-strat, noisy reading: the exact log likelihood ratio of the label, by enumeration.

    Per stratum all ways to place A and C are summed, 70 x 70 for eight regions: each weighs omega^overlap times the
    evidence for it. Nothing better can be computed from the evidence, so its AUC over slides is the ceiling.

    Args:
        log_odds_a: evidence log p(x | A=1) - log p(x | A=0) of every region, by stratum.
        log_odds_c: the same for C.
        omega: odds of the positive class.
    """
    size = log_odds_a.shape[2]
    places = np.array([[int(r in chosen) for r in range(size)] for chosen in combinations(range(size), size // 2)])
    overlap = places @ places.T
    evidence_a = log_odds_a @ places.T  # (slide, stratum, placement)
    evidence_c = log_odds_c @ places.T
    # Shifted by the largest, so that the exponentials stay in range; the shift cancels in the ratio.
    weight_a = np.exp(evidence_a - evidence_a.max(axis=2, keepdims=True))
    weight_c = np.exp(evidence_c - evidence_c.max(axis=2, keepdims=True))
    total = np.zeros(len(log_odds_a))
    for sign in (1, -1):
        kernel = omega ** (sign * overlap.astype(float))
        likelihood = np.log(((weight_a @ kernel) * weight_c).sum(axis=2))
        normaliser = logsumexp(sign * overlap * math.log(omega))
        total += sign * (likelihood - normaliser).sum(axis=1)
    return total


def rare_budget_auc(
    budget: float, *, guided: bool, rho: float = 1 / 6, n_regions: int = 64, share: float = 0.1
) -> float:
    """XScale-rare, perfect reading: the AUC when a share `budget` of the regions is read at the fine magnification.

    Args:
        budget: share of regions read, 0 to 1; the coarse magnification is read everywhere.
        guided: whether the regions with A=1 are read first, as the coarse magnification allows, or any at random. A
            region with A=1 tells (1 - share) / share times as much as one with A=0.
        rho: correlation of A and C in a class.
        n_regions: regions of a slide.
        share: probability of A=1.
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget={budget:g} is not a share between 0 and 1")
    information = budget
    if guided:
        rare = min(budget, share) * (1 - share) / share
        information = rare + max(budget - share, 0) * share / (1 - share)
    return float(ndtr(rho * math.sqrt(2 * n_regions * information)))


def redundancy_reliability(separation_coarse: float, separation_fine: float) -> tuple[float, float]:
    """One attribute seen at two magnifications: the reliability of late fusion and of mixing.

    Late fusion knows how reliable each bag is, mixing adds the evidence of each region: .339 and .350 for separations 1
    and 1. Redundant information hardly rewards mixing.
    """
    coarse, fine = reliability(separation_coarse), reliability(separation_fine)
    late = (coarse + fine - 2 * coarse * fine) / (1 - coarse * fine)
    return late, reliability(math.hypot(separation_coarse, separation_fine))
