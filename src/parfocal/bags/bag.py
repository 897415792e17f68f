"""What probes see of a slide: its instances, their mean, and the mean of each region, read once for all arms."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from parfocal.bags.derived import ONE_BY_ONE, PARENTS, Derived, derive, derived_names
from parfocal.errors import ParfocalWarning
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, LeftOut, SlideRegions, SlideTokens


@dataclass(frozen=True, eq=False)
class Bag:
    """The vectors of one kind, such as the tiles of one magnification, of every slide.

    Attributes:
        name: the magnification as text, `region`, or one of `derived_names`.
        slides: ids.
        rows: instances of all slides, one slide after the other; a slide with very many keeps a random part.
        start: where the instances of each slide begin in `rows`, and the end.
        n_instances: how many instances each slide has, kept or not.
        mean: of all instances of each slide.
        region_mean: of the instances of each region, one row for **every** region; NaN where it has none, so that a
            reader who forgets to look at `region_present` is found out.
        region_start: where the regions of each slide begin, and the end.
        region_present: whether the region has any instance.
        place: of each instance, x and y of the tile's centre about the region's centre in micrometres, its micrometres
            per pixel, and the number of its region in its slide; only where the bag is `tiles in place`.
    """

    name: str
    slides: tuple[str, ...]
    rows: Float32[np.ndarray, "instance dim"]
    start: Int64[np.ndarray, " bound"]
    n_instances: Int64[np.ndarray, " slide"]
    mean: Float32[np.ndarray, "slide dim"]
    region_mean: Float32[np.ndarray, "region dim"]
    region_start: Int64[np.ndarray, " bound"]
    region_present: Bool[np.ndarray, " region"]
    place: Float32[np.ndarray, "instance 4"] | None = None

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.rows.shape[1])

    @property
    def is_one_by_one(self) -> bool:
        """Whether its regions are its instances, as those of no other bag are."""
        return self.name.endswith(ONE_BY_ONE)

    def one_by_one(self) -> "Bag":
        """The same instances, of which none is known to lie with another; it shares their rows."""
        return replace(
            self,
            name=f"{self.name}{ONE_BY_ONE}",
            region_mean=self.rows,
            region_start=self.start,
            region_present=np.ones(len(self.rows), dtype=bool),
        )

    def rows_of(self, slide: int) -> Float32[np.ndarray, "instance dim"]:
        """The kept instances of one slide, by its number."""
        return self.rows[self.start[slide] : self.start[slide + 1]]

    def regions_of(self, slide: int) -> slice:
        """Where the regions of one slide lie in `region_mean`, by its number."""
        return slice(int(self.region_start[slide]), int(self.region_start[slide + 1]))

    def of_slides(self, numbers: Sequence[int]) -> "Bag":
        """The bag of some slides, by their numbers and in that order."""
        if list(numbers) == list(range(len(self.slides))):
            return self
        rows = [np.arange(self.start[slide], self.start[slide + 1]) for slide in numbers]
        regions = [np.arange(self.region_start[slide], self.region_start[slide + 1]) for slide in numbers]
        picked, areas = np.concatenate(rows), np.concatenate(regions)
        own = self.rows[picked]
        return Bag(
            name=self.name,
            slides=tuple(self.slides[slide] for slide in numbers),
            rows=own,
            start=_bounds([len(one) for one in rows]),
            n_instances=self.n_instances[list(numbers)],
            mean=self.mean[list(numbers)],
            region_mean=own if self.is_one_by_one else self.region_mean[areas],
            region_start=_bounds([len(one) for one in regions]),
            region_present=self.region_present[areas],
            place=None if self.place is None else self.place[picked],
        )

    def of_share(self, usual: Float[np.ndarray, " dim"], slides: Int64[np.ndarray, " picked"]) -> "Bag":
        """The bag with the means of some slides drawn towards the usual one by the share of regions without instance.

        So a slide of which little is read does not have a mean of chance, and one of which nothing is has the usual
        one.

        Args:
            usual: such as the mean of training slides.
            slides: numbers.
        """
        mean = self.mean.copy()
        for slide in slides:
            there = self.region_present[self.regions_of(int(slide))]
            mean[slide] = usual + there.mean() * (self.mean[slide] - usual) if there.any() else usual
        return replace(self, mean=mean)

    def without(self, slides: Collection[str]) -> "Bag":
        """The bag without some slides."""
        return self.of_slides([number for number, slide in enumerate(self.slides) if slide not in slides])


def own_names(source: EmbeddingSet) -> tuple[str, ...]:
    """The names of a set's own bags: its magnifications, or `region`."""
    return tuple(format_mpp(mpp) for mpp in source.mpps) if source.kind == "tiles" else ("region",)


