"""The fast way: tiled 8-bit RGB TIFF and SVS, read through tifffile's page index and decoded by imagecodecs.

Pixels are those of OpenSlide: both decode JPEG with libjpeg-turbo and JPEG 2000 with OpenJPEG. What OpenSlide would
place or colour in its own way (overlapping tiles, several focal planes, subsampled JPEG 2000) is left to it.
"""

import logging
import re
import struct
import threading
import xml.etree.ElementTree as ElementTree
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.gaps import Missing, join_gaps
from parfocal.slides.reader import MAX_CACHE_BYTES, NotMineError, PixelReader, Window, one_line
from parfocal.slides.tiff_level import TiffLevel

__all__ = ["TiledTiffReader", "quiet_tifffile", "resolution_tag"]

_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32946: "deflate",
    33005: "JPEG 2000 (RGB)",
    34712: "JPEG 2000 (RGB)",
    32773: "PackBits",
    50000: "Zstandard",
}
# What tifffile, imagecodecs and the file itself raise on broken data.
BROKEN_DATA = (RuntimeError, ValueError, TypeError, IndexError, KeyError, OSError, struct.error, zlib.error)
_UM_PER_UNIT = {2: (25400.0, "inch"), 3: (10000.0, "cm")}
_UM_PER_OME_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log lines off the screen; what matters in them comes back as our one message."""
    logger = logging.getLogger("tifffile")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class _NoTile:
    """In place of a tile: why it cannot be decoded, None where the file has no bytes for it."""

    problem: str | None


class TiledTiffReader(PixelReader):
    """A tiled pyramid that is decoded tile by tile, each tile once for windows in reading order."""

    def __init__(self, path: Path) -> None:
        """Read the index of the file.

        Raises:
            NotMineError: it is not a TIFF, or of a kind that this reader leaves to another.
            UnreadableSlideError: nobody should read it: what it holds would come out wrong.
        """
        self.path = path
        with quiet_tifffile():
            try:
                tiff = tifffile.TiffFile(path)
            except BROKEN_DATA as error:
                raise NotMineError(one_line(error)) from error
            try:
                _refuse(path, tiff.pages.first)
                self._levels = [TiffLevel(page) for page in _level_pages(tiff)]
                self.format = "aperio" if tiff.is_svs else "OME-TIFF" if tiff.is_ome else "tiled TIFF"
                self.mpp_claim, self.objective_power = _describe(tiff)
            except BROKEN_DATA as error:
                tiff.close()
                raise NotMineError(one_line(error)) from error
            except (NotMineError, UnreadableSlideError):
                tiff.close()
                raise
        tiff.close()
        self.level_sizes = tuple((level.width, level.height) for level in self._levels)
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        # Arrays that wait for the next tile: the one used last comes first, while it is warm.
        self._spare: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._last_y: dict[int, int] = {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Decode the tiles under the window and put them together; see PixelReader."""
        page = self._levels[level]
        window = np.empty((height, width, 3), np.uint8)
        missing = []
        self._forget_above(level, y)
        for row in range(y // page.tile_height, (y + height - 1) // page.tile_height + 1):
            top = row * page.tile_height
            y0, y1 = max(top, y), min(top + page.tile_height, y + height)
            for column in range(x // page.tile_width, (x + width - 1) // page.tile_width + 1):
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
                self._give_back(key, tile, keep=keep)
        return Window(window, join_gaps(missing, level))

    def close(self) -> None:
        """Close the file and drop the cache; see PixelReader."""
        with self._lock:
            self._file.close()
            self._cache.clear()
            self._spare.clear()
            self._cached_bytes = 0

    def _take(self, key: tuple[int, int]) -> "np.ndarray | _NoTile":
        """A decoded tile, out of the cache where it is; or why there is none."""
        with self._lock:
            tile = self._cache.pop(key, None)
            if tile is not None:
                self._cached_bytes -= tile.nbytes
                return tile
        level, index = key
        if not self._levels[level].sizes[divmod(index, self._levels[level].across)]:
            # A tile without bytes is how sparse files say "nothing was scanned here".
            return _NoTile(None)
        try:
            return self._decode(level, index)
        except Exception as error:
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
            if before is None or before == y:
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

    def _decode(self, level: int, index: int) -> np.ndarray:
        page = self._levels[level]
        row, column = divmod(index, page.across)
        size = int(page.sizes[row, column])
        if size > page.most_bytes:
            raise ValueError(f"the file lists {size} bytes for it, and its pixels have {page.tile_bytes}")
        with self._lock:
            self._file.seek(int(page.offsets[row, column]))
            data = self._file.read(size)
            spare = self._spare.get(page.tile_shape)
            out = spare.pop() if spare else np.empty(page.tile_shape, np.uint8)
        if len(data) != size:
            raise ValueError(f"the file ends after {len(data)} of {size} bytes of the tile")
        return page.decode(index, data, out)


def _level_pages(tiff: tifffile.TiffFile) -> list[Any]:
    """The pages of the pyramid, finest first, checked to be what this reader decodes."""
    if tiff.is_ndpi or tiff.is_scn or tiff.is_bif or tiff.is_philips:
        raise NotMineError("a scanner's own TIFF, left to OpenSlide")
    first = tiff.pages.first
    if not first.is_tiled:
        raise NotMineError("its first page is not tiled")
    pages = [first]
    # OME-TIFF keeps the coarser levels in SubIFDs, SVS as all tiled pages, other TIFFs as pages marked "reduced".
    below = list(first.pages or [])
    following = [tiff.pages[number] for number in range(1, len(tiff.pages))]
    pages += below or [page for page in following if page.is_tiled and (tiff.is_svs or page.subfiletype & 1)]
    if tiff.is_ome and tiff.series and tiff.series[0].axes not in {"YXS", "YX"}:
        raise NotMineError(f"an OME-TIFF with axes {tiff.series[0].axes}, not one RGB plane")
    for page in pages:
        _check_page(page)
    aspect = first.imagewidth / first.imagelength
    return [
        page
        for page in sorted(pages, key=lambda page: -int(page.imagewidth))
        if abs(page.imagewidth / page.imagelength / aspect - 1) < 0.1 or page is first
    ]


def _check_page(page: Any) -> None:
    if page.compression not in _COMPRESSIONS:
        raise NotMineError(f"compression {int(page.compression)} is none of {sorted(set(_COMPRESSIONS.values()))}")
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise NotMineError(f"a level of {page.dtype} pixels")
    photometric = int(page.photometric)
    colour = page.samplesperpixel == 3 and page.planarconfig == 1 and photometric in {2, 6}
    grey = page.samplesperpixel == 1 and photometric == 1
    if not (colour or grey):
        raise NotMineError(f"its pixels have {page.samplesperpixel} samples of photometric kind {photometric}, not RGB")
    if photometric == 6 and page.compression != 7:
        raise NotMineError("YCbCr without JPEG")
    if page.compression == 7 and photometric == 2 and page.is_jfif:
        raise NotMineError("JPEG that is called RGB and looks like YCbCr")
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise NotMineError("it has several focal planes")
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if len(page.dataoffsets) != tiles or len(page.databytecounts) != tiles:
        raise NotMineError(f"it lists {len(page.dataoffsets)} tiles where its size needs {tiles}")
    if page.subfiletype & 1 and 0 in page.databytecounts:
        # OpenSlide fills such a hole from the level above; white would differ.
        raise NotMineError("a coarser level has tiles without data")


def _refuse(path: Path, page: Any) -> None:
    """Refuse what no reader shows right.

    OpenSlide ignores the orientation tag where viewers honour it, so coordinates would not agree; and of deep pixels
    it keeps the upper eight bits, which turns a camera's twelve bits black.
    """
    if not page.is_tiled:
        return
    tag = page.tags.get(274)
    if tag is not None and int(tag.value) != 1:
        raise UnreadableSlideError(
            f"cannot read {path.name}: its orientation tag says {int(tag.value)} (turned or mirrored), slides have 1. "
            "Write it again upright, for example with `vips autorot`."
        )
    if page.bitspersample != 8:
        raise UnreadableSlideError(
            f"cannot read {path.name}: its pixels are {page.dtype}, not 8 bit. Expected is 8-bit RGB; convert it with "
            "the contrast that you mean."
        )


def _describe(tiff: tifffile.TiffFile) -> tuple[MppClaim | None, float | None]:
    """What the file says of its resolution and objective."""
    page = tiff.pages.first
    if tiff.is_svs:
        parts = (part.partition("=") for part in page.description.split("|"))
        values = {key.strip(): value.strip() for key, _, value in parts}
        mpp, power = _number(values.get("MPP")), _number(values.get("AppMag"))
        # The resolution tag of an SVS is never the scanner's.
        return (MppClaim(mpp, mpp, "MPP of the Aperio description") if mpp is not None else None), power
    if tiff.is_ome:
        claim, power = _describe_ome(tiff.ome_metadata or "")
        if claim:
            return claim, power
    return resolution_tag(page), None


def _describe_ome(text: str) -> tuple[MppClaim | None, float | None]:
    root = ElementTree.fromstring(text)
    pixels = root.find(".//{*}Pixels")
    objective = root.find(".//{*}Objective")
    power = _number(objective.get("NominalMagnification")) if objective is not None else None
    if pixels is None:
        return None, power
    sizes = []
    for axis in "XY":
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        unit = _UM_PER_OME_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(size * unit if size is not None and unit is not None else None)
    x, y = sizes
    return (MppClaim(x, y, "OME PhysicalSize") if x is not None and y is not None else None), power


def resolution_tag(page: Any) -> MppClaim | None:
    """The resolution tag of a TIFF page; None where it is absent, has no unit, or is the 1 x 1 that means "unknown"."""
    if 282 not in page.tags or 283 not in page.tags:
        return None
    unit = page.tags.get(296)
    per_unit, name = _UM_PER_UNIT.get(int(unit.value) if unit is not None else 2, (None, ""))
    x, y = (top / bottom if bottom else 0.0 for top, bottom in (page.tags[282].value, page.tags[283].value))
    if per_unit is None or (x, y) == (1.0, 1.0) or x <= 0 or y <= 0:
        return None
    said = f"{x:.8g} pixels per {name}" if x == y else f"{x:.8g} by {y:.8g} pixels per {name}"
    return MppClaim(per_unit / x, per_unit / y, "TIFF resolution tag", said)


def _number(text: str | None) -> float | None:
    match = re.match(r"\s*[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", text.replace(",", ".")) if text else None
    return float(match.group()) if match else None
