"""What of a cohort is named beside the p-values: slides that say nothing, classes that differ, slides there twice.

A slide says nothing without two regions that have every magnification, without regions that differ, or where two
magnifications hold the same numbers.

A permutation test takes classes to be alike but for their label. Where the slides of a class are smaller, fewer,
noisier or less complete, its within-region moments have another noise, and leading directions fit it. Where regions or
slides were left out for what they show, or magnifications lie on each other less well, what lies together differs by
itself. Each such difference is looked for.

Slides that are nearly the same under two patients, because one was scanned twice or a patient has two names, count as
two where there is one, and in cross-fitting one of them teaches the other's answer. Of each slide a few others are
compared, those whose slide means and those whose moments within slides are nearest: the regions of a slide find their
like in its copy, in whatever order, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats
from scipy.spatial.distance import cdist

from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.lab.synergy.moments import CohortRows, PairMoments, Units, pair_moments, units_of
from parfocal.table import some_of

Nuisances = Mapping[str, Float64[np.ndarray, " unit"]]
"""Numbers of every unit that should have nothing to do with the label, by their name."""

_LEVEL = 0.002  # of one comparison; a cohort has about eight
_COMPONENTS = 8
_NEIGHBOURS = 3
_CONTROLS = 8
_REGIONS = 64
_NEAREST = 0.5
_VOLUME, _VOLUME_OF_ALL = 1e-3, 1e-8


def unusable_slides(rows: CohortRows, source: str, within: str | None = None) -> tuple[list[str], list[str]]:
    """The slides that say nothing, and a sentence for each reason.

    Args:
        rows: of the cohort.
        source: the name of the set, for messages.
        within: the column that regions are centred within; None for the slide.

    Raises:
        ConfigError: no slide says anything.
    """
    alone = np.min([rows.n_paired(a, b) for a, b in combinations(rows.mpps, 2)], axis=0) == 0
    still = {mpp: ~rows.varies[mpp] & ~alone for mpp in rows.mpps}
    alike = np.any(list(still.values()), axis=0)
    same = np.any(list(rows.same.values()), axis=0) & ~alone & ~alike
    where, each = ("the slide", "each slide") if within is None else (f"its {within}", f"each {within}")
    what = "region" if (np.diff(rows.start) == 1).all() else "region with all magnifications"
    remedy = (
        "name --within patient (or another column that several slides share, such as a TMA) or use larger slides"
        if within is None
        else "name a column (--within) whose groups have more regions, or use larger slides"
    )
    at = f"at {' and '.join(format_mpp(mpp) for mpp, slides in still.items() if slides.any())} um per pixel"
    pairs = [pair for pair, slides in rows.same.items() if slides.any()]
    magnifications = " and of ".join(" and ".join(map(format_mpp, pair)) for pair in pairs) + " um per pixel"
    refusals = (
        f"{each} in {source} has at most one {what}: regions are centred within {where}, and nothing is left of one; "
        f"{remedy}.",
        f"the regions of every slide in {source} are the same {at}: nothing varies within slides, so no pairing can be "
        "seen. Look at how these embeddings were made.",
        f"the embeddings of {magnifications} are the same numbers in {source}: nothing is paired. Look at how they "
        "were made, or name other magnifications (--mpps).",
    )
    reasons = (
        f"have at most one {what}; regions are centred within {where}, so they say nothing and are left out",
        f"have regions that are all the same {at}; they say nothing and are left out",
        f"have the same numbers as embeddings of {magnifications}; nothing is paired there, and they are left out",
    )
    kinds = (alone, alike, same)
    silent = np.any(kinds, axis=0)
    if silent.all():
        raise ConfigError(refusals[int(np.argmax([which.sum() for which in kinds]))])
    notes = []
    for which, reason in zip(kinds, reasons, strict=True):
        if which.any():
            listed = some_of([slide for slide, gone in zip(rows.slides, which, strict=True) if gone])
            to_use = f" To use them, {remedy}." if which is alone else ""
            notes.append(f"{which.sum()} of {len(which)} slides {reason}: {listed}.{to_use}")
    return [slide for slide, gone in zip(rows.slides, silent, strict=True) if gone], notes


def nuisances(rows: CohortRows, units: Units, pairs: Sequence[PairMoments]) -> Nuisances:
    """Regions per slide, slides per patient and, at each magnification, tiles per region, absence, variance."""
    n_regions = np.diff(rows.start).astype(np.float64)
    values = {
        "regions per slide": units_of(n_regions, units.of_slide),
        f"slides per {units.called}": np.bincount(units.of_slide).astype(np.float64),
    }
    variance = {pair.mpps[0]: pair.first for pair in reversed(pairs)} | {pair.mpps[1]: pair.second for pair in pairs}
    for mpp in rows.mpps:
        at = f"at {format_mpp(mpp)} um per pixel"
        there = np.bincount(rows.of_region, rows.present(mpp), minlength=len(n_regions))
        spread = np.trace(variance[mpp], axis1=1, axis2=2)
        values |= {
            f"tiles per region {at}": units_of(rows.tiles[mpp] / np.maximum(there, 1), units.of_slide),
            f"share of regions without a tile {at}": units_of(1 - there / n_regions, units.of_slide),
            f"variance within slides {at}": spread / max(float(spread.mean()), 1e-300),
        }
    return values


def differences(named: Nuisances, label: Float64[np.ndarray, " unit"], *, is_class: bool) -> tuple[str, ...]:
    """A phrase for each nuisance that goes with the label beyond chance."""
    phrases = []
    for name, values in named.items():
        if np.ptp(values) <= 1e-9 * max(float(np.abs(values).max()), 1e-300):
            continue
        if is_class:
            inside, outside = values[label > 0.5], values[label <= 0.5]
            if _differ(inside, outside) <= _LEVEL:
                phrases.append(f"{name} ({inside.mean():.3g} in this class, {outside.mean():.3g} in the rest)")
        else:
            rank = stats.spearmanr(values, label)
            if rank.pvalue <= _LEVEL:
                phrases.append(f"{name} (rank correlation {rank.statistic:.2f})")
    return tuple(phrases)


def _differ(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of a difference in means, each side with its own variance (Welch), which may be nothing."""
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    difference = abs(float(a.mean() - b.mean()))
    return 2 * float(stats.t.sf(difference / max(error, 1e-12 * difference, 1e-300), min(len(a), len(b)) - 1))


