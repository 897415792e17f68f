"""Rows of a picture in, a pyramid of tiles out, whatever the size: a few rows of each level are in memory.

While a level is written, the next one, of half its width and height, is gathered in a file beside it: at most 1.9 bytes
for each pixel of the picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from jaxtyping import UInt8, UInt16

Codec = Literal["jpeg", "lossless"]
Band = UInt8[np.ndarray, "y x 3"]
Sums = UInt16[np.ndarray, "y x 3"]
"""Means of pixels in 64ths."""

TILE_PX = 512
# The coarsest level is the first whose longer side is no longer than this.
_COARSEST_PX = 1024
# Levels are gathered in 64ths and rounded when they are written: rounded at every level, flat parts would drift by half
# a step of grey (.41 after four levels of noise of 8 steps).
_UNIT = 64
_ROWS_AT_ONCE = 64
# Classic TIFF has 32 bits for a place in the file; compressed pixels are larger than they were only by a little.
_CLASSIC_BYTES = (1 << 32) - (1 << 26)


@dataclass(frozen=True)
class PyramidTags:
    """What the file says beside its pixels.

    Attributes:
        mpp: micrometres per pixel of level 0.
        icc_profile: the colour profile of the pixels.
        software: what wrote it.
    """

    mpp: float
    icc_profile: bytes | None
    software: str


def level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Width and height of each level.

    They are rounded down: a pixel of a level is the mean of whole pixels, at most one row and column at the far edge is
    in no coarser level, and no ratio of widths is below a power of two, which some readers would cut to the one before.
    """
    sizes = [(width, height)]
    while max(sizes[-1]) > _COARSEST_PX and min(sizes[-1]) > 1:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def halved(rows: Sums) -> UInt16[np.ndarray, "half_y half_x 3"]:
    """The mean of each two by two pixels, in the same 64ths, halves to the even one; an odd edge is left out."""
    height, width = rows.shape[0] // 2 * 2, rows.shape[1] // 2 * 2
    pairs = rows[:height:2, :width] + rows[1:height:2, :width]
    total = pairs[:, ::2] + pairs[:, 1::2]  # 4 x 255 x 64 are just below 2 ** 16
    half: UInt16[np.ndarray, "half_y half_x 3"] = (total + 1 + ((total >> 2) & 1)) >> 2
    return half


def rounded(rows: Sums) -> Band:
    """64ths as whole numbers, halves to the even one: always up would make every level brighter than the picture."""
    whole: Band = ((rows + (_UNIT // 2 - 1) + ((rows >> 6) & 1)) >> 6).astype(np.uint8)
    return whole


def write_pyramid(
    path: Path,
    bands: Iterator[Band],
    size: tuple[int, int],
    tags: PyramidTags,
    scratch: Path,
    *,
    codec: Codec = "jpeg",
    quality: int = 90,
    workers: int = 1,
) -> None:
    """Write the picture with all its levels.

    Args:
        path: the file.
        bands: rows from the top, any number at a time; all of them are asked for.
        size: width and height.
        tags: what else it says.
        scratch: an empty folder, for the levels that are not written yet.
        codec: `jpeg`, or `lossless` (deflate).
        quality: of JPEG, 1 to 100.
        workers: threads that compress.

    Raises:
        ValueError: the bands have other rows than the size says.
    """
    sizes = level_sizes(*size)
    is_big = sum(width * height * 3 for width, height in sizes) > _CLASSIC_BYTES
    # A JPEG is stored as luma and chroma, the latter at half the resolution, as most scanners do.
    compression: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": quality}}
    if codec == "lossless":
        compression = {"compression": "adobe_deflate", "predictor": True}
    with tifffile.TiffWriter(path, bigtiff=is_big) as tiff:
        for number, (width, height) in enumerate(sizes):
            last = number == len(sizes) - 1
            gathered = None if last else scratch / f"level-{number + 1}.rgb"
            if number == 0:
                tiles = _tiles(_regrouped(bands, width, height), gathered)
            else:
                tiles = _tiles(_stored_rows(scratch / f"level-{number}.rgb", width, height), gathered)
            per_cm = 10_000 / (tags.mpp * 2**number)
            tiff.write(
                tiles,
                shape=(height, width, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                subfiletype=int(number > 0),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                iccprofile=tags.icc_profile,
                software=tags.software if number == 0 else False,
                metadata=None,
                maxworkers=workers,
                buffersize=1 << 26,
                **compression,
            )
            if number:
                (scratch / f"level-{number}.rgb").unlink()


def _regrouped(bands: Iterator[Band], width: int, height: int) -> Iterator[Band]:
    """The same rows, as many at a time as a tile has, the last ones fewer."""
    waiting: list[Band] = []
    n_waiting = done = 0
    for band in bands:
        if band.shape[1] != width or done + n_waiting + len(band) > height:
            raise ValueError(f"rows {done + n_waiting} to {done + n_waiting + len(band)} of {height} are {band.shape}")
        at = 0
        while at < len(band):
            taken = band[at : at + TILE_PX - n_waiting]
            waiting.append(taken)
            at, n_waiting = at + len(taken), n_waiting + len(taken)
            if n_waiting == TILE_PX:
                yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                waiting, n_waiting, done = [], 0, done + TILE_PX
    if done + n_waiting != height:
        raise ValueError(f"there are {done + n_waiting} of {height} rows")
    if waiting:
        yield np.concatenate(waiting)


def _tiles(rows: Iterator[Band | Sums], gathered: Path | None) -> Iterator[Band]:
    """The tiles of a level row by row, its far edges filled up by repetition; the next level goes into a file."""
    file = None if gathered is None else gathered.open("wb")
    try:
        for band in rows:
            for top in range(0, len(band) if file is not None else 0, _ROWS_AT_ONCE):
                part = band[top : top + _ROWS_AT_ONCE]
                sums = part.astype(np.uint16) * np.uint16(_UNIT) if part.dtype == np.uint8 else part
                assert file is not None
                file.write(halved(sums).tobytes())
            pixels = band if band.dtype == np.uint8 else rounded(band)
            # Repeated and not white or black: a JPEG would ring at the edge.
            right, below = -pixels.shape[1] % TILE_PX, -pixels.shape[0] % TILE_PX
            filled = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge") if right or below else pixels
            for left in range(0, filled.shape[1], TILE_PX):
                yield np.ascontiguousarray(filled[:, left : left + TILE_PX])
    finally:
        if file is not None:
            file.close()


def _stored_rows(path: Path, width: int, height: int) -> Iterator[Sums]:
    with path.open("rb") as file:
        for top in range(0, height, TILE_PX):
            n_rows = min(TILE_PX, height - top)
            yield np.fromfile(file, np.uint16, n_rows * width * 3).reshape(n_rows, width, 3)
