"""The pixels of any region at any time: a few slides stay open, and what was prepared is kept while it fits.

A region is read again where it was not kept, so that memory is bounded whatever the number of slides.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from parfocal.embed import EmbedSettings
from parfocal.embed.slide import open_source, plan_slide
from parfocal.regions import PlannedTiles, RegionPlan
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import Slide, SlideSource

_OPEN = 4  # slides at a time; a flat picture is held decoded while it is open

RegionKey = tuple[str, int]
"""A region by its slide and its number there."""


@dataclass(frozen=True, eq=False)
class PreparedRegion:
    """The tiles of one region that are there, coarse to fine.

    Attributes:
        tiles: as `TunedEncoder.prepare` gives them.
        xy_um: their centres about the region's centre.
        mpp: micrometres per pixel of each.
    """

    tiles: Tensor
    xy_um: Float32[np.ndarray, "tile 2"]
    mpp: Float32[np.ndarray, " tile"]

    def __len__(self) -> int:
        return len(self.mpp)

    def take(self, tiles: Int64[np.ndarray, " picked"]) -> "PreparedRegion":
        """Some of the tiles, by their numbers."""
        return PreparedRegion(self.tiles[torch.from_numpy(tiles)], self.xy_um[tiles], self.mpp[tiles])

    def some(self, count: int, rng: np.random.Generator, *, at_place: bool) -> "PreparedRegion":
        """So many tiles at random, in order: of each magnification the one in the middle or a random one, then any."""
        if len(self) <= count:
            return self
        order = rng.permutation(len(self))
        away = np.abs(self.xy_um).max(axis=1)[order] if at_place else np.zeros(len(self))
        nearest = order[np.lexsort((away, self.mpp[order]))]
        first = np.flatnonzero(np.diff(self.mpp[nearest], prepend=0.0))
        chosen = np.concatenate([nearest[first], order[~np.isin(order, nearest[first])]])
        return self.take(np.sort(chosen[:count]))


class KeptTiles:
    """Prepared tiles in memory, up to a size; what runs of one process share that train on the same slides."""

    def __init__(self, max_bytes: int) -> None:
        """Nothing is kept yet."""
        self._room = max_bytes
        self._kept: dict[tuple[str, RegionKey], PreparedRegion] = {}

    def get(self, made: str, key: RegionKey) -> PreparedRegion | None:
        """What was kept of a region, as it was made."""
        return self._kept.get((made, key))

    def offer(self, made: str, key: RegionKey, region: PreparedRegion) -> None:
        """Keep it while there is room."""
        size = region.tiles.numel() * region.tiles.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[made, key] = region


class TileReader(AbstractContextManager["TileReader"]):
    """Reads the regions of planned slides."""

    def __init__(
        self,
        sources: Mapping[str, SlideSource],
        settings: EmbedSettings,
        prepare: Callable[[UInt8[np.ndarray, "tile y x 3"]], Tensor],
        *,
        chunk: int,
        kept: KeptTiles,
        made: str,
    ) -> None:
        """Nothing is opened yet.

        Args:
            sources: slides by id.
            settings: how they are opened and cut.
            prepare: what is kept of tiles.
            chunk: how many tiles are prepared, and handed out, at a time.
            kept: takes what was prepared; what has no room there is read again.
            made: what prepared tiles depend on beside the slide, as a digest.
        """
        self._sources, self._settings, self._prepare = sources, settings, prepare
        self.chunk, self._kept, self._made = chunk, kept, made
        self._open: OrderedDict[str, Slide] = OrderedDict()
        self.plans: dict[str, RegionPlan] = {}
        self._tiles: dict[str, dict[float, PlannedTiles]] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slide in self._open.values():
            slide.close()
        self._open.clear()

    def plan(self, slide: str) -> RegionPlan:
        """Where the regions of a slide lie.

        Raises:
            SlideError: it cannot be read or cut.
        """
        if slide not in self.plans:
            planned = plan_slide(self._opened(slide), self._sources[slide], self._settings)
            self.plans[slide] = planned.unshared()  # a region comes alone, and whole
            self._tiles[slide] = {mpp: self.plans[slide].tiles(mpp) for mpp in self._settings.grid.mpps}
        return self.plans[slide]

    def read(self, key: RegionKey) -> PreparedRegion:
        """The prepared tiles of a region.

        Raises:
            SlideError: the slide cannot be read.
        """
        kept = self._kept.get(self._made, key)
        if kept is not None:
            return kept
        slide, region = key
        plan = self.plan(slide)
        found = next(iter_tiles(self._opened(slide), plan, start=region))
        pixels, centres, mpps = [], [], []
        for mpp, planned in self._tiles[slide].items():
            first, beyond = np.searchsorted(planned.region, [region, region + 1])
            absent = [one.number for one in found.absent.get(mpp, ())]
            there = np.delete(np.arange(first, beyond), absent)
            pixels.append(found.tiles[mpp])
            centres.append(planned.center_um[there])
            mpps.append(np.full(len(there), mpp, np.float32))
        tiles = np.concatenate(pixels)
        parts = [self._prepare(tiles[start : start + self.chunk]) for start in range(0, len(tiles), self.chunk)]
        prepared = torch.cat(parts) if parts else torch.zeros(0)
        result = PreparedRegion(prepared, np.concatenate(centres), np.concatenate(mpps))
        self._kept.offer(self._made, key, result)
        return result

    def chunks(
        self,
        keys: Sequence[RegionKey],
        told: Callable[[PreparedRegion], None],
        pick: Callable[[PreparedRegion], PreparedRegion],
    ) -> Iterator[Tensor]:
        """The tiles of several regions, at most `chunk` at a time, across the borders of regions.

        Args:
            keys: of the regions.
            told: is handed every region as it is taken.
            pick: which of a region's tiles are taken.
        """

        def tiles() -> Iterable[Tensor]:
            for key in keys:
                region = pick(self.read(key))
                told(region)
                if len(region):
                    yield region.tiles

        return regrouped(tiles(), self.chunk)

    def _opened(self, slide: str) -> Slide:
        if slide not in self._open:
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[slide] = open_source(self._sources[slide], self._settings)
        self._open.move_to_end(slide)
        return self._open[slide]


def regrouped(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The rows of parts in the same order, `size` at a time, the last ones fewer."""
    held: list[Tensor] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        while count >= size:
            joined = torch.cat(held) if len(held) > 1 else held[0]
            yield joined[:size]
            held, count = ([joined[size:]] if count > size else []), count - size
    if held:
        yield torch.cat(held)