def bag_of_slide(tokens: SlideTokens, mpp: float) -> Bag:
    """The bag of one slide's tiles of one magnification, all of them kept.

    Raises:
        ValueError: the slide has no tile of that magnification.
    """
    derived = _own(tokens, mpp)
    return _join(format_mpp(mpp), (tokens.slide,), [_part(tokens.slide, derived, tokens.n_regions)])


def read_bags(
    source: EmbeddingSet,
    slides: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    most_instances: int = 1024,
    seed: int = 0,
    left_out: LeftOut | None = None,
    seen_as: Callable[[SlideTokens], Iterable[SlideTokens]] | None = None,
) -> tuple[Bag, ...]:
    """The bags of a set, one for each magnification or one of regions, or those named; each slide is read once.

    Means are over everything that was stored; only the instances kept for attention are limited, so that a cohort of
    large slides fits into memory. A slide without a vector cannot be pooled and must not be asked for.

    Args:
        source: a set of tiles or of regions.
        slides: ids, in the order that the numbers of slides shall have.
        names: which bags, its own or those of `derived_names`, or one of these `one_by_one`, in the order of the
            result; its own when None.
        most_instances: the most instances kept for each slide and magnification.
        seed: of the choice of instances.
        left_out: takes the slides that cannot be read, and the bags are those of the others; None raises.
        seen_as: what a slide of tiles is seen as, such as itself and itself read in part. Each of these is a slide of
            the bags under the same id, one after the other; as it was read where None.

    Raises:
        ConfigError: a slide has no finest tile with all its parents, and `parents` is asked for.
        StoreError: a slide is not done, a file is damaged, or rows are not finite; with `left_out`, of every slide.
        ValueError: a slide has no vector, or the set has no bag of a name.
    """
    known = (*own_names(source), *derived_names(source))
    unknown = [name for name in names or () if name.removesuffix(ONE_BY_ONE) not in known]
    if unknown:
        raise ValueError(f"{source.name} has no bag {unknown[0]!r}; it has {', '.join(known)}")
    names = own_names(source) if names is None else tuple(dict.fromkeys(names))
    parts: dict[str, list[_Part]] = {name.removesuffix(ONE_BY_ONE): [] for name in names}
    n_without = n_finest = 0
    kept: list[str] = []
    left_out = left_out or LeftOut(strict=True)
    n_done = 0
    for slide in slides:
        with left_out.reading(slide):
            for sight, shown in enumerate(_read(source, slide, seen_as)):
                for name, derived in _bags_of(source, shown, list(parts)):
                    # A stream for each bag and sight: what is kept of one does not depend on which others there are.
                    stream = [seed, 3, n_done, known.index(name)]
                    rng = np.random.default_rng([*stream, sight] if sight else stream)
                    parts[name].append(_part(slide, derived, shown.n_regions).limited_to(most_instances, rng))
                    if name == PARENTS:
                        n_without += derived.n_without
                        n_finest += derived.n_without + len(derived.rows)
                kept.append(slide)
            n_done += 1
    left_out.refuse_none_left(slides, source.name)
    bags = {name: _join(name, tuple(kept), own) for name, own in parts.items()}
    if n_without:
        warnings.warn(
            f"{n_without} of {n_finest} finest tiles in {source.name} lack a tile of a coarser magnification over them "
            f"and are not in the bag {PARENTS}.",
            ParfocalWarning,
            stacklevel=2,
        )
    for bag in bags.values():
        cut = len({kept[number] for number in np.flatnonzero(np.diff(bag.start) < bag.n_instances)})
        if cut:
            warnings.warn(
                f"{cut} of {len(set(kept))} slides have more than {most_instances} instances in {source.name} "
                f"({bag.name}); attention sees a random part of them.",
                ParfocalWarning,
                stacklevel=2,
            )
    return tuple(bags[name] if name in bags else bags[name.removesuffix(ONE_BY_ONE)].one_by_one() for name in names)


