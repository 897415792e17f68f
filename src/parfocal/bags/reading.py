"""The bags of a set: each slide is read once, and again where the vectors of all slides are more than memory holds."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32

from parfocal.bags.bag import Bag, bounds
from parfocal.bags.derived import ONE_BY_ONE, PARENTS, Derived, derive, derived_names, mpps_behind
from parfocal.bags.rows import Rows, RowsAsNeeded
from parfocal.errors import ParfocalWarning, StoreError
from parfocal.geometry import format_mpp
from parfocal.run.cache import content_digest
from parfocal.store import EmbeddingSet, LeftOut, SlideRegions, SlideTokens
from parfocal.store.recent import Recent

MOST_BYTES = 2 << 30
"""What the vectors of a cohort may take in memory where nothing else is asked for."""

_RECENT = 8


def own_names(source: EmbeddingSet) -> tuple[str, ...]:
    """The names of a set's own bags: its magnifications, or `region`."""
    return tuple(format_mpp(mpp) for mpp in source.mpps) if source.kind == "tiles" else ("region",)


def bag_of_slide(tokens: SlideTokens, mpp: float) -> Bag:
    """The bag of one slide's tiles of one magnification, all of them kept.

    Raises:
        ValueError: the slide has no tile of that magnification.
    """
    part = _part(tokens.slide, _own(tokens, mpp), tokens.n_regions)
    return _join(format_mpp(mpp), (tokens.slide,), [part.facts], part.rows, part.region_mean)


def read_bags(
    source: EmbeddingSet,
    slides: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    most_instances: int = 1024,
    seed: int = 0,
    left_out: LeftOut | None = None,
    seen_as: Callable[[SlideTokens], Iterable[SlideTokens]] | None = None,
    most_bytes: int | None = None,
) -> tuple[Bag, ...]:
    """The bags of a set, one for each magnification or one of regions, or those named; each slide is read once.

    Means are over everything that was stored; only the instances kept for attention are limited. A slide without a
    vector cannot be pooled and must not be asked for.

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
        most_bytes: what the vectors of all bags may take in memory. Where they are more, none is kept, and a slide is
            read again whenever its vectors are asked for. They are kept in any case where None, and where slides are
            `seen_as` something, which may take long.

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
    wanted = dict.fromkeys(name.removesuffix(ONE_BY_ONE) for name in names)
    recent = Recent[_Part](_RECENT)
    makers = {name: _Maker(source, name, most_instances, (seed, 3), known.index(name), recent) for name in wanted}
    vectors = _Vectors(wanted, None if seen_as is not None else most_bytes)
    facts: dict[str, list[_Facts]] = {name: [] for name in wanted}
    n_without = n_finest = 0
    kept: list[str] = []
    left_out = left_out or LeftOut(strict=True)
    n_done = 0
    for slide in slides:
        with left_out.reading(slide):
            state = source.state(slide)
            for sight, shown in enumerate(_read(source, slide, seen_as)):
                decided_by = content_digest(shown) if vectors.may_be_too_many else ""
                for name, maker in makers.items():
                    derived = _derived(source, shown, name)
                    part = maker.part(slide, derived, shown.n_regions, n_done, sight)
                    facts[name].append(part.facts)
                    vectors.add(name, part)
                    maker.remember(slide, n_done, state, decided_by)
                    if name == PARENTS:
                        n_without += derived.n_without
                        n_finest += derived.n_without + len(derived.rows)
                kept.append(slide)
            n_done += 1
    left_out.refuse_none_left(slides, source.name)
    bags = {name: _join(name, tuple(kept), facts[name], *vectors.of(makers[name], facts[name])) for name in wanted}
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
class _Facts:
    """What is always known of one slide's share of a bag."""

    n_kept: int
    n_instances: int
    mean: Float32[np.ndarray, " dim"]
    region_present: Bool[np.ndarray, " region"]
    place: Float32[np.ndarray, "instance 4"] | None


@dataclass(frozen=True, eq=False)
class _Part:
    """One slide's share of a bag."""

    facts: _Facts
    rows: Float32[np.ndarray, "instance dim"]
    region_mean: Float32[np.ndarray, "region dim"]

    def limited_to(self, most: int, rng: np.random.Generator) -> "_Part":
        place = self.facts.place
        if len(self.rows) <= most:
            return self
        if place is None:
            picked = np.sort(rng.choice(len(self.rows), most, replace=False))
        else:
            # Whole regions: a region encoder is shown all tiles of a region, and one region at least.
            present, count = np.unique(place[:, 3], return_counts=True)
            order = rng.permutation(len(present))
            kept = order[: max(1, int((np.cumsum(count[order]) <= most).sum()))]
            picked = np.flatnonzero(np.isin(place[:, 3], present[kept]))
            place = place[picked]
        return replace(self, facts=replace(self.facts, n_kept=len(picked), place=place), rows=self.rows[picked])


