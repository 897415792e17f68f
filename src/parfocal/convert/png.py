"""A PNG decoded in bands of rows, in memory for one band, whatever its size.

Decoders of PNG want the whole picture. A row is only ever predicted from the one above it, though. So the stream is
inflated piece by piece, and each band is decoded as a small PNG of its own, whose first row is the last one of the band
before, as it is.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
from jaxtyping import UInt8

from parfocal.slides.openslide_reader import on_white
from parfocal.slides.tiff_tags import quiet_log

_START = b"\x89PNG\r\n\x1a\n"
# Compressed bytes at a time: they may hold a thousand times as many.
_PIECE_BYTES = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The kind of PNG whose pixels have so many bytes: filters know bytes of pixels, not colours.
_KIND_OF_BYTES = {1: 0, 2: 4, 3: 2, 4: 6}


@dataclass(frozen=True)
class PngHeader:
    """What the beginning of a PNG says.

    Attributes:
        width: in pixels.
        height: in pixels.
        depth: bits of a sample.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey with transparency, 6 RGB with transparency.
        is_interlaced: whether rows come in seven passes over the picture, so that it has no bands.
    """

    width: int
    height: int
    depth: int
    colour: int
    is_interlaced: bool

    @property
    def pixel_bytes(self) -> int:
        """Bytes from a sample to that of the pixel before it, at least one."""
        return max(1, _CHANNELS[self.colour] * self.depth // 8)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without its filter."""
        return -(-self.width * _CHANNELS[self.colour] * self.depth // 8)


def read_png_header(data: mmap.mmap) -> PngHeader:
    """What the beginning says.

    Raises:
        ValueError: it is not the beginning of a PNG.
    """
    if data[:8] != _START or data[12:16] != b"IHDR":
        raise ValueError("it does not begin as a PNG does")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if colour not in _CHANNELS or not width or not height:
        raise ValueError(f"its header says {width} x {height} px of colour type {colour}")
    return PngHeader(width, height, depth, colour, bool(interlace))


def png_bands(data: mmap.mmap, rows: int) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
    """The picture from top to bottom as RGB on white, so many rows at a time, the last band shorter.

    Args:
        data: the file, whose checksums have been compared; 8 bits a sample at most, and not interlaced.
        rows: of a band.

    Raises:
        ValueError: the rows are not all there, or damaged.
    """
    header, inflate = read_png_header(data), zlib.decompressobj()
    lookup = {kind: bytes(part) for kind, part in _chunks(data) if kind in (b"PLTE", b"tRNS")}
    stride, waiting, done = header.row_bytes + 1, bytearray(), 0
    above = bytes(header.row_bytes)
    for kind, chunk in _chunks(data):
        if kind != b"IDAT":
            continue
        for at in range(0, len(chunk), _PIECE_BYTES):
            waiting += inflate.decompress(chunk[at : at + _PIECE_BYTES])
            while len(waiting) >= (n := min(rows, header.height - done)) * stride and n:
                band = _unfiltered(header, above, bytes(waiting[: n * stride]))
                del waiting[: n * stride]
                above, done = band[-1].tobytes(), done + n
                yield _as_rgb(header, band, lookup)
    if done < header.height or not inflate.eof:
        raise ValueError(f"its data end after {done} of {header.height} rows")


def _chunks(data: mmap.mmap) -> Iterator[tuple[bytes, memoryview]]:
    with memoryview(data) as view:
        at, kind = len(_START), b""
        while kind != b"IEND":
            length = int.from_bytes(view[at : at + 4], "big")
            kind = bytes(view[at + 4 : at + 8])
            with view[at + 8 : at + 8 + length] as part:
                yield kind, part
            at += 12 + length


def _unfiltered(header: PngHeader, above: bytes, filtered: bytes) -> UInt8[np.ndarray, "y b"]:
    """The bytes of the rows of a band."""
    n_rows, pixel_bytes = len(filtered) // (header.row_bytes + 1) + 1, header.pixel_bytes
    kind = _KIND_OF_BYTES[pixel_bytes]
    about = struct.pack(">IIBBBBB", header.row_bytes // pixel_bytes, n_rows, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", about), (b"IDAT", zlib.compress(b"\0" + above + filtered, 0)), (b"IEND", b""))
    band = b"".join(
        len(part).to_bytes(4, "big") + name + part + zlib.crc32(name + part).to_bytes(4, "big") for name, part in parts
    )
    with quiet_log("imagecodecs"):
        return np.asarray(imagecodecs.png_decode(_START + band)).reshape(n_rows, header.row_bytes)[1:]


def _as_rgb(header: PngHeader, raw: UInt8[np.ndarray, "y b"], lookup: dict[bytes, bytes]) -> UInt8[np.ndarray, "y x 3"]:
    """Bytes of rows as RGB on white: palettes looked up, grey three times, the one transparent colour white."""
    transparent, most = lookup.get(b"tRNS"), (1 << header.depth) - 1
    if header.colour in {4, 6}:
        samples = raw.reshape(len(raw), header.width, -1)
        return on_white(samples if header.colour == 6 else samples[..., [0, 0, 0, 1]])
    if header.colour == 2:
        rgb = raw.reshape(len(raw), header.width, 3)
        if transparent is None:
            return rgb
        key = np.frombuffer(transparent, ">u2")
        return np.where((rgb == key).all(axis=2, keepdims=True), np.uint8(255), rgb)
    values = raw
    if header.depth < 8:
        bits = np.unpackbits(raw, axis=1).reshape(len(raw), -1, header.depth)
        values = np.packbits(bits, axis=2)[..., 0] >> (8 - header.depth)
        values = values[:, : header.width]
    table = np.full((256, 4), 255, np.uint8)
    if header.colour == 3:
        palette = np.frombuffer(lookup.get(b"PLTE", b""), np.uint8).reshape(-1, 3)
        if values.max() >= len(palette):
            raise ValueError(f"a pixel has the colour {values.max()} of a palette of {len(palette)}")
        table[: len(palette), :3] = palette
        alpha = np.frombuffer(transparent or b"", np.uint8)[:256]
        table[: len(alpha), 3] = alpha
    else:
        table[: most + 1, :3] = np.linspace(0, 255, most + 1).round().astype(np.uint8)[:, None]
        if transparent is not None:
            table[int.from_bytes(transparent[:2], "big") & most, 3] = 0
    return np.asarray(on_white(table[None])[0][values])
