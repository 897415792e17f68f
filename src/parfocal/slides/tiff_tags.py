"""How many tiles a TIFF lists, before tifffile holds the place of each of them in memory.

What the tags of a TIFF page say in words and numbers, and how tifffile is kept quiet while they are read.
"""

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from parfocal.slides.calibration import MppClaim

__all__ = [
    "BROKEN_DATA",
    "MOST_TILES",
    "aperio_claim",
    "count_tiles",
    "leading_number",
    "quiet_log",
    "quiet_tifffile",
    "resolution_tag",
]

# What tifffile, imagecodecs and the file itself raise on broken data.
BROKEN_DATA = (RuntimeError, ValueError, TypeError, IndexError, KeyError, OSError, struct.error, zlib.error)
_UM_PER_UNIT = {2: (25400.0, "inch"), 3: (10000.0, "cm")}


@contextmanager
def quiet_log(name: str) -> Iterator[None]:
    """Keep a library's log lines off the screen; what matters in them comes back as our one message."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


quiet_tifffile = partial(quiet_log, "tifffile")


def aperio_claim(description: str) -> tuple[MppClaim | None, float | None]:
    """Resolution and objective of an SVS, whose resolution tag is never the scanner's."""
    parts = (part.partition("=") for part in description.split("|"))
    values = {key.strip(): value.strip() for key, _, value in parts}
    mpp, power = leading_number(values.get("MPP")), leading_number(values.get("AppMag"))
    return (MppClaim(mpp, mpp, "MPP of the Aperio description") if mpp is not None else None), power


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


def leading_number(text: str | None) -> float | None:
    """The number that a text begins with, with a point or a comma."""
    match = re.match(r"\s*[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", text.replace(",", ".")) if text else None
    return float(match.group()) if match else None


# tifffile holds 80 bytes for each tile; this is a slide of 360,000 x 360,000 px in tiles of 256.
MOST_TILES = 2_000_000
# Tags of offsets and byte counts, and of further directories.
_INDEX, _SUBIFDS = {273, 279, 324, 325}, 330
# Bytes of a value, by its type.
_BYTES = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8, 16: 8, 17: 8, 18: 8}
_MOST_DIRECTORIES, _MOST_TAGS = 100_000, 4096


def count_tiles(file: BinaryIO) -> int | None:
    """How many tiles and strips the directories of a TIFF list; None where the file is no TIFF.

    Raises:
        ValueError: a tag lists more values than the file has bytes.
    """
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(order + "H", start[2:4])[0] if order and len(start) == 16 else 0
    if order is None or version not in {42, 43}:
        return None
    size = file.seek(0, 2)
    # Of classic TIFF and BigTIFF: an offset, the number of tags, and a tag's bytes.
    offset, tags, entry = (order + "I", order + "H", 12) if version == 42 else (order + "Q", order + "Q", 20)
    waiting = [struct.unpack_from(offset, start, 4 if version == 42 else 8)[0]]
    seen: set[int] = set()
    entries = 0
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop()
        if at == 0 or at in seen:
            continue
        seen.add(at)
        head = _read(file, at, struct.calcsize(tags))
        count = min(struct.unpack(tags, head)[0], _MOST_TAGS) if head else 0
        table = _read(file, at + len(head), count * entry + struct.calcsize(offset))
        for n in range(len(table) // entry if count else 0):
            tag, kind, values = struct.unpack_from(order + "HH" + offset[1:], table, n * entry)
            bytes_of_values = values * _BYTES.get(kind, 1)
            if bytes_of_values > size:
                raise ValueError(f"tag {tag} lists {values} values, more than the file has bytes")
            entries += values if tag in _INDEX else 0
            if tag == _SUBIFDS:
                inline = struct.calcsize(offset)
                found = table[(n + 1) * entry - inline : (n + 1) * entry]
                if bytes_of_values > inline:
                    found = _read(file, struct.unpack(offset, found)[0], bytes_of_values)
                letter = {4: "I", 8: "Q"}.get(_BYTES.get(kind, 0), "")
                if letter and len(found) >= bytes_of_values:
                    waiting += struct.unpack_from(f"{order}{values}{letter}", found)
        if table:
            waiting.append(struct.unpack_from(offset, table, count * entry)[0])
    return entries // 2


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    """So many bytes; none where the file ends before."""
    file.seek(at)
    data = file.read(size)
    return data if len(data) == size else b""
