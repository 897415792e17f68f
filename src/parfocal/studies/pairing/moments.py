"""What a cohort's embeddings say before any label: whitened region means, slide means, within-region moments.

Whitening uses all slides. A permutation test allows that: it is the same for every permutation of the labels, so the
test holds given these statistics. A prediction would not allow it, because its test slides must stay unseen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from parfocal.embeddings import LeftOut, SlideTokens
from parfocal.probes.moments import cross_moments
from parfocal.probes.whitening import Preparation, Whitening, fit_whitening

__all__ = ["CohortRows", "PairMoments", "Progress", "Read", "pair_moments", "read_rows", "region_means", "units_of"]

Progress = Callable[[int, int, str], None]
"""Told how much is done, how much there is, and of what."""

Read = Callable[[str], SlideTokens]
"""The tile embeddings of a slide, by its id."""

_WHITENING_SLIDES = 256
_WHITENING_REGIONS = 64
_FEWEST_READ = 0.99


@dataclass(frozen=True, eq=False)
class CohortRows:
    """The regions of a cohort at every magnification, whitened to a few components.

    Attributes:
        slides: ids.
        mpps: magnifications, coarse to fine.
        means: per magnification the mean over all tiles of each slide, as stored.
        rows: per magnification one row for every region of every slide, about its slide's mean; NaN where the region
            has no tile.
        start: where the regions of each slide begin in `rows`, and the end.
        mapping: per magnification the matrix that whitens centred embeddings.
        partly_read: magnifications of which a part was not read; they are centred on the cohort's mean, because the
            mean of the regions that were read depends on which they were.
        centre: per partly read magnification the cohort's mean.
    """

    slides: tuple[str, ...]
    mpps: tuple[float, ...]
    means: Mapping[float, Float64[np.ndarray, "slide _dim"]]
    rows: Mapping[float, Float32[np.ndarray, "region _component"]]
    start: Int64[np.ndarray, " bound"]
    mapping: Mapping[float, Float64[np.ndarray, "_dim _component"]]
    partly_read: tuple[float, ...]
    centre: Mapping[float, Float64[np.ndarray, " _dim"]]

    @property
    def components(self) -> int:
        """The components that every magnification has."""
        return int(min(rows.shape[1] for rows in self.rows.values()))

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Begin and end of each slide's regions."""
        return [(int(a), int(b)) for a, b in zip(self.start[:-1], self.start[1:], strict=True)]

    def present(self, mpp: float) -> Bool[np.ndarray, " region"]:
        """Whether each region has a tile of this magnification."""
        there: Bool[np.ndarray, " region"] = np.isfinite(self.rows[mpp][:, 0])
        return there


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Within-region moments of two magnifications, one matrix for each unit (slide or patient).

    Attributes:
        mpps: the coarser and the finer magnification.
        cross: E[x_a x_b^T] over regions; the denominator is the number of all regions.
        first: E[x_a x_a^T].
        second: E[x_b x_b^T].
    """

    mpps: tuple[float, float]
    cross: Float64[np.ndarray, "unit k k"]
    first: Float64[np.ndarray, "unit k k"]
    second: Float64[np.ndarray, "unit k k"]


def read_rows(
    read: Read,
    mpps: Sequence[float],
    slides: Sequence[str],
    *,
    components: int,
    seed: int = 0,
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> CohortRows:
    """Read every slide once (up to 256 twice, for the whitening) and keep its regions in `components` numbers.

    Args:
        read: gives the tile embeddings of a slide, such as `EmbeddingSet.read`.
        mpps: the magnifications to use, coarse to fine.
        slides: ids; each has a tile at every magnification.
        components: the most that are kept; fewer where the embeddings span fewer.
        seed: of the sample that the whitening is fitted on.
        left_out: takes the slides that cannot be read, and the rows are those of the others; None raises.
        progress: is told of every slide.

    Raises:
        StoreError: a slide cannot be read; with `left_out`, none can.
    """
    rng = np.random.default_rng([seed, 11])
    left_out = left_out or LeftOut(strict=True)
    whitening, partly_read = _fit(read, left_out, mpps, slides, components, rng, seed)
    centre = {mpp: whitening[mpp].mean for mpp in partly_read}
    mapping = {mpp: one.map_of(Preparation(components)) for mpp, one in whitening.items()}
    k = min(one.shape[1] for one in mapping.values())
    mapping = {mpp: one[:, :k] for mpp, one in mapping.items()}
    means: dict[float, list[np.ndarray]] = {mpp: [] for mpp in mpps}
    rows: dict[float, list[np.ndarray]] = {mpp: [] for mpp in mpps}
    kept, counts = [], []
    for number, slide in enumerate(slides):
        if progress:
            progress(number, len(slides), slide)
        with left_out.reading(slide):
            tokens = read(slide)
            kept.append(slide)
            counts.append(tokens.n_regions)
            for mpp in mpps:
                means[mpp].append(tokens.features[mpp].mean(axis=0, dtype=np.float64))
                centred = _centred(region_means(tokens, mpp), centre.get(mpp))
                rows[mpp].append((centred @ mapping[mpp]).astype(np.float32))
    left_out.refuse_none_left(slides, "the cohort")
    return CohortRows(
        slides=tuple(kept),
        mpps=tuple(mpps),
        means={mpp: np.stack(own) for mpp, own in means.items()},
        rows={mpp: np.concatenate(own) for mpp, own in rows.items()},
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        mapping=mapping,
        partly_read=partly_read,
        centre=centre,
    )


def region_means(tokens: SlideTokens, mpp: float) -> Float64[np.ndarray, "region dim"]:
    """The mean of each region's tiles at one magnification; NaN where it has none."""
    features, region = tokens.features[mpp], tokens.region[mpp]
    means = np.full((tokens.n_regions, features.shape[1]), np.nan)
    if len(region):
        there, first, count = np.unique(region, return_index=True, return_counts=True)
        means[there] = np.add.reduceat(features.astype(np.float64), first, axis=0) / count[:, None]
    return means


