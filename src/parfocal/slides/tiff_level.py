"""One level of a tiled TIFF: where its tiles lie in the file, and how their bytes become RGB."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from parfocal.slides.jpeg import StrictJpeg
from parfocal.slides.jpeg2000 import check_jpeg2000

__all__ = ["TiffLevel"]

_JPEG, _JPEG2000 = 7, {33003, 33004, 33005, 34712}
# Decoders without a checksum, and how many equal bytes none of their encoders writes: a run becomes a word. So many are
# a damaged sector, which decodes without an error.
_MOST_EQUAL = {5: ("LZW", 16), 50000: ("Zstandard", 64)}


class TiffLevel:
    """A page of a pyramid. It holds no file: whoever reads the bytes hands them over."""

    def __init__(self, page: Any) -> None:
        """Take over what the page says; it must be of a kind that has been found readable.

        Args:
            page: tifffile's page, while its file is open.
        """
        self.width = int(page.imagewidth)
        self.height = int(page.imagelength)
        self.tile_width = int(page.tilewidth)
        self.tile_height = int(page.tilelength)
        self.across = -(-self.width // self.tile_width)
        self.down = -(-self.height // self.tile_height)
        # tifffile's tuples have 40 bytes and more for each number.
        self.offsets = np.array(page.dataoffsets, np.uint64).reshape(self.down, self.across)
        self.sizes = np.array(page.databytecounts, np.uint64).reshape(self.down, self.across)
        self._samples = int(page.samplesperpixel)
        self._compression = int(page.compression)
        if self._compression == _JPEG:
            colour = {1: "grey", 2: "RGB", 6: "YCbCr"}[int(page.photometric)]
            self._jpeg: StrictJpeg | None = StrictJpeg(page.jpegtables, colour)
        else:
            self._jpeg = None
            # tifffile makes the decoder when it is first asked for.
            self._decode = page.decode

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Rows, columns and colours of a decoded tile."""
        return self.tile_height, self.tile_width, 3

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile."""
        return self.tile_height * self.tile_width * 3

    @property
    def most_bytes(self) -> int:
        """More than any compressed tile has; an index that is damaged may list billions."""
        return 2 * self.tile_bytes + (1 << 16)

    def decode(self, index: int, data: bytes, out: UInt8[np.ndarray, "y x 3"]) -> np.ndarray:
        """The pixels of a tile.

        Args:
            index: number of the tile, row by row.
            data: its bytes.
            out: memory that may be used for the result; a fresh array costs a fifth of the decoding in page faults.

        Raises:
            Exception: the bytes are damaged, whatever the decoder calls it.
        """
        if self._jpeg is not None and self._samples == 3:
            self._jpeg.decode(data, out)
            return out
        if self._jpeg is not None:
            tile = np.empty((*out.shape[:2], 1), np.uint8)
            self._jpeg.decode(data, tile)
        else:
            name, length = _MOST_EQUAL.get(self._compression, ("", 0))
            if length and (bytes(length) in data or b"\xff" * length in data):
                raise ValueError(f"a sector of zeros or ones stands in its {name} stream")
            if self._compression in _JPEG2000:
                check_jpeg2000(data)
            tile = self._decode(data, index)[0][0]
        if tile.dtype != np.uint8 or tile.shape != (*out.shape[:2], self._samples):
            raise ValueError(f"the tile holds {tile.dtype} {tile.shape} in place of what the header says")
        if self._samples == 3:
            return np.asarray(tile)
        out[...] = tile
        return out
