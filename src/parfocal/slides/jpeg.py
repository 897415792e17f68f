"""JPEG streams inside a TIFF: what they say of themselves, and decoding that does not guess."""

from dataclasses import dataclass

import numpy as np
import simplejpeg

__all__ = ["JpegHeader", "StrictJpeg", "read_jpeg_header"]

_SOI, _EOI, _SOS, _APP0, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
_START = b"\xff\xd8"
_DHT = 0xC4
# Longer than any that a real slide has (5 bytes); a damaged sector of zeros often decodes without an error.
_ZEROS = bytes(16)
# Adobe's mark, by which a decoder is told what the three components are: 0 is RGB, 1 is YCbCr.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


@dataclass(frozen=True)
class JpegHeader:
    """What stands before the pixels of a JPEG stream.

    Attributes:
        width: columns of the picture.
        height: rows of the picture.
        components: how many samples a pixel has.
        is_subsampled: some components have fewer pixels than others, which no RGB has.
        colour: `RGB` or `YCbCr` where a mark (Adobe, JFIF) or the names of the components say so; else None.
        is_sequential: one scan of plain Huffman codes, the usual kind.
        segments: the marker segments in order, without the start mark.
        length: where the compressed pixels begin.
    """

    width: int
    height: int
    components: int
    is_subsampled: bool
    colour: str | None
    is_sequential: bool
    segments: tuple[bytes, ...]
    length: int


def read_jpeg_header(data: bytes) -> JpegHeader:
    """What a stream says before its pixels begin.

    Raises:
        ValueError: it is no JPEG stream, or ends before its pixels.
    """
    segments, length = _segments(data)
    frame = next((one for one in segments if 0xC0 <= one[1] <= 0xCF and one[1] not in {0xC4, 0xC8, 0xCC}), b"")
    if len(frame) < 10 or len(frame) < 10 + 3 * frame[9]:
        raise ValueError("the JPEG stream has no frame header")
    names = frame[10 : 10 + 3 * frame[9] : 3]
    factors = set(frame[11 : 10 + 3 * frame[9] : 3])
    return JpegHeader(
        width=int.from_bytes(frame[7:9], "big"),
        height=int.from_bytes(frame[5:7], "big"),
        components=frame[9],
        is_subsampled=len(factors) > 1,
        colour=_stated_colour(segments, names),
        is_sequential=frame[1] in {0xC0, 0xC1},
        segments=tuple(segments),
        length=length,
    )


class StrictJpeg:
    """Decodes the streams of one level, all written alike.

    libjpeg warns of damage and goes on with grey; here its warnings are errors. The streams of a TIFF may leave their
    tables to the page and do not say what their components are: both are put into the stream.
    """

    def __init__(self, tables: bytes | None, colour: str) -> None:
        """Keep what the streams leave out.

        Args:
            tables: the page's JPEGTables, a stream without pixels.
            colour: what the components are: `RGB`, `YCbCr` or `grey`.
        """
        self._tables = _segments(tables)[0] if tables else []
        self._mark = b"" if colour == "grey" else _ADOBE + (b"\0" if colour == "RGB" else b"\1")
        self._output = "GRAY" if colour == "grey" else "RGB"
        self._components = 1 if colour == "grey" else 3
        # The header of the stream before, and what stands in its place: nearly all streams of a level share it.
        self._known: _Known | None = None

    def decode(self, data: bytes, out: np.ndarray) -> int:
        """Decode a stream; returns how many rows it has.

        Args:
            data: the stream as it stands in the file.
            out: gets the pixels: rows, columns, samples; where the stream has fewer rows, the upper ones.

        Raises:
            ValueError: it is damaged, or of another size than `out`.
        """
        known = self._known
        if known is None or not data.startswith(known.before):
            known = self._known = self._read(data)
        header = known.header
        rows, columns = out.shape[:2]
        if header.width != columns or header.height > rows or header.components != self._components:
            raise ValueError(
                f"its JPEG stream has {header.width} x {header.height} px of {header.components} samples in place of "
                f"{columns} x {rows} of {self._components}"
            )
        if known.has_no_zeros and data.find(_ZEROS, header.length) >= 0:
            raise ValueError("zeros stand in its JPEG stream")
        simplejpeg.decode_jpeg(known.instead + data[header.length :], self._output, buffer=out[: header.height])
        return header.height

    def _read(self, data: bytes) -> "_Known":
        header = read_jpeg_header(data)
        if header.is_subsampled and self._mark.endswith(b"\0"):
            raise ValueError("its JPEG stream has subsampled chroma where other tiles are RGB")
        kept = [one for one in header.segments if one[1] not in {_APP0, _APP14}]
        return _Known(
            before=data[: header.length],
            instead=_START + self._mark + b"".join(self._tables + kept),
            header=header,
            has_no_zeros=header.is_sequential and _zeros_are_texture(self._tables + kept),
        )


@dataclass(frozen=True)
class _Known:
    """A header as it stands in the file, what is decoded in its place, and whether its pixels can hold many zeros."""

    before: bytes
    instead: bytes
    header: JpegHeader
    has_no_zeros: bool


def _zeros_are_texture(segments: list[bytes]) -> bool:
    """Whether a long run of zeros means dozens of equal coefficients in a row, as no picture has, and not a flat area.

    The all-zero code is the first of a Huffman table. Where it ends the block in every table, zeros are flat blocks.
    """
    first_of_ac = []
    for one in segments:
        if one[1] != _DHT:
            continue
        at = 4
        while at + 17 < len(one):
            count = sum(one[at + 1 : at + 17])
            if one[at] >> 4 == 1:
                first_of_ac.append(one[at + 17])
            at += 17 + count
    return any(symbol != 0 for symbol in first_of_ac)


def _segments(data: bytes) -> tuple[list[bytes], int]:
    """The marker segments up to the first scan's or the end mark, and where they end."""
    if not data.startswith(_START):
        raise ValueError("the JPEG stream does not begin with its start mark")
    found: list[bytes] = []
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if len(data) < at + 2 or data[at] != 0xFF:
            raise ValueError("the JPEG stream ends or is damaged before its pixels")
        marker = data[at + 1]
        if marker == _EOI:
            return found, at
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 4 or len(data) < at + length:
            raise ValueError("the JPEG stream ends or is damaged before its pixels")
        found.append(data[at : at + length])
        at += length
        if marker == _SOS:
            return found, at


def _stated_colour(segments: list[bytes], names: bytes) -> str | None:
    """What the stream says that its three components are, as libjpeg understands it, but without guessing."""
    if len(names) != 3:
        return None
    for one in segments:
        if one[1] == _APP14 and one[4:9] == b"Adobe" and len(one) >= 16:
            return {0: "RGB", 1: "YCbCr"}.get(one[15])
    if any(one[1] == _APP0 and one[4:9] == b"JFIF\0" for one in segments):
        return "YCbCr"
    return "RGB" if names == b"RGB" else None