def pair_moments(
    rows: CohortRows,
    first: float,
    second: float,
    unit: Int64[np.ndarray, " slide"],
    *,
    prepared: Mapping[float, Float[np.ndarray, "region component"]] | None = None,
) -> PairMoments:
    """The moments of one pair of magnifications, the mean over the slides of each unit.

    Args:
        rows: of the cohort.
        first: the coarser magnification.
        second: the finer one.
        unit: the unit of each slide, numbered from 0 without gaps.
        prepared: rows to use in place of the cohort's, such as those centred within types.
    """
    own = prepared or rows.rows
    k = rows.components
    a, b = own[first][:, :k], own[second][:, :k]
    in_a, in_b = np.isfinite(a[:, 0]), np.isfinite(b[:, 0])
    return PairMoments(
        (first, second),
        units_of(cross_moments(a, b, in_a & in_b, rows.bounds), unit),
        units_of(cross_moments(a, a, in_a, rows.bounds), unit),
        units_of(cross_moments(b, b, in_b, rows.bounds), unit),
    )


def units_of(values: Float[np.ndarray, "slide ..."], unit: Int64[np.ndarray, " slide"]) -> Float64[np.ndarray, "..."]:
    """The mean over the slides of each unit."""
    total = np.zeros((int(unit.max()) + 1, *values.shape[1:]))
    np.add.at(total, unit, values)
    count = np.bincount(unit).reshape(-1, *[1] * (values.ndim - 1))
    mean: Float64[np.ndarray, "..."] = total / count
    return mean


def _centred(means: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """About the slide's mean over its regions, or about `centre`."""
    if centre is not None:
        return np.asarray(means - centre)
    there = np.isfinite(means[:, 0])
    return np.asarray(means - means[there].mean(axis=0)) if there.any() else means


def _fit(
    read: Read,
    left_out: LeftOut,
    mpps: Sequence[float],
    slides: Sequence[str],
    components: int,
    rng: np.random.Generator,
    seed: int,
) -> tuple[dict[float, Whitening], tuple[float, ...]]:
    """Whitening per magnification from a sample in which slides count alike; and which ones are partly read."""
    picked = sorted(rng.choice(len(slides), min(_WHITENING_SLIDES, len(slides)), replace=False))
    sample: dict[float, list[np.ndarray]] = {mpp: [] for mpp in mpps}
    n_present, n_all = dict.fromkeys(mpps, 0), 0
    for number in picked:
        with left_out.reading(slides[number]):
            tokens = read(slides[number])
            n_all += tokens.n_regions
            for mpp in mpps:
                means = region_means(tokens, mpp)
                sample[mpp].append(means)
                n_present[mpp] += int(np.isfinite(means[:, 0]).sum())
    left_out.refuse_none_left([slides[number] for number in picked], "the cohort")
    partly_read = tuple(mpp for mpp in mpps if n_present[mpp] < _FEWEST_READ * n_all)
    result = {}
    for mpp in mpps:
        parts, weights = [], []
        for means in sample[mpp]:
            rows = means if mpp in partly_read else _centred(means, None)
            there = np.flatnonzero(np.isfinite(rows[:, 0]))
            there = rng.permutation(there)[:_WHITENING_REGIONS]
            parts.append(rows[there])
            weights.append(np.full(len(there), 1 / max(len(there), 1)))
        result[mpp] = fit_whitening(
            np.concatenate(parts),
            np.concatenate(weights),
            widest=components,
            centred=mpp not in partly_read,
            seed=seed,
        )
    return result, partly_read