@dataclass(frozen=True, eq=False)
class _Maker:
    """How a slide's share of one bag is made, the first time and again."""

    source: EmbeddingSet
    name: str
    most_instances: int
    stream: tuple[int, ...]
    number: int
    recent: Recent[_Part]
    slides: list[str] = field(default_factory=list)
    done_before: list[int] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    decided_by: list[Any] = field(default_factory=list)

    def part(self, slide: str, derived: Derived, n_regions: int, n_done: int, sight: int = 0) -> _Part:
        # A stream for each bag and sight: what is kept of one does not depend on which others there are.
        stream = [*self.stream, n_done, self.number]
        rng = np.random.default_rng([*stream, sight] if sight else stream)
        return _part(slide, derived, n_regions).limited_to(self.most_instances, rng)

    def remember(self, slide: str, n_done: int, state: tuple[int, int], decided_by: str) -> None:
        self.slides.append(slide)
        self.done_before.append(n_done)
        self.states.append(state)
        self.decided_by.append([decided_by, self.name, self.most_instances, *self.stream, n_done, self.number])

    def again(self, place: int) -> _Part:
        return self.recent.get((self.name, place), lambda: self._read_again(place))

    def _read_again(self, place: int) -> _Part:
        slide, source = self.slides[place], self.source
        if source.state(slide) != self.states[place]:
            raise StoreError(
                f"{slide} of {source} was changed while it was in use. Run again when nothing writes to that set."
            )
        shown: SlideTokens | SlideRegions
        if source.kind == "regions":
            shown = source.read_regions(slide)
        else:
            shown = source.read(slide, mpps_behind(source, self.name))
        return self.part(slide, _derived(source, shown, self.name), shown.n_regions, self.done_before[place])


@dataclass(frozen=True, eq=False)
class _Again:
    """Reads vectors of a slide again; it can be pickled, so that another process reads them itself."""

    maker: _Maker
    which: Literal["rows", "region_mean"]

    def __call__(self, place: int) -> Float32[np.ndarray, "_row _dim"]:
        vectors: Float32[np.ndarray, "_row _dim"] = getattr(self.maker.again(place), self.which)
        return vectors


class _Vectors:
    """The vectors of all bags as long as they are not too many; from then on none."""

    def __init__(self, names: Iterable[str], most_bytes: int | None) -> None:
        self.may_be_too_many = most_bytes is not None
        self._left = most_bytes or 0
        self._held: dict[str, list[_Part]] | None = {name: [] for name in names}

    def add(self, name: str, part: _Part) -> None:
        if self._held is None:
            return
        self._left -= part.rows.nbytes + part.region_mean.nbytes
        if self.may_be_too_many and self._left < 0:
            self._held = None
            return
        self._held[name].append(part)

    def of(self, maker: _Maker, facts: Sequence[_Facts]) -> tuple[Rows, Rows]:
        """The rows and the region means of a bag; what is held is given away, so that it is not there twice."""
        if self._held is not None:
            parts = self._held.pop(maker.name)
            return np.concatenate([part.rows for part in parts]), np.concatenate([part.region_mean for part in parts])
        dim, decided_by, slides = len(facts[0].mean), tuple(maker.decided_by), np.arange(len(facts))
        rows, regions = bounds([one.n_kept for one in facts]), bounds([len(one.region_present) for one in facts])
        return (
            RowsAsNeeded(_Again(maker, "rows"), slides, rows, dim, decided_by),
            RowsAsNeeded(_Again(maker, "region_mean"), slides, regions, dim, decided_by),
        )


def _read(
    source: EmbeddingSet, slide: str, seen_as: Callable[[SlideTokens], Iterable[SlideTokens]] | None
) -> Iterator[SlideTokens | SlideRegions]:
    """One slide, as often as it is seen."""
    if source.kind == "regions":
        yield source.read_regions(slide)
        return
    tokens = source.read(slide)
    yield from [tokens] if seen_as is None else seen_as(tokens)


def _derived(source: EmbeddingSet, shown: SlideTokens | SlideRegions, name: str) -> Derived:
    """One named bag of one slide."""
    if isinstance(shown, SlideRegions):
        rows = shown.features.astype(np.float32)
        return Derived(rows, np.arange(len(rows)))
    own = {format_mpp(mpp): mpp for mpp in source.mpps}
    return _own(shown, own[name]) if name in own else derive(source, shown, name)


def _own(tokens: SlideTokens, mpp: float) -> Derived:
    return Derived(tokens.features[mpp].astype(np.float32), tokens.region[mpp].astype(np.int64))


def _part(slide: str, derived: Derived, n_regions: int) -> _Part:
    rows = derived.rows
    if not len(rows):
        raise ValueError(f"{slide} has no vector to pool; leave it out")
    present, first, count = np.unique(derived.region, return_index=True, return_counts=True)
    region_mean = np.full((n_regions, rows.shape[1]), np.nan, dtype=np.float32)
    # One tile is its own mean; adding up parts of one row each takes ten times as long as to read them.
    one_each = len(present) == len(rows)
    region_mean[present] = rows if one_each else np.add.reduceat(rows, first, axis=0) / count[:, None]
    is_present = np.zeros(n_regions, dtype=bool)
    is_present[present] = True
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _Part(_Facts(len(rows), len(rows), mean, is_present, derived.place), rows, region_mean)


def _join(name: str, slides: tuple[str, ...], facts: Sequence[_Facts], rows: Rows, region_mean: Rows) -> Bag:
    places = [one.place for one in facts if one.place is not None]
    return Bag(
        name=name,
        slides=slides,
        rows=rows,
        start=bounds([one.n_kept for one in facts]),
        n_instances=np.array([one.n_instances for one in facts], dtype=np.int64),
        mean=np.stack([one.mean for one in facts]),
        region_mean=region_mean,
        region_start=bounds([len(one.region_present) for one in facts]),
        region_present=np.concatenate([one.region_present for one in facts]),
        place=np.concatenate(places) if places else None,
    )
