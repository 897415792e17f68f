"""Pictures of slides for a browser, straight from the slide's own pyramid: one read for each tile, no export.

Only levels of the scan are read: label and macro pictures are none of a `Slide`'s levels, so they have no address.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from parfocal.errors import SlideError
from parfocal.geometry import Box
from parfocal.regions import read_thumbnail
from parfocal.slides import Slide, open_slide
from parfocal.slides.slide import resample, tile_window
from parfocal.view.viewed import NothingThereError, ViewedSet

TILE_PX = 512
"""Side of a tile; two native tiles of most scanners."""

_QUALITY = 85
_OPEN = 4  # each keeps up to 64 MiB of decoded pixels
_WINDOW_PX = 8 * TILE_PX  # the largest that is read for one picture: 50 MB
_COARSEST_PX = 2 * TILE_PX  # a slide is shown whole by a few tiles
_MOST_PX = 512  # along a crop
_LEAST_PX = 16


@dataclass(frozen=True)
class ShownLevel:
    """One resolution that tiles are asked of.

    Attributes:
        width: in its own pixels.
        height: in its own pixels.
        downsample: level-0 pixels along one of its own.
        level: the slide's level that it is read from.
        shrink: pixels of that level along one of its own.
    """

    width: int
    height: int
    downsample: float
    level: int
    shrink: int = 1


def shown_levels(slide: Slide) -> tuple[ShownLevel, ...]:
    """The slide's levels, finest first, and halvings of the coarsest one until few tiles show all of it."""
    shown = [ShownLevel(one.width_px, one.height_px, one.downsample, number) for number, one in enumerate(slide.levels)]
    shown.sort(key=lambda one: one.downsample)
    last = shown[-1]
    while max(shown[-1].width, shown[-1].height) > _COARSEST_PX:
        shrink = shown[-1].shrink * 2
        width, height = math.ceil(last.width / shrink), math.ceil(last.height / shrink)
        shown.append(ShownLevel(width, height, last.downsample * shrink, last.level, shrink))
    return tuple(shown)


@dataclass(eq=False)
class OpenSlide:
    """A slide that is open for a while.

    Attributes:
        slide: the file.
        levels: what is shown of it.
    """

    slide: Slide
    levels: tuple[ShownLevel, ...]
    _users: int = 0
    _thumbnail: UInt8[np.ndarray, "y x 3"] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def thumbnail(self) -> UInt8[np.ndarray, "y x 3"]:
        """The whole slide as a small picture, made when it is first asked for."""
        with self._lock:
            if self._thumbnail is None:
                self._thumbnail = read_thumbnail(self.slide)
            return self._thumbnail


class SlidePictures:
    """Tiles and crops of slides; a few slides stay open. It may be used from several threads."""

    def __init__(self, viewed: ViewedSet) -> None:
        """Say which slides there are."""
        self._viewed = viewed
        self._open: OrderedDict[int, OpenSlide] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def opened(self, number: int) -> Iterator[OpenSlide]:
        """A slide by its number, open for as long as the block lasts.

        Raises:
            SlideError: its file is not there, is no slide, or is another one than was embedded.
        """
        if number not in self._open:
            self._viewed.checked_source(number)  # may read the whole file, and pictures of other slides do not wait
        with self._lock:
            one = self._open.get(number)
            if one is None:
                one = self._open[number] = self._opened(number)
            self._open.move_to_end(number)
            one._users += 1
            idle = [key for key, each in self._open.items() if not each._users]
            for other in idle[: max(len(self._open) - _OPEN, 0)]:
                self._open.pop(other).slide.close()
        try:
            yield one
        finally:
            with self._lock:
                one._users -= 1

    def _opened(self, number: int) -> OpenSlide:
        facts = self._viewed.facts(number)
        source, size_px = facts.source, facts.size_px
        assert source is not None  # it has been checked
        slide = open_slide(source.path, slide_mpp=source.slide_mpp, scan=source.scan)
        found = slide.width_px, slide.height_px
        if size_px is not None and found != size_px:
            slide.close()
            raise SlideError(
                f"{source.path} has {found[0]} x {found[1]} px and {source.slide} had {size_px[0]} x {size_px[1]} when "
                "it was embedded, so it is another slide. Put the right file there, or embed it again."
            )
        return OpenSlide(slide, shown_levels(slide))

    def close(self) -> None:
        """Close all slides."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].slide.close()

    def tile(self, number: int, level: int, column: int, row: int) -> bytes:
        """One tile of a slide as JPEG; those at the right and the lower edge are smaller.

        Raises:
            NothingThereError: there is no such tile.
            SlideError: the slide cannot be opened or read.
        """
        with self.opened(number) as one:
            if not 0 <= level < len(one.levels):
                raise NothingThereError(f"there is no level {level}: the slide has {len(one.levels)}.")
            shown = one.levels[level]
            left, top = column * TILE_PX, row * TILE_PX
            width, height = min(TILE_PX, shown.width - left), min(TILE_PX, shown.height - top)
            if column < 0 or row < 0 or width <= 0 or height <= 0:
                raise NothingThereError(
                    f"there is no tile {column}, {row} of level {level}: it lies outside the slide."
                )
            return as_jpeg(_pixels(one, shown, left, top, width, height))

    def crop(self, number: int, box: Box, px: int) -> bytes:
        """A square of a slide as JPEG of `px` pixels a side; white outside the slide.

        Raises:
            NothingThereError: it is not a place of a slide, or too large or too small to be read at once.
            SlideError: the slide cannot be opened or read.
        """
        if not _LEAST_PX <= px <= _MOST_PX:
            raise NothingThereError(f"a crop has {_LEAST_PX} to {_MOST_PX} px, and {px} are asked.")
        if not all(math.isfinite(value) and abs(value) < 1e9 for value in (box.x, box.y, box.width)) or box.width <= 0:
            raise NothingThereError("x_um, y_um and side_um are numbers of micrometres, and side_um is above 0.")
        with self.opened(number) as one:
            level, (left, top, width, height) = tile_window(one.slide, box, mpp=box.width / px)
            if max(width, height) > _WINDOW_PX:
                most = _WINDOW_PX * one.slide.mpp * one.slide.levels[level].downsample
                raise NothingThereError(f"a crop of {box.width:g} um is too large; ask for at most {most:.0f} um.")
            return as_jpeg(resample(one.slide.read_window(level, left, top, width, height).pixels, px, px))


def _pixels(
    one: OpenSlide, shown: ShownLevel, left: int, top: int, width: int, height: int
) -> UInt8[np.ndarray, "y x 3"]:
    if max(width, height) * shown.shrink <= _WINDOW_PX:
        read = one.slide.read_window(
            shown.level, left * shown.shrink, top * shown.shrink, width * shown.shrink, height * shown.shrink
        )
        return resample(read.pixels, width, height)
    # Halved so often that a tile of it would be a whole slide to read.
    whole = one.thumbnail()
    down, across = whole.shape[0] / shown.height, whole.shape[1] / shown.width
    y, x = math.floor(top * down), math.floor(left * across)
    part = whole[y : max(math.ceil((top + height) * down), y + 1), x : max(math.ceil((left + width) * across), x + 1)]
    return resample(part, width, height)


def as_jpeg(pixels: UInt8[np.ndarray, "y x 3"]) -> bytes:
    """A picture as JPEG."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY, colorspace="RGB")
    return encoded
