"""One level of a TIFF: where its tiles (or strips) lie in the file, and how their bytes become RGB."""

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from parfocal.slides.jpeg import StrictJpeg, check_jpeg2000
from parfocal.slides.reader import foreign_bytes
from parfocal.slides.tiff_pixels import PixelKind, to_rgb
from parfocal.slides.tiff_scans import Planes

# Decoders without a checksum, and how many equal bytes none of their encoders writes: a run becomes a word. So many are
# a damaged sector, which decodes without an error.
_MOST_EQUAL = {5: ("LZW", 16), 50000: ("Zstandard", 64)}
_NONE, _JPEG2000 = 1, {33003, 33004, 33005, 34712}
# A strip of uncompressed pixels is read in pieces of this size at most; others as they are, up to the second one.
_PIECE_BYTES, _MOST_BYTES = 1 << 20, 256 << 20
# Nothing but the header lies before this.
_HEADER_BYTES = 8
# Between one tile and the next some writers leave a few bytes; a tile of its own has more.
_LEAST_BYTES = 64
# Where more of the tiles lie inside others, that is how its writer counts.
_MOST_OVERLAPPING = 0.1
# So many tiles at the place of another may be damage.
_FEW_SHARED = 2


class BrokenTileError(ValueError):
    """A tile cannot be decoded; the text is why, as a clause."""


