"""Pyramids as OME-TIFF that OpenSlide opens too.

OME-TIFF keeps the smaller levels of a pyramid beside the first one (SubIFDs); OpenSlide looks for them in the chain of
directories. Here both lead to the same directories.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped

from parfocal.files import writing
from parfocal.version import __version__

_TILE_PX = 256
_COMPRESSION_LEVEL = 6
_ENTRY_BYTES = 12


def write_ome_tiff(
    path: Path,
    levels: Sequence[Shaped[np.ndarray, "..."]],
    *,
    mpp: float,
    name: str,
    description: str,
    channels: Sequence[str] = (),
) -> None:
    """Write a tiled, compressed pyramid, whole or not at all.

    Args:
        path: ends in `.ome.tif`.
        levels: from level 0 on, each half as wide and as high as the one before: RGB pixels (y, x, 3), or the values
            of channels (channel, y, x).
        mpp: micrometres per pixel of level 0.
        name: of the picture.
        description: what its pixels are.
        channels: the names of channels; RGB where there is none.
    """
    what = {"axes": "CYX", "Channel": {"Name": list(channels)}} if channels else {"axes": "YXS"}
    sides = {f"PhysicalSize{axis}{key}": value for axis in "XY" for key, value in (("", mpp), ("Unit", "\u00b5m"))}
    with writing(path) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=False, ome=True, byteorder="<") as tiff:
            for number, level in enumerate(levels):
                per_cm = 1e4 / (mpp * 2**number)
                first = {} if number else {"subifds": len(levels) - 1}
                tiff.write(
                    level,
                    photometric="minisblack" if channels else "rgb",
                    tile=(_TILE_PX, _TILE_PX),
                    compression="zlib",
                    compressionargs={"level": _COMPRESSION_LEVEL},
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if number else 0,
                    software=f"parfocal {__version__}",
                    metadata=None if number else {**what, **sides, "Name": name, "Description": description},
                    **first,
                )
        if not channels:
            _chain_levels(temporary)


def _chain_levels(path: Path) -> None:
    """Let the directory of each level be followed by that of the next one, beside the list that level 0 has of them."""
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0]
        assert isinstance(first, tifffile.TiffPage)
        places = [first.offset, *(first.subifds or ())]
    with path.open("r+b") as file:
        for here, following in pairwise(places):
            file.seek(here)
            (n_entries,) = struct.unpack("<H", file.read(2))
            file.seek(here + 2 + n_entries * _ENTRY_BYTES)
            file.write(struct.pack("<I", following))
