"""From the plan of a slide to the rows of its tiles: read, put into batches, encoded."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from parfocal.embed.pace import TilesDone
from parfocal.embed.settings import EmbedSettings
from parfocal.encoders import TileEncoder
from parfocal.regions import RegionPlan
from parfocal.regions.tiles import RegionTiles, iter_tiles
from parfocal.run.jobs import prefetched
from parfocal.slides import Slide
from parfocal.store.absent import watch_absent

OnTiles = Callable[[TilesDone], None]
"""Told how far the slide is."""


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
        self._tell()

    def read(
        self,
        wanted: Mapping[float, Bool[np.ndarray, " _tile"]] | None = None,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Iterator[tuple[float, Float[np.ndarray, "tile dim"]]]:
        """The rows of the wanted tiles, or of all, a batch of one magnification after the other, each in its order.

        Args:
            wanted: which, per magnification; all where None.
            meanwhile: done once while the first tiles are being read.

        Raises:
            UnreadableSlideError: the slide cannot be read, or more of these tiles are absent than may be.
        """
        plan = self.plan if wanted is None else self.plan.only(wanted)
        planned = {mpp: plan.tiles(mpp).only_read() for mpp in plan.grid.mpps}
        beside = meanwhile or (lambda: None)
        if not any(map(len, planned.values())):
            beside()
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
        sizes = {mpp: min(self._settings.batch, len(tiles)) for mpp, tiles in planned.items()}
        with prefetched(batches(regions, sizes)) as ready:
            beside()
            for mpp, tiles in self._waited_for(ready):
                started = time.monotonic()
                rows = self._encoders[mpp].encode(tiles)
                self.encode_seconds += time.monotonic() - started
                yield mpp, rows
                self._done += len(tiles)
                self._tell()
        for mpp, reasons in found.items():
            number = np.arange(len(planned[mpp])) if wanted is None else np.flatnonzero(wanted[mpp])
            self.absent.setdefault(mpp, {}).update({int(number[row]): why for row, why in reasons.items()})

    def _tell(self) -> None:
        self._on_tiles(TilesDone(self._done, self._total, self.encode_seconds, self.wait_seconds))

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


def _ignore(told: TilesDone) -> None:
    """Tell nobody."""


def batches(
    regions: Iterable[RegionTiles], sizes: Mapping[float, int]
) -> Iterator[tuple[float, UInt8[np.ndarray, "tile y x 3"]]]:
    """Tiles of consecutive regions as batches of one magnification, of the size for it, the last ones smaller.

    Batches cross the borders of regions: a region has one coarse tile only, and an encoder is slow on one tile. Tiles
    are copied into their batch at once, while the processor has them at hand; gathered first and joined later they cost
    a fifth of reading.
    """
    filled: dict[float, tuple[np.ndarray, int]] = {}
    for region in regions:
        for mpp, tiles in region.tiles.items():
            left = tiles
            while len(left):
                batch, n = filled.pop(mpp, None) or (np.empty((sizes[mpp], *left.shape[1:]), np.uint8), 0)
                part = left[: len(batch) - n]
                batch[n : n + len(part)] = part
                left, n = left[len(part) :], n + len(part)
                if n == len(batch):
                    yield mpp, batch
                else:
                    filled[mpp] = batch, n
    for mpp, (batch, n) in filled.items():
        yield mpp, batch[:n]