class TiffLevel:
    """A level of a pyramid, made of one page or of one for each colour; strips are tiles as wide as the level.

    It holds no file: whoever reads the bytes hands them over.
    """

    def __init__(self, planes: Planes, kind: PixelKind) -> None:
        """Take over what the pages say.

        Args:
            planes: tifffile's pages, while their file is open.
            kind: what their samples are.

        Raises:
            ValueError: they contradict themselves: too few tiles for their size, or tiles of an absurd one.
        """
        page = planes[0]
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.is_tiled = bool(page.is_tiled)
        self.tile_width = int(page.tilewidth) if self.is_tiled else self.width
        self.tile_height = int(page.tilelength) if self.is_tiled else min(int(page.rowsperstrip), self.height)
        self._kind = kind
        self._samples = int(page.samplesperpixel) if int(page.planarconfig) == 1 else 1
        self._compression = int(page.compression)
        pieces = self._cut_strips(page)
        if self.tile_height < 1 or self.tile_width < 1 or self.tile_bytes > _MOST_BYTES:
            raise ValueError(f"its tiles have {self.tile_width} x {self.tile_height} px, too many to be read at once")
        self.across, self.down = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        indices = [found for plane in planes for found in _tile_index(plane)]
        if pieces is not None:
            indices = [pieces(*one) for one in indices]
        for offsets, sizes in indices:
            if not len(offsets) == len(sizes) == self.across * self.down:
                unit = "tiles" if self.is_tiled else "strips"
                differing = f"the places of {len(offsets)} and the sizes of {len(sizes)} {unit}"
                raise ValueError(
                    f"it lists {differing if len(offsets) != len(sizes) else f'{len(offsets)} {unit}'} where its size "
                    f"of {self.width} x {self.height} px needs {self.across * self.down}"
                )
        # One row a colour plane, one column a tile.
        self.offsets = np.stack([offsets for offsets, _ in indices])
        self.sizes = np.stack([sizes for _, sizes in indices])
        self.is_misplaced = np.any([_misplaced(*one, self._most_bytes) for one in indices], axis=0)
        self.is_absent = (self.sizes.max(axis=0) == 0) & ~self.is_misplaced
        self._jpeg = StrictJpeg(page.jpegtables, kind.jpeg_colour) if kind.jpeg_colour else None
        self._plain = self._compression == _NONE and int(page.predictor) == 1 and int(page.fillorder) == 1
        # tifffile makes the decoder when it is first asked for.
        self._decode = None if self._jpeg or self._plain else page.decode

    @foreign_bytes(BrokenTileError)
    def read_streams(self, file: BinaryIO, index: int) -> list[bytes]:
        """The bytes of a tile, one stream of each colour plane.

        Raises:
            BrokenTileError: the file has not all of them, or its place or size is not what the file's writer meant.
        """
        if self.is_misplaced[index]:
            raise ValueError("its place in the file contradicts the places of other tiles")
        sizes = self.sizes[:, index].tolist()
        if max(sizes) > self._most_bytes:
            raise ValueError(f"the file lists {max(sizes)} bytes for it, and its pixels have {self.tile_bytes}")
        streams = []
        for offset, size in zip(self.offsets[:, index].tolist(), sizes, strict=True):
            file.seek(offset)
            streams.append(file.read(size))
            if len(streams[-1]) != size:
                raise ValueError(f"the file ends after {len(streams[-1])} of {size} bytes of the tile")
        return streams

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Rows, columns and colours of a decoded tile."""
        return self.tile_height, self.tile_width, 3

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile."""
        return self.tile_height * self.tile_width * 3

    @property
    def _most_bytes(self) -> int:
        """More than any compressed tile has; an index that is damaged may list billions."""
        return 2 * self.tile_bytes + (1 << 16)

    def absent_in(self, x: int, y: int, width: int, height: int) -> range | None:
        """As many numbers as there are tiles under a window, from the first one's on, where none of them has bytes."""
        rows = slice(y // self.tile_height, (y + height - 1) // self.tile_height + 1)
        columns = slice(x // self.tile_width, (x + width - 1) // self.tile_width + 1)
        under = self.is_absent.reshape(self.down, self.across)[rows, columns]
        first = rows.start * self.across + columns.start
        return range(first, first + under.size) if under.all() else None

    @foreign_bytes(BrokenTileError)
    def decode(self, index: int, streams: list[bytes], out: UInt8[np.ndarray, "y x 3"]) -> np.ndarray:
        """The pixels of a tile.

        Args:
            index: number of the tile, row by row.
            streams: its bytes, one of each colour plane.
            out: memory that is used for the result; a fresh array costs a fifth of the decoding in page faults.

        Returns:
            The result; rows beyond the last one of the level hold anything.

        Raises:
            BrokenTileError: the bytes are damaged, or cannot be those of this tile.
        """
        if self._jpeg is not None and self._kind.is_plain_rgb and len(streams) == 1:
            self._check_rows(self._jpeg.decode(streams[0], out), index)
            return out
        planes = [self.samples(index, stream) for stream in streams]
        raw = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if self._kind.is_plain_rgb and len(raw) == len(out) and raw.flags.c_contiguous:
            return raw
        to_rgb(raw, self._kind, out[: len(raw)])
        return out

    @foreign_bytes(BrokenTileError)
    def samples(self, index: int, stream: bytes) -> UInt8[np.ndarray, "y x s"]:
        """The samples of a tile of one plane, as they are before they become RGB; raises as `decode` does."""
        if self._jpeg is not None:
            tile = np.empty((self.tile_height, self.tile_width, 3 if self._samples == 3 else 1), np.uint8)
            rows = self._jpeg.decode(stream, tile)
            self._check_rows(rows, index)
            return tile[:rows]
        if self._plain:
            row_bytes = self.tile_width * self._samples
            tile = np.frombuffer(stream, np.uint8)
            rows = min(len(tile) // row_bytes, self.tile_height)
            self._check_rows(rows, index)
            return tile[: rows * row_bytes].reshape(rows, self.tile_width, self._samples)
        name, length = _MOST_EQUAL.get(self._compression, ("", 0))
        if length and (bytes(length) in stream or b"\xff" * length in stream):
            raise ValueError(f"a sector of zeros or ones stands in its {name} stream")
        if self._compression in _JPEG2000:
            rows = self.tile_height if self.is_tiled else min(self.tile_height, self.height - index * self.tile_height)
            check_jpeg2000(stream, self.tile_width, rows)
        assert self._decode is not None
        tile = self._decode(stream, index)[0][0]
        if tile.dtype != np.uint8 or tile.shape[1:] != (self.tile_width, self._samples):
            raise ValueError(f"the tile holds {tile.dtype} {tile.shape} in place of what the header says")
        self._check_rows(len(tile), index)
        return np.asarray(tile[: self.tile_height])

    def _check_rows(self, rows: int, index: int) -> None:
        """A tile is always whole; the last strip ends with the level."""
        top = index // self.across * self.tile_height
        needed = self.tile_height if self.is_tiled else min(self.tile_height, self.height - top)
        if rows < needed:
            raise ValueError(f"it has {rows} of {needed} rows")

    def _cut_strips(self, page: Any) -> "Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None":
        """One uncompressed strip, as cameras write it, becomes many of few rows; returns what cuts its index."""
        row_bytes = self.width * self._samples
        is_one_strip = not self.is_tiled and self.tile_height == self.height
        if not is_one_strip or self._compression != _NONE or int(page.predictor) != 1 or row_bytes > _PIECE_BYTES:
            return None
        self.tile_height = rows = min(_PIECE_BYTES // row_bytes, self.height)
        starts = np.arange(0, self.height, rows) * row_bytes

        def cut(offsets: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if len(offsets) != 1 or len(sizes) != 1:
                return offsets, sizes
            left = np.maximum(int(sizes[0]) - starts, 0)
            return offsets + starts.astype(np.uint64), np.minimum(left, rows * row_bytes).astype(np.uint64)

        return cut


def _misplaced(
    offsets: UInt64[np.ndarray, "tile"], sizes: UInt64[np.ndarray, "tile"], most: int
) -> Bool[np.ndarray, "tile"]:
    """Tiles whose place contradicts the others': an index that was damaged points anywhere.

    A tile without bytes has no place, or that of the next tile, or the end; at another place lie the bytes that it once
    had. Two tiles may have the same bytes, but not a part of them; where hardly any do, there must be no room for bytes
    of their own between their neighbours.
    """
    has_bytes = sizes > 0
    misplaced = has_bytes & (offsets < _HEADER_BYTES)
    numbers = np.flatnonzero(has_bytes & (sizes <= most))
    numbers = numbers[np.lexsort((sizes[numbers], offsets[numbers]))]
    starts, ends = offsets[numbers], offsets[numbers] + sizes[numbers]
    empty = np.flatnonzero(~has_bytes & (offsets > 0))
    # Up to the next place that a tile names; behind the last one no room is known of.
    places = np.unique(np.concatenate([starts, offsets[empty], ends[-1:]]))
    room = np.append(np.diff(places), np.uint64(0))
    lost = room[np.searchsorted(places, offsets[empty])] >= _LEAST_BYTES
    misplaced[empty] = lost & ~np.isin(offsets[empty], starts)
    furthest = np.maximum.accumulate(ends)
    inside = starts[1:] < furthest[:-1]
    same = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])
    inside &= ~same
    both = np.union1d(np.flatnonzero(inside), np.flatnonzero(inside) + 1)
    if len(both) <= max(_MOST_OVERLAPPING * len(numbers), 2):
        misplaced[numbers[both]] = True
    shared = np.union1d(numbers[1:][same], numbers[:-1][same])
    shared = shared[(shared > 0) & (shared < len(offsets) - 1)]
    left, right = offsets[shared - 1] + sizes[shared - 1], offsets[shared + 1]
    room = right.astype(np.int64) - left.astype(np.int64) - sizes[shared].astype(np.int64)
    is_open = (room >= 0) & (room < _LEAST_BYTES) & (np.searchsorted(starts, left) == np.searchsorted(starts, right))
    # More of them are a writer's habit, and what lies between its tiles are other levels.
    if same.sum() <= _FEW_SHARED:
        misplaced[shared[is_open]] = True
    return misplaced


def _tile_index(page: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where the tiles of a page lie and how many bytes they have, for each of its colour planes."""
    # tifffile's tuples have 40 bytes and more for each number.
    offsets, sizes = (np.array(values, np.uint64) for values in (page.dataoffsets, page.databytecounts))
    count = int(page.samplesperpixel) if int(page.planarconfig) == 2 else 1
    if count == 1:
        return [(offsets, sizes)]
    return list(zip(np.array_split(offsets, count), np.array_split(sizes, count), strict=True))
