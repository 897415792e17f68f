"""What probes see of a slide: its instances, their mean, and the mean of each region, the same for all arms."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from parfocal.bags.derived import ONE_BY_ONE
from parfocal.bags.rows import RowsAsNeeded

_TOGETHER = 1 << 24  # numbers of a bag that is not in memory, of slides that are looked at together


@dataclass(frozen=True, eq=False)
class Bag:
    """The vectors of one kind, such as the tiles of one magnification, of every slide.

    Vectors of instances and of regions may be read when they are asked for (`RowsAsNeeded`). Whoever wants those of
    many slides takes a few slides at a time, as `together` deals them.

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
    rows: Float32[np.ndarray, "instance dim"] | RowsAsNeeded
    start: Int64[np.ndarray, " bound"]
    n_instances: Int64[np.ndarray, " slide"]
    mean: Float32[np.ndarray, "slide dim"]
    region_mean: Float32[np.ndarray, "region dim"] | RowsAsNeeded
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

    @property
    def is_held(self) -> bool:
        """Whether all of it is in memory."""
        return isinstance(self.rows, np.ndarray) and isinstance(self.region_mean, np.ndarray)

    @property
    def n_bytes(self) -> int:
        """What its vectors take in memory."""
        parts = (self.rows,) if self.is_one_by_one else (self.rows, self.region_mean)
        return sum(one.nbytes for one in parts if isinstance(one, np.ndarray))

    def held(self, *, rows: bool = True, regions: bool = True) -> "Bag":
        """The bag with all its instances, with all its regions, or with both in memory."""
        own = np.asarray(self.rows) if rows or (regions and self.is_one_by_one) else self.rows
        if not regions:
            return replace(self, rows=own)
        return replace(self, rows=own, region_mean=own if self.is_one_by_one else np.asarray(self.region_mean))

    def together(self, slides: Sequence[int] | Int64[np.ndarray, " picked"]) -> Iterator[slice]:
        """Which of some slides to look at together: all where they are in memory, else a few, in their order."""
        numbers = np.asarray(slides, dtype=np.int64)
        if self.is_held or not len(numbers):
            yield slice(0, len(numbers))
            return
        size = np.maximum(np.diff(self.start)[numbers], np.diff(self.region_start)[numbers]) * self.dim
        begin, total = 0, 0
        for place, own in enumerate(size.tolist()):
            if total and total + own > _TOGETHER:
                yield slice(begin, place)
                begin, total = place, 0
            total += own
        yield slice(begin, len(numbers))

    def of_slides(self, numbers: Sequence[int]) -> "Bag":
        """The bag of some slides, by their numbers and in that order."""
        if list(numbers) == list(range(len(self.slides))):
            return self
        rows = [np.arange(self.start[slide], self.start[slide + 1]) for slide in numbers]
        regions = [np.arange(self.region_start[slide], self.region_start[slide + 1]) for slide in numbers]
        picked, areas = np.concatenate(rows), np.concatenate(regions)
        own = self.rows.of_slides(numbers) if isinstance(self.rows, RowsAsNeeded) else self.rows[picked]
        if self.is_one_by_one:
            means = own
        elif isinstance(self.region_mean, RowsAsNeeded):
            means = self.region_mean.of_slides(numbers)
        else:
            means = self.region_mean[areas]
        return Bag(
            name=self.name,
            slides=tuple(self.slides[slide] for slide in numbers),
            rows=own,
            start=bounds([len(one) for one in rows]),
            n_instances=self.n_instances[list(numbers)],
            mean=self.mean[list(numbers)],
            region_mean=means,
            region_start=bounds([len(one) for one in regions]),
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


def bag_of_vectors(name: str, slides: Sequence[str], vectors: Float32[np.ndarray, "slide dim"]) -> Bag:
    """The bag of slides that have one vector each, of which it is not known where in the slide it comes from."""
    start = np.arange(len(slides) + 1, dtype=np.int64)
    ones = np.ones(len(slides), dtype=np.int64)
    return Bag(name, tuple(slides), vectors, start, ones, vectors, vectors, start, ones.astype(bool))


def bounds(counts: Sequence[int]) -> Int64[np.ndarray, " bound"]:
    """Where each of some parts that follow one another begins, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
