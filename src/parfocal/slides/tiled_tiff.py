"""The fast path: tiled TIFF and SVS, each compressed tile read and decoded once.

What the file holds is found by `read_tiff`; here tiles are decoded one by one and the windows are cut from them, so
that a window costs no more than its tiles. The pixels are those of OpenSlide where both read a file: both decode JPEG
with libjpeg-turbo and JPEG 2000 with OpenJPEG.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import cast

import numpy as np

from parfocal.slides.reader import MAX_CACHE_BYTES, Missing, PixelReader, Window, join_gaps, one_line
from parfocal.slides.remote import RemoteFile
from parfocal.slides.tiff_file import TiffFacts
from parfocal.slides.tiff_level import BrokenTileError

# Of compressed tiles that are asked for together, where they lie on no disk; more than that would push each other out.
_AHEAD_BYTES = 32 << 20
# What has no more than this in all of its levels stays decoded: the tissue is looked for in most of its tiles.
_SMALL_BYTES = 16 << 20


@dataclass(frozen=True)
class _NoTile:
    """In place of a tile: why it cannot be decoded, None where the file has no bytes for it."""

    problem: str | None


class TiledTiffReader(PixelReader):
    """A tiled pyramid that is decoded tile by tile, each tile once for windows in reading order."""

    def __init__(self, path: Path, facts: TiffFacts, remote: RemoteFile | None = None) -> None:
        """Take over what `read_tiff` has found in the file, and the file itself where it lies on no disk."""
        self.path = path
        self.format = facts.format
        self.mpp_claim, self.objective_power = facts.claim, facts.objective_power
        self.level_sizes, self.level_downsamples = facts.sizes, facts.ratios
        self.scan_sizes, self.scan, self.notes = facts.scan_sizes, facts.scan, facts.notes
        self._levels = facts.levels
        self._remote = remote
        self._file = path.open("rb", buffering=0) if remote is None else cast(FileIO, remote)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._is_small = sum(len(one.is_absent) * one.tile_bytes for one in facts.levels) <= _SMALL_BYTES
        # Arrays that wait for the next tile: the one used last comes first, while it is warm.
        self._spare: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._last_y: dict[int, int] = {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Decode the tiles under the window and put them together; see PixelReader."""
        page = self._levels[level]
        empty = page.absent_in(x, y, width, height)
        if empty:
            # Most of a sparse slide: nothing is looked up tile by tile.
            whole = Missing(x, y, x + width, y + height, f"tile {empty[0]}", None, len(empty) - 1)
            return Window(np.full((height, width, 3), 255, np.uint8), join_gaps([whole], level))
        window = np.empty((height, width, 3), np.uint8)
        missing = []
        self._forget_above(level, y)
        rows = range(y // page.tile_height, (y + height - 1) // page.tile_height + 1)
        columns = range(x // page.tile_width, (x + width - 1) // page.tile_width + 1)
        if self._remote is not None:
            self._ask_for(level, rows, columns)
        for row in rows:
            top = row * page.tile_height
            y0, y1 = max(top, y), min(top + page.tile_height, y + height)
            for column in columns:
                left = column * page.tile_width
                x0, x1 = max(left, x), min(left + page.tile_width, x + width)
                key = (level, row * page.across + column)
                tile = self._take(key)
                if not isinstance(tile, np.ndarray):
                    window[y0 - y : y1 - y, x0 - x : x1 - x] = 255
                    missing.append(Missing(x0, y0, x1, y1, f"tile {key[1]}", tile.problem))
                    continue
                window[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
                # Regions come left to right and top to bottom: a tile that ends inside the window is done with.
                keep = left + page.tile_width > x + width or top + page.tile_height > y + height
                self._give_back(key, tile, keep=keep or self._is_small)
        return Window(window, join_gaps(missing, level))

    def close(self) -> None:
        """Close the file and drop the cache; see PixelReader."""
        with self._lock:
            self._file.close()
            self._cache.clear()
            self._spare.clear()
            self._cached_bytes = 0

    def _ask_for(self, level: int, rows: range, columns: range) -> None:
        """Have the bytes of the tiles that are to be decoded come with as few requests as possible."""
        page = self._levels[level]
        with self._lock:
            numbers = [
                number
                for row in rows
                for number in range(row * page.across + columns.start, row * page.across + columns.stop)
                if (level, number) not in self._cache
            ]
        starts, sizes = page.offsets[:, numbers].ravel(), page.sizes[:, numbers].ravel()
        is_there = (sizes > 0) & np.tile(~page.is_misplaced[numbers], len(page.offsets))
        starts, ends = starts[is_there].tolist(), (starts + sizes)[is_there].tolist()
        assert self._remote is not None
        if sum(ends) - sum(starts) <= _AHEAD_BYTES:
            self._remote.prefetch(starts, ends)

    def _take(self, key: tuple[int, int]) -> "np.ndarray | _NoTile":
        """A decoded tile, out of the cache where it is; or why there is none."""
        with self._lock:
            tile = self._cache.pop(key, None)
            if tile is not None:
                self._cached_bytes -= tile.nbytes
                return tile
        level, index = key
        page = self._levels[level]
        if page.is_absent[index]:
            # A tile without bytes is how sparse files say "nothing was scanned here".
            return _NoTile(None)
        try:
            with self._lock:
                streams = page.read_streams(self._file, index)
                spare = self._spare.get(page.tile_shape)
                out = spare.pop() if spare else np.empty(page.tile_shape, np.uint8)
            return page.decode(index, streams, out)
        except BrokenTileError as error:
            # Whatever a decoder meets in foreign bytes costs this tile and nothing else.
            return _NoTile(one_line(error))

    def _give_back(self, key: tuple[int, int], tile: np.ndarray, *, keep: bool) -> None:
        """Keep a tile for a later window, the longest unused ones making room, or its memory for another tile."""
        with self._lock:
            if keep and key not in self._cache:
                self._cache[key] = tile
                self._cached_bytes += tile.nbytes
                while self._cached_bytes > MAX_CACHE_BYTES and len(self._cache) > 1:
                    self._drop(next(iter(self._cache)))
            elif tile.flags.owndata:
                self._spare.setdefault(tile.shape, []).append(tile)

    def _forget_above(self, level: int, y: int) -> None:
        """Drop the tiles that end above a new row of windows, all of them where the rows begin again at the top."""
        with self._lock:
            before = self._last_y.get(level)
            self._last_y[level] = y
            if before is None or before == y or self._is_small:
                return
            page = self._levels[level]
            first = y // page.tile_height * page.across
            for key in [key for key in self._cache if key[0] == level and (y < before or key[1] < first)]:
                self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        """Take a tile out of the cache; its memory waits for the next one. The lock is held by the caller."""
        tile = self._cache.pop(key)
        self._cached_bytes -= tile.nbytes
        if tile.flags.owndata:
            self._spare.setdefault(tile.shape, []).append(tile)