@dataclass(frozen=True, eq=False)
class _Part:
    """One slide's share of a bag."""

    rows: Float32[np.ndarray, "instance dim"]
    n_instances: int
    mean: Float32[np.ndarray, " dim"]
    region_mean: Float32[np.ndarray, "region dim"]
    region_present: Bool[np.ndarray, " region"]
    place: Float32[np.ndarray, "instance 4"] | None

    def limited_to(self, most: int, rng: np.random.Generator) -> "_Part":
        if len(self.rows) <= most:
            return self
        if self.place is None:
            picked = np.sort(rng.choice(len(self.rows), most, replace=False))
            return replace(self, rows=self.rows[picked])
        # Whole regions: a region encoder is shown all tiles of a region, and one region at least.
        present, count = np.unique(self.place[:, 3], return_counts=True)
        order = rng.permutation(len(present))
        kept = order[: max(1, int((np.cumsum(count[order]) <= most).sum()))]
        picked = np.flatnonzero(np.isin(self.place[:, 3], present[kept]))
        return replace(self, rows=self.rows[picked], place=self.place[picked])


def _read(
    source: EmbeddingSet, slide: str, seen_as: Callable[[SlideTokens], Iterable[SlideTokens]] | None
) -> Iterable[SlideTokens | SlideRegions]:
    """One slide, as often as it is seen."""
    if source.kind == "regions":
        return [source.read_regions(slide)]
    tokens = source.read(slide)
    return [tokens] if seen_as is None else seen_as(tokens)


def _bags_of(
    source: EmbeddingSet, shown: SlideTokens | SlideRegions, names: Sequence[str]
) -> Iterator[tuple[str, Derived]]:
    """Each named bag of one slide, one after the other."""
    if isinstance(shown, SlideRegions):
        rows = shown.features.astype(np.float32)
        yield "region", Derived(rows, np.arange(len(rows)))
        return
    own = {format_mpp(mpp): mpp for mpp in source.mpps}
    for name in names:
        yield name, _own(shown, own[name]) if name in own else derive(source, shown, name)


def _own(tokens: SlideTokens, mpp: float) -> Derived:
    return Derived(tokens.features[mpp].astype(np.float32), tokens.region[mpp].astype(np.int64))


def _part(slide: str, derived: Derived, n_regions: int) -> _Part:
    rows = derived.rows
    if not len(rows):
        raise ValueError(f"{slide} has no vector to pool; leave it out")
    present, first, count = np.unique(derived.region, return_index=True, return_counts=True)
    region_mean = np.full((n_regions, rows.shape[1]), np.nan, dtype=np.float32)
    region_mean[present] = np.add.reduceat(rows, first, axis=0) / count[:, None]
    is_present = np.zeros(n_regions, dtype=bool)
    is_present[present] = True
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _Part(rows, len(rows), mean, region_mean, is_present, derived.place)


def _join(name: str, slides: tuple[str, ...], parts: Sequence[_Part]) -> Bag:
    places = [part.place for part in parts if part.place is not None]
    return Bag(
        name=name,
        slides=slides,
        rows=np.concatenate([part.rows for part in parts]),
        start=_bounds([len(part.rows) for part in parts]),
        n_instances=np.array([part.n_instances for part in parts], dtype=np.int64),
        mean=np.stack([part.mean for part in parts]),
        region_mean=np.concatenate([part.region_mean for part in parts]),
        region_start=_bounds([len(part.region_present) for part in parts]),
        region_present=np.concatenate([part.region_present for part in parts]),
        place=np.concatenate(places) if places else None,
    )


def _bounds(counts: Sequence[int]) -> Int64[np.ndarray, " bound"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
