"""The regions of a cohort that are most alike one of them."""

import tempfile
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from parfocal.errors import ConfigError
from parfocal.run.events import OnEvent, warn_of
from parfocal.similar.vectors import RegionVectors, region_vectors
from parfocal.store import EmbeddingSet


@dataclass(frozen=True)
class SimilarRegion:
    """A region that is like the one that was asked for.

    Attributes:
        slide: its slide.
        region: its number in the slide, from 0.
        x_um: its left edge in the slide's frame, in micrometres.
        y_um: its upper edge.
        side_um: its side.
        similarity: the cosine of the two, -1 to 1.
    """

    slide: str
    region: int
    x_um: float
    y_um: float
    side_um: float
    similarity: float


class RegionSearch:
    """All regions of a set, to be asked for those that are alike; the file that it needs goes with it.

    The rows of the whole cohort are read when it is asked first. It may be used from several threads.
    """

    def __init__(
        self, numbered: EmbeddingSet, embedded: EmbeddingSet | None = None, *, on_event: OnEvent | None = None
    ) -> None:
        """Say whose regions are compared, and by what.

        Args:
            numbered: the set whose regions are counted.
            embedded: region embeddings that were made of it; its own rows where None.
            on_event: told how many slides are read.
        """
        self._tell = on_event or warn_of
        self.numbered, self.embedded = numbered, embedded or numbered
        self._folder = tempfile.TemporaryDirectory(prefix="parfocal-similar-")
        self._lock = threading.Lock()

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()

    def __enter__(self) -> "RegionSearch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def _vectors(self) -> RegionVectors:
        return region_vectors(self.numbered, self.embedded, Path(self._folder.name), self._tell)

    @property
    def vectors(self) -> RegionVectors:
        """The vectors of all regions, read when they are first asked for.

        Raises:
            StoreError: no slide can be read.
        """
        with self._lock:
            return self._vectors

    def region_at(self, slide: str, x_um: float, y_um: float) -> int:
        """The number of the region that holds a place; of several that do, the one whose middle is nearest.

        Raises:
            ConfigError: the slide is not in the set, or no region is there.
        """
        if slide not in self.numbered.slides:
            raise ConfigError(f"{self.numbered.name} has no slide {slide!r}. Name it as `inspect` and the tables do.")
        xy_um, side_um = self.numbered.region_xy_um(slide), self.numbered.side_um(slide)
        if not np.isfinite((x_um, y_um)).all():
            raise ConfigError(f"{x_um:g}, {y_um:g} is no place: x and y are micrometres from the slide's top left.")
        half = side_um / 2
        away = np.abs(xy_um + half - (x_um, y_um)).max(axis=1)
        if not len(away) or away.min() > half:
            nearest = "the slide has none" if not len(away) else _mention(xy_um[away.argmin()], half)
            raise ConfigError(f"no region of {slide} holds the place {x_um:g}, {y_um:g} um; {nearest}.")
        return int(away.argmin())

    def along(self, slide: str, region: int) -> Float64[np.ndarray, " region"]:
        """How like one region all regions of its slide are: the cosine; NaN for those without an embedding."""
        rows = self._of(slide)
        row = self._row(slide, region)
        return np.asarray(np.where(rows.any(axis=1), rows @ row, np.nan), np.float64)

    def nearest(self, slide: str, region: int, n: int, *, other_slides: bool = False) -> list[SimilarRegion]:
        """The regions that are most alike, the most similar first.

        The region itself is none of them, nor is one that overlaps it: they share pixels.

        Args:
            slide: id.
            region: its number in the slide.
            n: how many at most.
            other_slides: leave the whole slide out.

        Raises:
            ConfigError: the region has no embedding.
            StoreError: no slide can be read.
        """
        vectors = self.vectors
        found = vectors.along(self._row(slide, region))
        start, end = vectors.first[slide], vectors.first[slide] + vectors.count[slide]
        xy_um, side_um = self.numbered.region_xy_um(slide), self.numbered.side_um(slide)
        apart = np.abs(xy_um - xy_um[region]).max(axis=1) >= side_um * (1 - 1e-6)
        found[start:end][~apart | other_slides] = -np.inf
        there = np.flatnonzero(found > -np.inf)
        order = there[np.argsort(-found[there], kind="stable")] if n >= len(there) else _first(found, n)
        return [self._region(int(row), float(found[row])) for row in order if vectors.rows[row].any()]

    def _of(self, slide: str) -> Float32[np.ndarray, "region dim"]:
        if slide not in self.vectors.first:
            raise ConfigError(f"the rows of {slide} in {self.embedded.name} cannot be read, so it cannot be compared.")
        return self.vectors.of(slide)

    def _row(self, slide: str, region: int) -> Float32[np.ndarray, " dim"]:
        row = np.array(self._of(slide)[region])
        if not row.any():
            raise ConfigError(
                f"region {region} of {slide} has no embedding in {self.embedded.name}, so it cannot be compared."
            )
        return row

    def _region(self, row: int, similarity: float) -> SimilarRegion:
        slides = list(self.vectors.first)
        place = int(np.searchsorted(list(self.vectors.first.values()), row, side="right")) - 1
        slide = slides[place]
        # Slides without a region begin where the next one does.
        number = row - self.vectors.first[slide]
        x, y = self.numbered.region_xy_um(slide)[number].tolist()
        return SimilarRegion(slide, number, x, y, self.numbered.side_um(slide), similarity)


def _first(values: Float32[np.ndarray, " region"], n: int) -> np.ndarray:
    """The places of the `n` largest values, largest first, of equal ones the first."""
    least = np.partition(values, len(values) - n)[len(values) - n]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: n - len(above)]
    chosen = np.concatenate([above, equal])
    return chosen[np.lexsort((chosen, -values[chosen]))]


def _mention(xy_um: Float64[np.ndarray, " 2"], half: float) -> str:
    x, y = (xy_um + half).tolist()
    return f"the nearest has its middle at {x:.0f}, {y:.0f} um"
