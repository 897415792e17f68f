"""Slides that are nearly the same under two patients: a slide scanned twice, or a patient under two names.

They count as two where there is one, and in cross-fitting one of them teaches the other's answer. Of each slide a few
others are compared, those whose slide means and those whose moments within slides are nearest: the regions of a slide
find their like in its copy, in whatever order, and nowhere else.

Which slides have anything to pair: two regions with every magnification, and regions that differ.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.lab.synergy.moments import CohortRows, pair_moments
from parfocal.table import some_of

__all__ = ["near_identical", "units_together", "unusable_slides"]


def unusable_slides(rows: CohortRows, source: str, within: str | None = None) -> tuple[list[str], list[str]]:
    """The slides that say nothing, and a sentence for each reason.

    Args:
        rows: of the cohort.
        source: the name of the set, for messages.
        within: the column that regions are centred within; None for the slide.

    Raises:
        ConfigError: no slide says anything.
    """
    counts = np.min([rows.n_paired(a, b) for a, b in combinations(rows.mpps, 2)], axis=0)
    alone = counts == 0
    still = {mpp: ~rows.varies[mpp] & ~alone for mpp in rows.mpps}
    alike = np.any(list(still.values()), axis=0)
    where = "the slide" if within is None else f"its {within}"
    what = "region" if (np.diff(rows.start) == 1).all() else "region with all magnifications"
    remedy = (
        "name --within patient (or another column that several slides share, such as a TMA) or use larger slides"
        if within is None
        else "name a column (--within) whose groups have more regions, or use larger slides"
    )
    mpps = " and ".join(format_mpp(mpp) for mpp, own in still.items() if own.any())
    if (alone | alike).all():
        if alone.sum() >= alike.sum():
            each = "each slide" if within is None else f"each {within}"
            raise ConfigError(
                f"{each} in {source} has at most one {what}: regions are centred within {where}, and nothing is left "
                f"of one; {remedy}."
            )
        raise ConfigError(
            f"the regions of every slide in {source} are the same at {mpps} um per pixel: nothing varies within "
            "slides, so no pairing can be seen. Look at how these embeddings were made."
        )
    notes = []
    n = len(rows.slides)
    if alone.any():
        notes.append(
            f"{alone.sum()} of {n} slides have at most one {what}; regions are centred within {where}, so they say "
            f"nothing and are left out: {_some(rows, alone)}. To use them, {remedy}."
        )
    if alike.any():
        notes.append(
            f"{alike.sum()} of {n} slides have regions that are all the same at {mpps} um per pixel; they say nothing "
            f"and are left out: {_some(rows, alike)}."
        )
    return [slide for slide, gone in zip(rows.slides, alone | alike, strict=True) if gone], notes


def _some(rows: CohortRows, which: np.ndarray) -> str:
    return some_of([slide for slide, own in zip(rows.slides, which, strict=True) if own])


_COMPONENTS = 8
_NEIGHBOURS = 3
_CONTROLS = 8
_REGIONS = 64
_NEAREST = 0.5
_VOLUME, _VOLUME_OF_ALL = 1e-3, 1e-8


def near_identical(rows: CohortRows, unit: Int64[np.ndarray, " slide"], *, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs of slides of two units, by their numbers, whose regions lie on each other.

    The measure is the median squared distance of a slide's regions to the nearest region of the other, over the same
    to the slides that are most like the other in size. Half is a copy where there are many components and regions;
    with few it has to be less, because then a near region is nothing rare: as volumes, a thousandth, and over all its
    regions together a hundred-millionth.

    Args:
        rows: of the cohort.
        unit: the unit of each slide.
        seed: of the regions that are compared.
    """
    n = len(rows.slides)
    k = min(_COMPONENTS, rows.components)
    joint = np.concatenate([rows.rows[mpp][:, :k] for mpp in rows.mpps], axis=1).astype(np.float64)
    whole = np.isfinite(joint.sum(axis=1))
    regions = [np.flatnonzero(whole[a:b]) + a for a, b in zip(rows.start[:-1], rows.start[1:], strict=True)]
    sizes = np.array([len(one) for one in regions])
    rng = np.random.default_rng([seed, 29])
    asked = [joint[rng.permutation(one)[:_REGIONS]] for one in regions]
    found = []
    for i, j in sorted(_candidates(rows, unit, k)):
        if min(sizes[i], sizes[j]) == 0:
            continue
        if sizes[i] > sizes[j]:
            i, j = j, i  # the regions of the smaller one lie in the larger
        others = np.flatnonzero((unit != unit[i]) & (unit != unit[j]) & (sizes > 0))
        others = others[np.argsort(np.abs(sizes[others] - sizes[j]), kind="stable")][:_CONTROLS]
        if not len(others):
            continue
        usual = np.median([_nearest(asked[i], joint[regions[one]]) for one in others])
        volume = min(_VOLUME, _VOLUME_OF_ALL ** (1 / sizes[i]))
        if _nearest(asked[i], joint[regions[j]]) < min(_NEAREST, volume ** (2 / joint.shape[1])) * usual:
            found.append((min(i, j), max(i, j)))
    return sorted(set(found)) if n > 2 else []


def units_together(
    pairs: list[tuple[int, int]], unit: Int64[np.ndarray, " slide"], number: int
) -> Int64[np.ndarray, " unit"]:
    """The same number for units that share a slide, directly or by others."""
    together = np.arange(number)
    for i, j in pairs:
        first, second = together[unit[i]], together[unit[j]]
        together[together == max(first, second)] = min(first, second)
    return together


def _candidates(rows: CohortRows, unit: np.ndarray, k: int) -> set[tuple[int, int]]:
    """The nearest slides of other units by slide means and by moments, each column of them with the same spread."""
    every = np.arange(len(rows.slides))
    moments = [
        one[:, :k, :k].reshape(len(every), -1)
        for a, b in zip(rows.mpps[:-1], rows.mpps[1:], strict=True)
        for pair in [pair_moments(rows, a, b, every)]
        for one in (pair.cross, pair.first, pair.second)
    ]
    means = [rows.means[mpp] for mpp in rows.mpps]
    found = set()
    for profile in (np.concatenate(means, axis=1), np.concatenate(moments, axis=1)):
        spread = profile.std(axis=0)
        profile = (profile - profile.mean(axis=0)) / np.where(spread > 1e-9 * max(spread.max(), 1e-300), spread, np.inf)
        distance = _squared(profile, profile)
        distance[unit[:, None] == unit] = np.inf
        for i, near in enumerate(np.argsort(distance, axis=1, kind="stable")[:, :_NEIGHBOURS]):
            found |= {(min(i, int(j)), max(i, int(j))) for j in near if np.isfinite(distance[i, j])}
    return found


def _nearest(asked: Float64[np.ndarray, "region value"], among: Float64[np.ndarray, "other value"]) -> float:
    return float(np.median(_squared(asked, among).min(axis=1)))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(distance, 0))
