"""What a cohort's embeddings say before any label: whitened region means, slide means, within-region moments.

Whitening uses all slides. A permutation test allows that: it is the same for every permutation of the labels, so the
test holds given these statistics. A prediction would not allow it, because its test slides must stay unseen.

Regions are centred within their slide, or within another group such as the patient or the TMA. Centring g regions on
their own mean takes a g-th of every second moment with it, so that small slides would show less of whatever goes
together; moments are multiplied by g / (g - 1). A pair of magnifications is computed on the regions that both have,
centred on their own mean: whatever decides which tiles are absent then changes the composition of what is left, which
the covariates know, and not the scale of the moments.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from parfocal.heads.contrast.moments import cross_moments
from parfocal.heads.preparation import bounds_of
from parfocal.run.events import OnEvent, Progress
from parfocal.stats.whitening import Whitening, fit_whitening
from parfocal.store import LeftOut, SlideTokens

Read = Callable[[str], SlideTokens]
"""The tile embeddings of a slide, by its id."""

_WHITENING_SLIDES = 256
_WHITENING_REGIONS = 64
_LEAST_SPREAD = 1e-5  # of a slide's regions about their mean, over their root mean square; less is rounding


@dataclass(frozen=True, eq=False)
class Units:
    """Who is permuted: patients, each with the mean of its slides.

    Attributes:
        names: of the units.
        of_slide: the unit of each slide, from 0.
        site: the site of each unit, from 0; None where no sites are known.
        together: the same number for units that hold the same slide; None where none do.
        called: what a unit is; a slide, where nothing says which slides come from one patient.
    """

    names: tuple[str, ...]
    of_slide: Int64[np.ndarray, " slide"]
    site: Int64[np.ndarray, " unit"] | None = None
    together: Int64[np.ndarray, " unit"] | None = None
    called: Literal["patient", "slide"] = "patient"


@dataclass(frozen=True, eq=False)
class CohortRows:
    """The regions of a cohort at every magnification, whitened to a few components.

    Attributes:
        slides: ids.
        mpps: magnifications, coarse to fine.
        means: per magnification the mean over all tiles of each slide, as stored.
        rows: per magnification one row for every region of every slide, about the mean of its group; NaN where the
            region has no tile.
        start: where the regions of each slide begin in `rows`, and the end.
        group: what each region is centred within, from 0: its slide, or what its slide was said to belong to.
        mapping: per magnification the matrix that whitens centred embeddings.
        tiles: per magnification how many tiles each slide has.
        varies: per magnification whether the regions of each slide's group differ from each other at all.
        same: per pair of magnifications whether they hold the same numbers in each slide.
    """

    slides: tuple[str, ...]
    mpps: tuple[float, ...]
    means: Mapping[float, Float64[np.ndarray, "slide _dim"]]
    rows: Mapping[float, Float32[np.ndarray, "region _component"]]
    start: Int64[np.ndarray, " bound"]
    group: Int64[np.ndarray, " region"]
    mapping: Mapping[float, Float64[np.ndarray, "_dim _component"]]
    tiles: Mapping[float, Int64[np.ndarray, " slide"]]
    varies: Mapping[float, Bool[np.ndarray, " slide"]]
    same: Mapping[tuple[float, float], Bool[np.ndarray, " slide"]]

    @property
    def components(self) -> int:
        """The components that every magnification has."""
        return int(min(rows.shape[1] for rows in self.rows.values()))

    @property
    def of_region(self) -> Int64[np.ndarray, " region"]:
        """The number of each region's slide."""
        return np.repeat(np.arange(len(self.slides), dtype=np.int64), np.diff(self.start))

    def present(self, mpp: float) -> Bool[np.ndarray, " region"]:
        """Whether each region has a tile of this magnification."""
        return np.asarray(np.isfinite(self.rows[mpp][:, 0]))

    def n_paired(
        self, first: float, second: float, group: Int64[np.ndarray, " region"] | None = None
    ) -> Int64[np.ndarray, " slide"]:
        """How many regions of each slide have both magnifications and another such region in their group."""
        group = self.group if group is None else group
        both = self.present(first) & self.present(second)
        some = both & (np.bincount(group[both], minlength=int(group.max()) + 1)[group] > 1)
        return np.bincount(self.of_region[some], minlength=len(self.slides))

    def without(self, slides: Collection[str]) -> "CohortRows":
        """The rows of the other slides."""
        kept = np.array([one not in slides for one in self.slides], dtype=bool)
        regions = kept[self.of_region]
        return replace(
            self,
            slides=tuple(one for one in self.slides if one not in slides),
            rows={mpp: rows[regions] for mpp, rows in self.rows.items()},
            start=bounds_of(np.diff(self.start)[kept]),
            group=self.group[regions],
            means={mpp: means[kept] for mpp, means in self.means.items()},
            tiles={mpp: tiles[kept] for mpp, tiles in self.tiles.items()},
            varies={mpp: varies[kept] for mpp, varies in self.varies.items()},
            same={pair: same[kept] for pair, same in self.same.items()},
        )


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Within-region moments of two magnifications, one matrix for each unit (slide or patient).

    Attributes:
        mpps: the coarser and the finer magnification.
        cross: the covariance of x_a and x_b over the regions that have both, without the bias of centring.
        first: of x_a with itself, over the same regions.
        second: of x_b with itself.
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
    within: Mapping[str, str] | None = None,
    seed: int = 0,
    left_out: LeftOut | None = None,
    on_event: OnEvent | None = None,
) -> CohortRows:
    """Read every slide once (up to 256 twice, for the whitening) and keep its regions in `components` numbers.

    Args:
        read: gives the tile embeddings of a slide, such as `EmbeddingSet.read`.
        mpps: the magnifications to use, coarse to fine.
        slides: ids; each has a tile at every magnification.
        components: the most that are kept; fewer where the embeddings span fewer.
        within: what each slide's regions are centred within, such as its patient; None centres within the slide.
        seed: of the sample that the whitening is fitted on.
        left_out: takes the slides that cannot be read, and the rows are those of the others; None raises.
        on_event: told how many `slides` are read.

    Raises:
        StoreError: a slide cannot be read; with `left_out`, none can.
    """
    rng = np.random.default_rng([seed, 11])
    left_out = left_out or LeftOut(strict=True)
    within = within or {slide: slide for slide in slides}
    whitening = _fit(read, left_out, mpps, slides, within, components, rng, seed)
    mapping = {mpp: one.whitened(components).matrix for mpp, one in whitening.items()}
    k = min(one.shape[1] for one in mapping.values())
    mapping = {mpp: one[:, :k] for mpp, one in mapping.items()}
    means: dict[float, list[np.ndarray]] = {mpp: [] for mpp in mpps}
    raw: dict[float, list[np.ndarray]] = {mpp: [] for mpp in mpps}
    tiles: dict[float, list[int]] = {mpp: [] for mpp in mpps}
    same: dict[tuple[float, float], list[bool]] = {pair: [] for pair in combinations(mpps, 2)}
    kept, counts = [], []
    for number, slide in enumerate(slides):
        if on_event:
            on_event(Progress("slides", number, len(slides), slide))
        with left_out.reading(slide):
            tokens = read(slide)
            kept.append(slide)
            counts.append(tokens.n_regions)
            regions = {mpp: tokens.region_means(mpp) for mpp in mpps}
            for mpp in mpps:
                means[mpp].append(tokens.features[mpp].mean(axis=0, dtype=np.float64))
                raw[mpp].append(regions[mpp] @ mapping[mpp])
                tiles[mpp].append(len(tokens.region[mpp]))
            for (a, b), of_slides in same.items():
                of_slides.append(_is_same(regions[a], regions[b]))
    left_out.refuse_none_left(slides, "the cohort")
    of_slide = np.unique([within[slide] for slide in kept], return_inverse=True)[1].reshape(-1).astype(np.int64)
    group = np.repeat(of_slide, counts)
    whitened = {mpp: np.concatenate(own) for mpp, own in raw.items()}
    centred = {mpp: centred_within(own, group) for mpp, own in whitened.items()}
    return CohortRows(
        slides=tuple(kept),
        mpps=tuple(mpps),
        means={mpp: np.stack(own) for mpp, own in means.items()},
        rows={mpp: own.astype(np.float32) for mpp, own in centred.items()},
        start=bounds_of(np.array(counts)),
        group=group,
        mapping=mapping,
        tiles={mpp: np.array(own, dtype=np.int64) for mpp, own in tiles.items()},
        varies={mpp: _varies(centred[mpp], whitened[mpp], group)[of_slide] for mpp in mpps},
        same={pair: np.array(of_slides) for pair, of_slides in same.items()},
    )


