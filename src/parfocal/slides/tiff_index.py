"""How many tiles a TIFF lists, before tifffile holds the place of each of them in memory."""

import struct
from typing import BinaryIO

__all__ = ["MOST_TILES", "count_tiles"]

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
