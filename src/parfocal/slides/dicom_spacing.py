"""How far apart the pixels of each level of a DICOM series are: OpenSlide tells that of level 0 only."""

import re
import stat
import struct
from pathlib import Path

from parfocal.slides.dicom import read_dicom_header

__all__ = ["dicom_spacings"]

# The header ends before the pixels; optical paths with a colour profile in them stand before the spacing.
_HEADER_BYTES = 1 << 20
_COLUMNS, _ROWS = (re.compile(rb"\x48\x00" + tag + rb"\x00UL\x04\x00(.{4})", re.DOTALL) for tag in (rb"\x06", rb"\x07"))
_SPACING = re.compile(rb"\x28\x00\x30\x00DS..([\d.eE+-]+ *)\\([\d.eE+-]+)", re.DOTALL)


def dicom_spacings(path: Path) -> dict[tuple[int, int], float]:
    """Millimetres per pixel of the levels beside a file that are of its series, by width and height in pixels.

    Levels that do not say it, or are written in another way than nearly all are (explicit, little-endian), are left
    out.
    """
    own = read_dicom_header(path)
    if own is None:
        return {}
    found = {}
    for other in sorted(path.parent.iterdir()):
        header = read_dicom_header(other)
        if header is None or header.series != own.series or not stat.S_ISREG(other.stat().st_mode):
            continue
        with other.open("rb") as file:
            data = file.read(_HEADER_BYTES)
        columns, rows, spacing = _COLUMNS.search(data), _ROWS.search(data), _SPACING.search(data)
        if columns is None or rows is None or spacing is None:
            continue
        try:
            down, across = float(spacing.group(1)), float(spacing.group(2))
        except ValueError:
            continue
        if across > 0 and abs(down - across) < 0.01 * across:
            size = tuple(struct.unpack("<I", one.group(1))[0] for one in (columns, rows))
            found[size] = (across + down) / 2
    return found
