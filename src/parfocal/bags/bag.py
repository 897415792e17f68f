"""What probes see of a slide: its instances, their mean, and the mean of each region, read once for all arms."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.embeddings import EmbeddingSet
from parfocal.errors import ParfocalWarning
from parfocal.geometry import format_mpp

__all__ = ["Bag", "read_bags"]


@dataclass(frozen=True, eq=False)
class Bag:
    """The vectors of one kind, such as the tiles of one magnification, of every slide.

    Attributes:
        name: the magnification as text, or `region`.
        slides: ids.
        rows: instances of all slides, one slide after the other; a slide with very many keeps a random part.
        start: where the instances of each slide begin in `rows`, and the end.
        n_instances: how many instances each slide has, kept or not.
        mean: of all instances of each slide.
        region_mean: of the instances of each region, one row for **every** region; NaN where it has none, so that a
            reader who forgets to look at `region_present` is found out.
        region_start: where the regions of each slide begin, and the end.
        region_present: whether the region has any instance.
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

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.rows.shape[1])

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
        return Bag(
            name=self.name,
            slides=tuple(self.slides[slide] for slide in numbers),
            rows=self.rows[picked],
            start=_bounds([len(one) for one in rows]),
            n_instances=self.n_instances[list(numbers)],
            mean=self.mean[list(numbers)],
            region_mean=self.region_mean[areas],
            region_start=_bounds([len(one) for one in regions]),
            region_present=self.region_present[areas],
        )

    @property
    def partly_read(self) -> bool:
        """Whether more than one region in a hundred has no instance, as after reading on a budget."""
        return bool(self.region_present.mean() < 0.99) if len(self.region_present) else False


def read_bags(
    source: EmbeddingSet, slides: Sequence[str], *, most_instances: int = 1024, seed: int = 0
) -> tuple[Bag, ...]:
    """The bags of a set, one for each magnification or one of regions; each slide is read once.

    Means are over everything that was stored; only the instances kept for attention are limited, so that a cohort of
    large slides fits into memory. A slide without a vector cannot be pooled and must not be asked for.

    Args:
        source: a set of tiles or of regions.
        slides: ids, in the order that the numbers of slides shall have.
        most_instances: the most instances kept for each slide and magnification.
        seed: of the choice of instances.

    Raises:
        StoreError: a slide is not done, or a file is damaged.
        ValueError: a slide has no vector.
    """
    names = [format_mpp(mpp) for mpp in source.mpps] if source.kind == "tiles" else ["region"]
    parts: dict[str, list[_Part]] = {name: [] for name in names}
    for number, slide in enumerate(slides):
        rng = np.random.default_rng([seed, 3, number])
        for name, part in _read(source, slide):
            parts[name].append(part.limited_to(most_instances, rng))
    bags = tuple(_join(name, tuple(slides), parts[name]) for name in names)
    for bag in bags:
        cut = int((np.diff(bag.start) < bag.n_instances).sum())
        if cut:
            warnings.warn(
                f"{cut} of {len(slides)} slides have more than {most_instances} instances in {source.name} "
                f"({bag.name}); attention sees a random part of them.",
                ParfocalWarning,
                stacklevel=2,
            )
    return bags


@dataclass(frozen=True, eq=False)
class _Part:
    """One slide's share of a bag."""

    rows: Float32[np.ndarray, "instance dim"]
    n_instances: int
    mean: Float32[np.ndarray, " dim"]
    region_mean: Float32[np.ndarray, "region dim"]
    region_present: Bool[np.ndarray, " region"]

    def limited_to(self, most: int, rng: np.random.Generator) -> "_Part":
        if len(self.rows) <= most:
            return self
        picked = np.sort(rng.choice(len(self.rows), most, replace=False))
        return _Part(self.rows[picked], self.n_instances, self.mean, self.region_mean, self.region_present)


def _read(source: EmbeddingSet, slide: str) -> list[tuple[str, _Part]]:
    if source.kind == "regions":
        rows = source.read_regions(slide).features.astype(np.float32)
        return [("region", _part(slide, rows, np.arange(len(rows)), len(rows)))]
    tokens = source.read(slide)
    return [
        (
            format_mpp(mpp),
            _part(
                slide, tokens.features[mpp].astype(np.float32), tokens.region[mpp].astype(np.int64), tokens.n_regions
            ),
        )
        for mpp in source.mpps
    ]


def _part(
    slide: str, rows: Float32[np.ndarray, "instance dim"], region: Int64[np.ndarray, " instance"], n_regions: int
) -> _Part:
    if not len(rows):
        raise ValueError(f"{slide} has no vector to pool; leave it out")
    present, first, count = np.unique(region, return_index=True, return_counts=True)
    region_mean = np.full((n_regions, rows.shape[1]), np.nan, dtype=np.float32)
    region_mean[present] = np.add.reduceat(rows, first, axis=0) / count[:, None]
    is_present = np.zeros(n_regions, dtype=bool)
    is_present[present] = True
    return _Part(rows, len(rows), rows.mean(axis=0, dtype=np.float64).astype(np.float32), region_mean, is_present)


def _join(name: str, slides: tuple[str, ...], parts: Sequence[_Part]) -> Bag:
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
    )


def _bounds(counts: Sequence[int]) -> Int64[np.ndarray, " bound"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