def near_identical(rows: CohortRows, unit: Int64[np.ndarray, " slide"], *, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs of slides of two units, by their numbers, whose regions lie on each other.

    The measure is the median squared distance of a slide's regions to the nearest region of the other, over the same
    to the slides that are most like the other in size; where these are copies as well, over half of what the other's
    own regions lie apart. Half is a copy where there are many components and regions; with few it has to be less,
    because then a near region is nothing rare: as volumes, a thousandth, and over all its regions together a
    hundred-millionth.

    Args:
        rows: of the cohort.
        unit: the unit of each slide.
        seed: of the regions that are compared.
    """
    k = min(_COMPONENTS, rows.components)
    joint = np.concatenate([rows.rows[mpp][:, :k] for mpp in rows.mpps], axis=1).astype(np.float64)
    whole = np.isfinite(joint.sum(axis=1))
    regions = [joint[a:b][whole[a:b]] for a, b in pairwise(rows.start)]
    sizes = np.array([len(one) for one in regions])
    rng = np.random.default_rng([seed, 29])
    sample = [rng.permutation(one)[:_REGIONS] for one in regions]

    @cache
    def nearest(i: int, j: int) -> float:
        return float(np.median(cdist(sample[i], regions[j], "sqeuclidean").min(axis=1)))

    pairs = []
    for i, j in sorted(_candidates(rows, unit, k)):
        if min(sizes[i], sizes[j]) == 0:
            continue
        if sizes[i] > sizes[j]:
            i, j = j, i  # the regions of the smaller one lie in the larger
        others = np.flatnonzero((unit != unit[i]) & (unit != unit[j]) & (sizes > 0))
        others = others[np.argsort(np.abs(sizes[others] - sizes[j]), kind="stable")][:_CONTROLS]
        if not len(others):
            continue
        usual = max(np.median([nearest(i, one) for one in others.tolist()]), _apart(regions[j]) / 2)
        volume = min(_VOLUME, _VOLUME_OF_ALL ** (1 / sizes[i]))
        if nearest(i, j) < min(_NEAREST, volume ** (2 / joint.shape[1])) * usual:
            pairs.append((min(i, j), max(i, j)))
    return sorted(set(pairs)) if len(rows.slides) > 2 else []


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
        for a, b in pairwise(rows.mpps)
        for pair in [pair_moments(rows, a, b, every)]
        for one in (pair.cross, pair.first, pair.second)
    ]
    means = [rows.means[mpp] for mpp in rows.mpps]
    pairs = set()
    for profile in (np.concatenate(means, axis=1), np.concatenate(moments, axis=1)):
        spread = profile.std(axis=0)
        profile = (profile - profile.mean(axis=0)) / np.where(spread > 1e-9 * max(spread.max(), 1e-300), spread, np.inf)
        distance = cdist(profile, profile, "sqeuclidean")
        distance[unit[:, None] == unit] = np.inf
        for i, near in enumerate(np.argsort(distance, axis=1, kind="stable")[:, :_NEIGHBOURS]):
            pairs |= {(min(i, int(j)), max(i, int(j))) for j in near if np.isfinite(distance[i, j])}
    return pairs


def _apart(regions: Float64[np.ndarray, "region value"]) -> float:
    """The median squared distance of a region to the nearest other one of its slide; 0 where there is no other."""
    if len(regions) < 2:
        return 0.0
    distance = cdist(regions[:_REGIONS], regions, "sqeuclidean")
    np.fill_diagonal(distance, np.inf)
    return float(np.median(distance.min(axis=1)))
