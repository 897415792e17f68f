"""One vector for each region of a cohort, of unit length, in a file that is larger than memory may be.

A region is its own embedding where the store has one, else the means of its tiles, one magnification after the other.
Columns are standardised over the cohort, and every magnification counts alike however many columns it has.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from parfocal.errors import ParfocalWarning, StoreError
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.stats.whitening import varying
from parfocal.store import EmbeddingSet
from parfocal.table import some_of

_BLOCK_BYTES = 64 << 20
_NAME = "regions.npy"


@dataclass(frozen=True, eq=False)
class RegionVectors:
    """The vectors of all regions.

    Attributes:
        rows: of unit length, in a file; zero for a region that has no embedding, or one in which nothing varies.
        first: the row of each slide's first region, by id.
        count: how many regions each slide has.
    """

    rows: Float32[np.ndarray, "region dim"]
    first: Mapping[str, int]
    count: Mapping[str, int]

    def of(self, slide: str) -> Float32[np.ndarray, "region dim"]:
        """The vectors of a slide."""
        start = self.first[slide]
        return self.rows[start : start + self.count[slide]]

    def along(self, row: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " region"]:
        """The cosine of every vector with one of them; a block of the file is in memory at a time."""
        found = np.empty(len(self.rows), np.float32)
        for block in _blocks(self.rows):
            found[block] = self.rows[block] @ row
        return found


def region_vectors(
    numbered: EmbeddingSet, embedded: EmbeddingSet, folder: Path, tell: OnEvent = warn_of
) -> RegionVectors:
    """The vectors of the regions of a set, written into a file.

    A slide that cannot be read is left out, and so are the slides that only one of the two sets has; how many is a
    warning.

    Args:
        numbered: the set whose regions are counted.
        embedded: the set whose rows say what they look like: the same, or region embeddings that were made of it.
        folder: where the file is written.
        tell: told how many slides are read.

    Raises:
        StoreError: no slide can be read.
    """
    spans = _spans(embedded)
    dim = spans[-1].stop
    there = {*embedded.slides}
    counts = {slide: numbered.n_regions(slide) for slide in numbered.slides if slide in there}
    total = sum(counts.values())
    moments = _Moments(dim)
    first, count, failed = dict[str, int](), dict[str, int](), dict[str, Failed]()
    rows: np.ndarray = np.lib.format.open_memmap(folder / _NAME, "w+", np.float32, (max(total, 1), dim))
    end = 0
    for number, (slide, n) in enumerate(counts.items()):
        tell(Progress("read regions", number, len(counts)))
        found = attempt(partial(_read, numbered, embedded, slide))
        if isinstance(found, Failed):
            failed[slide] = found
            continue
        rows[end : end + n] = found
        for start in range(0, n, max(1, _BLOCK_BYTES // (8 * dim))):
            moments.see(found[start : start + max(1, _BLOCK_BYTES // (8 * dim))])
        first[slide], count[slide] = end, n
        end += n
    tell(Progress("read regions", len(counts), len(counts)))
    if not end:
        why = next(iter(failed.values())).problem if failed else f"{embedded.name} and {numbered.name} share no slide"
        raise StoreError(f"cannot compare the regions of {embedded.path}: {why}.")
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(counts)} slides of {embedded.name} cannot be read and are not searched: "
            f"{some_of(sorted(failed))}. The first: {next(iter(failed.values())).problem}",
            ParfocalWarning,
            stacklevel=2,
        )
    rows = rows[:end]
    offset, scale = moments.affine(spans)
    for block in _blocks(rows):
        rows[block] = _unit((rows[block] - offset) * scale)
    return RegionVectors(rows, first, count)


def _spans(embedded: EmbeddingSet) -> list[slice]:
    """The columns of each magnification, or of the one embedding."""
    widths = [embedded.dim] if embedded.kind == "regions" else list(embedded.dims.values())
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _read(numbered: EmbeddingSet, embedded: EmbeddingSet, slide: str) -> Float32[np.ndarray, "region dim"]:
    """The rows of a slide's regions; NaN where a region has none."""
    if embedded.kind == "tiles":
        tokens = embedded.read(slide)
        means = [tokens.region_means(mpp) for mpp in tokens.mpps]
        return np.concatenate(means, axis=1).astype(np.float32)
    regions = embedded.read_regions(slide)
    places = numbered.region_xy_um(slide)
    number = {place: at for at, place in enumerate(map(tuple, places.tolist()))}
    at = [number.get(place, -1) for place in map(tuple, regions.region_xy_um.tolist())]
    if -1 in at:
        raise StoreError(f"a region of {slide} in {embedded.name} is none of {numbered.name}")
    rows = np.full((len(places), embedded.dim), np.nan, np.float32)
    rows[at] = regions.features
    return rows


class _Moments:
    """Mean and spread of columns, block by block (Chan, Golub and LeVeque 1979); NaN does not count."""

    def __init__(self, dim: int) -> None:
        self._n = np.zeros(dim)
        self._mean = np.zeros(dim)
        self._squares = np.zeros(dim)

    def see(self, rows: Float32[np.ndarray, "region dim"]) -> None:
        there = ~np.isnan(rows)
        n = there.sum(axis=0)
        mean = np.where(there, rows, 0).sum(axis=0, dtype=np.float64) / np.maximum(n, 1)
        squares = (np.where(there, rows - mean, 0) ** 2).sum(axis=0, dtype=np.float64)
        total = np.maximum(self._n + n, 1)
        self._squares += squares + (mean - self._mean) ** 2 * self._n * n / total
        self._mean += (mean - self._mean) * n / total
        self._n += n

    def affine(self, spans: list[slice]) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, " dim"]]:
        """What is taken off each column, and what it is multiplied with then."""
        spread = np.sqrt(self._squares / np.maximum(self._n, 1))
        varies = varying(spread)
        scale = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)
        for span in spans:
            scale[span] /= np.sqrt(max(int(varies[span].sum()), 1))
        return self._mean, scale


def _unit(rows: Float64[np.ndarray, "region dim"]) -> Float64[np.ndarray, "region dim"]:
    rows = np.nan_to_num(rows, nan=0.0)
    length = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def _blocks(rows: np.ndarray) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1] * 8))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))
