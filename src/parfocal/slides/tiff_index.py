"""How many tiles a TIFF lists, before tifffile holds the place of each of them in memory."""

import struct
from typing import BinaryIO

__all__ = ["MOST_TILES", "count_tiles"]

# tifffile holds 80 bytes for each tile; this is a slide of 360,000 x 360,000 px in tiles of 256.
MOST_TILES = 2_000_000
# Tags of offsets and byte counts, and of further directories.
_INDEX, _SUBIFDS = {273, 279, 324, 325}, 330
_MOST_DIRECTORIES, _MOST_TAGS = 100_000, 4096


def count_tiles(file: BinaryIO) -> int | None:
    """How many tiles and strips the directories of a TIFF list; None where the file is no TIFF."""
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(order + "H", start[2:4])[0] if order and len(start) == 16 else 0
    if order is None or version not in {42, 43}:
        return None
    offset_of, count_of, entry_bytes = ("I", "H", 12) if version == 42 else ("Q", "Q", 20)
    waiting = [struct.unpack_from(order + offset_of, start, 4 if version == 42 else 8)[0]]
    seen: set[int] = set()
    entries = 0
    while waiting:
        at = waiting.pop()
        if at == 0 or at in seen or len(seen) > _MOST_DIRECTORIES:
            continue
        seen.add(at)
        file.seek(at)
        head = file.read(struct.calcsize(count_of))
        if len(head) < struct.calcsize(count_of):
            continue
        count = min(struct.unpack(order + count_of, head)[0], _MOST_TAGS)
        table = file.read(count * entry_bytes + struct.calcsize(offset_of))
        for n in range(min(count, len(table) // entry_bytes)):
            tag, _, values = struct.unpack_from(order + "HH" + offset_of, table, n * entry_bytes)
            if tag in _INDEX:
                entries += values
            elif tag == _SUBIFDS and values == 1:
                waiting.append(
                    struct.unpack_from(order + offset_of, table, (n + 1) * entry_bytes - struct.calcsize(offset_of))[0]
                )
        if len(table) == count * entry_bytes + struct.calcsize(offset_of):
            waiting.append(struct.unpack_from(order + offset_of, table, count * entry_bytes)[0])
    return entries // 2
