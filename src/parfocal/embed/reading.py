"""From the plan of a slide to the rows of its tiles: read, put into batches, encoded."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from parfocal.embed.settings import EmbedSettings
from parfocal.encoders import TileEncoder
from parfocal.regions import RegionPlan
from parfocal.regions.tiles import RegionTiles, iter_tiles
from parfocal.run.jobs import prefetched
from parfocal.slides import Slide
from parfocal.store.absent import watch_absent

OnTiles = Callable[[int, int], None]
"""Told how many tiles of the slide are done, and how many it has."""


class TileRows:
    """Reads and encodes planned tiles of one slide, tells how many are done, and keeps which are absent.

    Attributes:
        plan: the plan of all of them.
        absent: per magnification, the number of each absent tile among the planned ones, and why.
        encode_seconds: how long the encoder was at work.
        wait_seconds: how long it waited for tiles that were being read.
    """

    def __init__(
        self,
        slide: Slide,
        plan: RegionPlan,
        encoders: Mapping[float, TileEncoder],
        settings: EmbedSettings,
        on_tiles: OnTiles | None,
    ) -> None:
        self.plan, self.absent = plan, dict[float, dict[int, str]]()
        self.encode_seconds = self.wait_seconds = 0.0
        self._slide, self._encoders, self._settings = slide, encoders, settings
        self._on_tiles = on_tiles or _ignore
        self._done = self._total = 0

    def dim(self, mpp: float) -> int:
        """How many numbers a row has."""
        return self._encoders[mpp].dim

    def expect(self, n_tiles: Mapping[float, int]) -> None:
        """Say how many tiles will be read from now on."""
        self._total = self._done + sum(n_tiles.values())
        self._on_tiles(self._done, self._total)

    def read(
        self, wanted: Mapping[float, Bool[np.ndarray, " _tile"]] | None = None
    ) -> Iterator[tuple[float, Float[np.ndarray, "tile dim"]]]:
        """The rows of the wanted tiles, or of all, a batch of one magnification after the other, each in its order.

        Raises:
            UnreadableSlideError: the slide cannot be read, or more of these tiles are absent than may be.
        """
        plan = self.plan if wanted is None else self.plan.only(wanted)
        planned = {mpp: plan.tiles(mpp).only_read() for mpp in plan.grid.mpps}
        if not any(map(len, planned.values())):
            return
        found: dict[float, dict[int, str]] = {}
        regions = watch_absent(
            iter_tiles(self._slide, plan, coarse=self._settings.coarse_from),
            planned,
            self._slide.name,
            most=self._settings.max_absent,
            found=found,
            total=sum(map(self.plan.n_tiles, self.plan.grid.mpps)),
            before=sum(map(len, self.absent.values())),
        )
        with prefetched(batches(regions, self._settings.batch)) as ready:
            for mpp, tiles in self._waited_for(ready):
                started = time.monotonic()
                rows = self._encoders[mpp].encode(tiles)
                self.encode_seconds += time.monotonic() - started
                yield mpp, rows
                self._done += len(tiles)
                self._on_tiles(self._done, self._total)
        for mpp, reasons in found.items():
            number = np.arange(len(planned[mpp])) if wanted is None else np.flatnonzero(wanted[mpp])
            self.absent.setdefault(mpp, {}).update({int(number[row]): why for row, why in reasons.items()})

    def _waited_for(
        self, ready: Iterator[tuple[float, UInt8[np.ndarray, "tile y x 3"]]]
    ) -> Iterator[tuple[float, UInt8[np.ndarray, "tile y x 3"]]]:
        """The same, with the time counted until each is there."""
        while True:
            started = time.monotonic()
            batch = next(ready, None)
            self.wait_seconds += time.monotonic() - started
            if batch is None:
                return
            yield batch


def _ignore(done: int, total: int) -> None:
    """Tell nobody."""


def batches(regions: Iterable[RegionTiles], size: int) -> Iterator[tuple[float, UInt8[np.ndarray, "tile y x 3"]]]:
    """Tiles of consecutive regions as batches of one magnification: `size` tiles each, the last ones fewer.

    Batches cross the borders of regions: a region has one coarse tile only, and an encoder is slow on one tile.
    """
    waiting: dict[float, list[np.ndarray]] = {}
    for region in regions:
        for mpp, tiles in region.tiles.items():
            held = waiting.setdefault(mpp, [])
            if len(tiles):
                held.append(tiles)
            while sum(map(len, held)) >= size:
                joined = np.concatenate(held)
                yield mpp, joined[:size]
                held[:] = [joined[size:]] if len(joined) > size else []
    for mpp, held in waiting.items():
        if held:
            yield mpp, np.concatenate(held)
