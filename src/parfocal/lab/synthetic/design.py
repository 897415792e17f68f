"""Who has what: how attributes are dealt to regions so that only their pairing knows the label.

Regions of a slide fall into strata, everything that two magnifications of a region share. In every stratum the number
of regions with A=1 and the number with C=1 is fixed whatever the label is; the label decides only how many of them are
the *same* regions, by Fisher's non-central hypergeometric law with odds omega (positive) or 1/omega (negative).
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int


@lru_cache(maxsize=64)
def overlap_law(size: int, n_a: int, n_c: int, omega: float) -> Float[np.ndarray, "overlap"]:
    """Probability of each overlap 0..min(n_a, n_c) of two sets in a stratum, under odds `omega`.

    Fisher's non-central hypergeometric law: weight C(n_a, m) C(size - n_a, n_c - m) omega**m. `inf` puts all on the
    largest overlap, 0 on the smallest.

    Raises:
        ValueError: a set is larger than the stratum, or omega is negative.
    """
    if not (0 <= n_a <= size and 0 <= n_c <= size) or omega < 0:
        raise ValueError(f"no overlap law for sets of {n_a} and {n_c} in a stratum of {size} with omega={omega:g}")
    overlaps = np.arange(min(n_a, n_c) + 1)
    ways = np.array([math.comb(n_a, m) * math.comb(size - n_a, n_c - m) if n_c >= m else 0 for m in overlaps], float)
    possible = np.flatnonzero(ways)
    law = np.zeros(len(overlaps))
    if math.isinf(omega):
        law[possible[-1]] = 1.0
    elif omega == 0:
        law[possible[0]] = 1.0
    else:
        law[possible] = ways[possible] * omega ** (possible - possible[0]).astype(float)
        law /= law.sum()
    # One law serves every stratum of every slide.
    law.flags.writeable = False
    return law


def deal_pairing(
    strata: Int[np.ndarray, "region"], *, positive: bool, omega: float, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "region"], Bool[np.ndarray, "region"]]:
    """Deal A and C to the regions of one slide: half of each stratum has A=1, half has C=1.

    Args:
        strata: the stratum of each region, any whole numbers; each holds an even number of regions.
        positive: the slide's label.
        omega: odds of A and C lying in the same region, above 1; `inf` gives A = C in positive slides and A = not C in
            negative ones.
        rng: decides positions and overlaps.

    Returns:
        A and C of each region.

    Raises:
        ValueError: a stratum has an odd number of regions.
    """
    a, c = np.zeros(len(strata), dtype=bool), np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        regions = np.flatnonzero(strata == stratum)
        if len(regions) % 2:
            raise ValueError(f"stratum {stratum} has {len(regions)} regions; half of them needs an even number")
        half = len(regions) // 2
        a[regions], c[regions] = deal_overlap(len(regions), half, half, omega if positive else 1 / omega, rng)
    return a, c


def deal_overlap(
    size: int, n_a: int, n_c: int, odds: float, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "region"], Bool[np.ndarray, "region"]]:
    """Deal A to `n_a` and C to `n_c` regions of one stratum, with an overlap drawn from `overlap_law`."""
    law = overlap_law(size, n_a, n_c, odds)
    overlap = int(rng.choice(len(law), p=law))
    regions = rng.permutation(size)
    a, c = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    a[regions[:n_a]] = True
    c[regions[:overlap]] = True
    c[regions[n_a : n_a + n_c - overlap]] = True
    return a, c


def balanced_labels(n_slides: int, n_labels: int, rng: np.random.Generator) -> Bool[np.ndarray, "slide label"]:
    """Binary labels, each of them and each combination as evenly spread as the number of slides allows."""
    combinations = np.arange(n_slides)[:, None] >> np.arange(n_labels) & 1
    return rng.permutation(combinations.astype(bool), axis=0)
