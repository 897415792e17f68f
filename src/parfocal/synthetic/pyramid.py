"""Writing a picture as a slide: a pyramidal, tiled, lossless TIFF that says its microns per pixel."""

from pathlib import Path

import cv2
import numpy as np
import tifffile
from jaxtyping import UInt8

from parfocal.provenance import canonical_json, remove_leftovers, writing

__all__ = ["halve", "write_pyramid"]

_TILE_PX = 256
_COMPRESSION_LEVEL = 1  # of deflate; higher levels take three times as long for a tenth of the bytes


def halve(rgb: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y2 x2 3"]:
    """Average over 2 x 2 pixels, rounded half up; only sums of whole cells enter, so equal sums give equal pixels.

    Raises:
        ValueError: a side is odd.
    """
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"cannot halve a picture of {width} x {height} px: both sides must be even")
    halved: UInt8[np.ndarray, "y2 x2 3"] = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return halved


def write_pyramid(
    path: Path, rgb: UInt8[np.ndarray, "y x 3"], *, mpp: float, n_levels: int, description: object = None
) -> None:
    """Write level 0 and its halvings; the file appears under its name when it is whole.

    Args:
        path: ends in .tif.
        rgb: level 0; both sides a multiple of `2 ** (n_levels - 1)`.
        mpp: microns per pixel of level 0, stored as pixels per centimetre in every level's resolution tags.
        n_levels: how many levels, the first included.
        description: plain values that are stored as JSON in the image description.
    """
    remove_leftovers(path)
    level = rgb
    with writing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=False) as tiff:
        for number in range(n_levels):
            if number:
                level = halve(level)
            per_cm = 1e4 / (mpp * 2**number)
            tiff.write(
                level,
                photometric="rgb",
                tile=(_TILE_PX, _TILE_PX),
                compression="zlib",
                compressionargs={"level": _COMPRESSION_LEVEL},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
                description=canonical_json(description) if number == 0 and description is not None else None,
                metadata=None,
                software="parfocal",
            )