def centred_within(
    rows: Float[np.ndarray, "region component"], group: Int64[np.ndarray, " region"]
) -> Float64[np.ndarray, "region component"]:
    """About the mean of each group; absent regions (NaN) have no say and stay absent.

    The contrast (`heads.contrast.moments.centred_regions`) centres on the slide too, and on the training mean where a
    magnification is partly read. There is no factor R / (R - 1) there, because it chooses how evidence grows with R.
    """
    there = np.isfinite(rows[:, 0])
    total = np.zeros((int(group.max()) + 1, rows.shape[1]))
    np.add.at(total, group[there], rows[there])
    count = np.bincount(group[there], minlength=len(total))
    centred = np.full(rows.shape, np.nan)
    centred[there] = rows[there] - (total / np.maximum(count, 1)[:, None])[group[there]]
    return centred


def pair_moments(
    rows: CohortRows,
    first: float,
    second: float,
    unit: Int64[np.ndarray, " slide"],
    *,
    group: Int64[np.ndarray, " region"] | None = None,
) -> PairMoments:
    """The moments of one pair of magnifications, the mean over the slides of each unit.

    A unit none of whose slides has two regions to compare has the mean of the others.

    Args:
        rows: of the cohort.
        first: the coarser magnification.
        second: the finer one.
        unit: the unit of each slide, numbered from 0 without gaps.
        group: what regions are centred within, in place of the cohort's own groups, such as a slide's tissue types.
    """
    group = rows.group if group is None else group
    k = rows.components
    both = rows.present(first) & rows.present(second)
    size = np.bincount(group[both], minlength=int(group.max()) + 1)[group]
    used = both & (size > 1)
    of_region = rows.of_region[used]
    n = np.bincount(of_region, minlength=len(rows.slides))
    bounds = [(int(a), int(b)) for a, b in pairwise(bounds_of(n))]
    unbiased = np.sqrt(size[used] / (size[used] - 1.0))[:, None]
    a, b = (unbiased * centred_within(rows.rows[mpp][used, :k], group[used]) for mpp in (first, second))
    there = np.ones(len(a), dtype=bool)
    cross, own_first, own_second = (
        units_of(cross_moments(one, other, there, bounds), unit, n > 0) for one, other in ((a, b), (a, a), (b, b))
    )
    return PairMoments((first, second), cross, own_first, own_second)


