"""JPEG streams inside a TIFF: what they say of themselves, and decoding that does not guess.

Of JPEG 2000 code streams: damage that their decoder passes over.
"""

import re
from dataclasses import dataclass

import numpy as np
import simplejpeg

_SOI, _EOI, _SOS, _APP0, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
_START, _END = b"\xff\xd8", b"\xff\xd9"
_DHT = 0xC4
# Longer than any run of one byte that a real slide has (5 bytes); damaged sectors, filled with zeros or another byte,
# often decode without an error.
_RUN = 16
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
        segments: the marker segments in order, without the start mark.
        length: where the compressed pixels begin.
    """

    width: int
    height: int
    components: int
    is_subsampled: bool
    colour: str | None
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
        _check_fill(data, header.length)
        if known.flat_bytes is not None:
            _check_runs(data, header.length, known.flat_bytes)
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
            flat_bytes=_flat_bytes(self._tables + kept),
        )


@dataclass(frozen=True)
class _Known:
    """A header as it stands in the file, what is decoded in its place, and of which bytes its pixels may hold runs."""

    before: bytes
    instead: bytes
    header: JpegHeader
    flat_bytes: frozenset[int] | None


def _check_fill(data: bytes, start: int) -> None:
    """Refuse ones that fill a place among the compressed pixels, which libjpeg skips without a word.

    After such a byte stands a zero where it belongs to the pixels, else a mark; more of them may only precede a mark.
    """
    at = data.find(b"\xff\xff", start)
    while at >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        if data[at : at + 1] == b"\0":
            raise ValueError("a run of ones stands in its JPEG stream")
        if data[at : at + 1] == bytes([_EOI]):
            return  # what follows the end is not read
        at = data.find(b"\xff\xff", at)


def _check_runs(data: bytes, start: int, flat: frozenset[int]) -> None:
    """Refuse a run of one byte that is no flat area (ones apart); every run holds eight of them in an aligned place."""
    words = np.frombuffer(data, np.uint64, (len(data) - start) // 8, start)
    for at in np.flatnonzero(words == (words & 0xFF) * 0x0101010101010101):
        first = start + 8 * int(at)
        value = data[first]
        if (
            value == 0xFF
            or value in flat
            or bytes([value]) * _RUN not in data[max(first - _RUN, start) : first + _RUN + 8]
        ):
            continue
        if data.find(_END, start, first) >= 0:
            return  # what follows the end is not read
        raise ValueError(f"a run of the byte {value} stands in its JPEG stream")


def _flat_bytes(segments: list[bytes]) -> frozenset[int] | None:
    """The bytes that a flat area may repeat: where the blocks of equal colour are coded in 1, 2, 4 or 8 bits.

    None where that cannot be told: the components have scans of their own.
    """
    frame = next((one for one in segments if one[1] in {0xC0, 0xC1}), b"")
    scan = segments[-1]
    if not frame or scan[1] != _SOS or scan[4] != frame[9]:
        return None
    blocks = {frame[at]: (frame[at + 1] >> 4) * (frame[at + 1] & 15) for at in range(10, 10 + 3 * frame[9], 3)}
    codes = _codes_of_zero(segments)
    bits = ""
    for at in range(5, 5 + 2 * scan[4], 2):
        dc, ac = codes.get(scan[at + 1] >> 4), codes.get(16 | scan[at + 1] & 15)
        if dc is None or ac is None:
            return frozenset()  # a flat block cannot be coded at all
        bits += (dc + ac) * (blocks.get(scan[at], 1) if scan[4] > 1 else 1)
    bits *= 8 * _RUN // len(bits) + 2
    return frozenset(int(bits[at : at + 8], 2) for at in range(8)) if bits[8:] == bits[:-8] else frozenset()


def _codes_of_zero(segments: list[bytes]) -> dict[int, str]:
    """By the class and number of a Huffman table its code of 0: no change of brightness, or nothing more in a block."""
    found: dict[int, str] = {}
    for one in segments:
        at = 4
        while one[1] == _DHT and at + 17 <= len(one):
            code, symbol_at = 0, at + 17
            found.pop(one[at], None)
            for length in range(1, 17):
                for symbol in one[symbol_at : symbol_at + one[at + length]]:
                    if symbol == 0:
                        found[one[at]] = f"{code:0{length}b}"
                    code += 1
                symbol_at += one[at + length]
                code <<= 1
            at = symbol_at
    return found


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


_SOC, _EOC = b"\xff\x4f\xff\x51", b"\xff\xd9"
_COD, _SOT, _SOD = 0x52, 0x90, b"\xff\x93"
# Packets are written so that no byte above 8F follows an FF; only these marks stand among them.
_MARK = re.compile(rb"\xff[\x90-\xff]")


def check_jpeg2000(data: bytes, width: int, height: int) -> None:
    """Find what cannot stand in a whole code stream; OpenJPEG decodes most of it into wrong pixels.

    Raises:
        ValueError: it is of another size, the end mark is absent, marks stand where none can be, or a sector of zeros.
    """
    start = data.find(_SOC)
    end = data.rfind(_EOC)
    if start < 0 or end < start + 40:
        raise ValueError("its JPEG 2000 stream has no beginning or no end")
    right, bottom, left, top = (int.from_bytes(data[start + n : start + n + 4], "big") for n in (8, 12, 16, 20))
    if (right - left, bottom - top) != (width, height):
        raise ValueError(f"its JPEG 2000 stream has {right - left} x {bottom - top} px in place of {width} x {height}")
    allowed, most_zeros, at = {0xD9}, 0, start + 2
    while data[at + 1 : at + 2] != bytes([_SOT]):
        if len(data) < at + 4 or data[at] != 0xFF:
            raise ValueError("the header of its JPEG 2000 stream is damaged")
        if data[at + 1] == _COD:
            style, layers, levels = data[at + 4], int.from_bytes(data[at + 6 : at + 8], "big"), data[at + 9]
            # Start and end marks of packets, where the style has them. An empty packet is one byte of zeros; where the
            # size of precincts is not the largest, nobody knows here how many there are.
            allowed |= {0x91} if style & 2 else set()
            allowed |= {0x92} if style & 4 else set()
            most_zeros = 0 if style & 1 else layers * (levels + 1) * 4 + 16
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if 0 < int.from_bytes(data[at + 6 : at + 10], "big") < end - at:
        # Another tile part follows, which begins with these two.
        allowed |= {_SOT, _SOD[1]}
    body = data.find(_SOD, at) + 2
    if any(found.group()[1] not in allowed for found in _MARK.finditer(data, body, end)):
        raise ValueError("marks stand among the packets of its JPEG 2000 stream")
    if most_zeros and data.find(bytes(most_zeros), body, end) >= 0:
        raise ValueError("zeros stand in its JPEG 2000 stream")


def has_subsampled_components(data: bytes) -> bool:
    """Whether some samples have fewer pixels than others: YCbCr of one scanner, which OpenSlide reads."""
    at = data.find(_SOC) + 2
    if at < 2 or len(data) < at + 40:
        return False
    count = int.from_bytes(data[at + 38 : at + 40], "big")
    steps = [data[at + 40 + 3 * n + 1 : at + 40 + 3 * n + 3] for n in range(min(count, 4))]
    return any(step != b"\1\1" for step in steps)
