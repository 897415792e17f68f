"""JPEG 2000 code streams: damage that their decoder passes over."""

import re

__all__ = ["check_jpeg2000", "has_subsampled_components"]

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