def units_of(
    values: Float[np.ndarray, "slide ..."],
    unit: Int64[np.ndarray, " slide"],
    counts: Bool[np.ndarray, " slide"] | None = None,
) -> Float64[np.ndarray, "..."]:
    """The mean over the slides of each unit that count; a unit without any has the mean of the other units."""
    counted = np.ones(len(unit), dtype=bool) if counts is None else counts
    number = np.bincount(unit[counted], minlength=int(unit.max()) + 1)
    total = np.zeros((len(number), *values.shape[1:]))
    np.add.at(total, unit[counted], values[counted])
    mean: Float64[np.ndarray, "..."] = total / np.maximum(number, 1).reshape(-1, *[1] * (values.ndim - 1))
    if not number.all():
        mean[number == 0] = mean[number > 0].mean(axis=0) if number.any() else 0.0
    return mean


def _is_same(first: Float64[np.ndarray, "region dim"], second: Float64[np.ndarray, "region other"]) -> bool:
    """Whether two magnifications of a slide hold the same numbers, so that nothing is paired."""
    return first.shape == second.shape and np.allclose(first, second, atol=1e-5 * np.nanstd(first), equal_nan=True)


def _varies(centred: np.ndarray, whitened: np.ndarray, group: np.ndarray) -> Bool[np.ndarray, " group"]:
    """Whether the regions of each group differ by more than rounding, beside how large their numbers are."""
    spread, size = (np.bincount(group, np.nansum(rows**2, axis=1)) for rows in (centred, whitened))
    return spread > _LEAST_SPREAD**2 * np.maximum(size, 1e-300)


def _fit(
    read: Read,
    left_out: LeftOut,
    mpps: Sequence[float],
    slides: Sequence[str],
    within: Mapping[str, str],
    components: int,
    rng: np.random.Generator,
    seed: int,
) -> dict[float, Whitening]:
    """Whitening per magnification from a sample of whole groups in which slides count alike."""
    members: dict[str, list[str]] = {name: [] for name in sorted({within[slide] for slide in slides})}
    names = list(members)
    for slide in slides:
        members[within[slide]].append(slide)
    picked: list[str] = []
    for number in rng.permutation(len(names)):
        if not picked or len(picked) + len(members[names[number]]) <= _WHITENING_SLIDES:
            picked += members[names[number]]
    sample: dict[float, list[tuple[str, np.ndarray]]] = {mpp: [] for mpp in mpps}
    total: dict[tuple[float, str], np.ndarray] = {}
    count: Counter[tuple[float, str]] = Counter()
    for slide in sorted(picked):
        with left_out.reading(slide):
            tokens = read(slide)
            for mpp in mpps:
                means = tokens.region_means(mpp)
                means = means[np.isfinite(means[:, 0])]
                key = (mpp, within[slide])
                total[key] = total.get(key, 0.0) + means.sum(axis=0)
                count[key] += len(means)
                sample[mpp].append((within[slide], means[rng.permutation(len(means))[:_WHITENING_REGIONS]]))
    left_out.refuse_none_left(picked, "the cohort")
    result = {}
    for mpp in mpps:
        # A group of one region is zero about its mean and says nothing of a spread.
        parts = [(name, rows) for name, rows in sample[mpp] if len(rows) and count[mpp, name] > 1]
        if not parts:
            parts = [(name, rows) for name, rows in sample[mpp] if len(rows)]
        result[mpp] = fit_whitening(
            np.concatenate([rows - total[mpp, name] / count[mpp, name] for name, rows in parts]),
            np.concatenate([np.full(len(rows), 1 / len(rows)) for _, rows in parts]),
            widest=components,
            centred=True,
            seed=seed,
        )
    return result
