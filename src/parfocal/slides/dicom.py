"""What the header of a DICOM file says of itself: whether it is a slide, its series, how far apart its pixels are.

OpenSlide tells the last of level 0 only. Names say nothing: archives write `IM_0001`, unique identifiers full of dots,
or `slide.dcm.1`. So the header is read, 64 KiB of it at most.
"""

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_HEADER_BYTES = 1 << 16
_MAGIC_AT = 128
_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_FILE_CLASS, _SYNTAX = (0x0002, 0x0002), (0x0002, 0x0010)
_CLASS, _MODALITY, _SERIES = (0x0008, 0x0016), (0x0008, 0x0060), (0x0020, 0x000E)
_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
# Value representations whose length has four bytes, after two that are reserved.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file says of itself; empty where it does not say.

    Attributes:
        sop_class: the unique identifier of its kind.
        modality: two letters; `SM` is slide microscopy.
        series: the unique identifier of its series.
    """

    sop_class: str
    modality: str
    series: str

    @property
    def is_slide(self) -> bool:
        """Whether it belongs to a whole-slide image."""
        return self.sop_class == _SLIDE_CLASS or self.modality == "SM"


def read_dicom_header(path: Path) -> DicomHeader | None:
    """What a DICOM file says of itself; None where it is no DICOM file or cannot be read.

    Only regular files are opened: reading a pipe would wait for its writer.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with path.open("rb") as file:
            data = file.read(_MAGIC_AT + 4)
            if data[_MAGIC_AT:] != b"DICM":
                return None
            data += file.read(_HEADER_BYTES - len(data))
    except (OSError, ValueError):
        return None
    found = {tag: value for tag, value in _dataset(data) if tag in {_FILE_CLASS, _CLASS, _MODALITY, _SERIES}}
    texts = {tag: value.decode("ascii", "replace").strip("\0 ") for tag, value in found.items()}
    return DicomHeader(
        texts.get(_CLASS) or texts.get(_FILE_CLASS, ""), texts.get(_MODALITY, ""), texts.get(_SERIES, "")
    )


def _dataset(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """The elements of the file's own header, then those of its data set up to the series, in its transfer syntax."""
    syntax, start = "", _MAGIC_AT + 4
    while data[start : start + 2] == b"\x02\x00":
        tag, value, start = _element(data, start, "<", explicit=True)
        if tag == _SYNTAX:
            syntax = value.decode("ascii", "replace").strip("\0 ")
        if start < 0:
            return
        yield tag, value
    data = data[start:]
    if syntax == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _HEADER_BYTES)
        except zlib.error:
            return
    # The bytes themselves tell whether values name their representation; files whose syntax says otherwise exist.
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    yield from _elements(data, ">" if syntax == _BIG_ENDIAN else "<", explicit)


def _elements(data: bytes, order: str, explicit: bool) -> Iterator[tuple[tuple[int, int], bytes]]:
    """The elements of a data set up to the series, without those inside sequences."""
    start = 0
    around: list[bool] = []  # for each open sequence of undefined length, how the elements around it are written
    while start + 8 <= len(data):
        tag, value, after = _element(data, start, order, explicit)
        if tag == _END_OF_SEQUENCE and around:
            explicit = around.pop()
        elif after < 0:
            around.append(explicit)
            # The inside of a sequence of unknown kind is written without representations.
            explicit = explicit and data[start + 4 : start + 6] != b"UN"
            after = -after
        elif not around:
            if tag > _SERIES:
                return
            yield tag, value
        start = after


def _element(data: bytes, start: int, order: str, explicit: bool) -> tuple[tuple[int, int], bytes, int]:
    """Tag, value and end of the element at `start`; of a sequence of undefined length minus where its items begin.

    An item has no value: what it holds follows.
    """
    head = data[start : start + 12].ljust(12, b"\0")
    tag = struct.unpack(order + "HH", head[:4])
    if tag[0] == 0xFFFE:
        return tag, b"", start + 8
    if explicit and head[4:6] in _LONG:
        begin, length = start + 12, struct.unpack(order + "I", head[8:12])[0]
    elif explicit:
        begin, length = start + 8, struct.unpack(order + "H", head[6:8])[0]
    else:
        begin, length = start + 8, struct.unpack(order + "I", head[4:8])[0]
    if length == _UNDEFINED:
        return tag, b"", -begin
    return tag, data[begin : begin + length], begin + length


def dicom_series(path: Path) -> tuple[Path, ...]:
    """The files beside a file that are of its DICOM series, itself among them, sorted; of another kind itself alone."""
    header = read_dicom_header(path)
    if header is None or not header.series:
        return (path,)
    return tuple(sorted({path, *_series_in(path.parent, path.parent.stat().st_mtime_ns).get(header.series, ())}))


@lru_cache(maxsize=4)
def _series_in(folder: Path, mtime_ns: int) -> dict[str, list[Path]]:
    """The files of each DICOM series in a folder; a folder of many series is looked through once, while it is as it is.

    `mtime_ns` is the time when a file was last added to the folder or taken away.
    """
    found: dict[str, list[Path]] = {}
    for file in folder.iterdir():
        header = read_dicom_header(file)
        if header is not None and header.series:
            found.setdefault(header.series, []).append(file)
    return found


# The header ends before the pixels; optical paths with a colour profile in them stand before the spacing.
_SPACING_BYTES = 1 << 20
_COLUMNS, _ROWS = (re.compile(rb"\x48\x00" + tag + rb"\x00UL\x04\x00(.{4})", re.DOTALL) for tag in (rb"\x06", rb"\x07"))
_SPACING = re.compile(rb"\x28\x00\x30\x00DS..([\d.eE+-]+ *)\\([\d.eE+-]+)", re.DOTALL)


def dicom_spacings(path: Path) -> dict[tuple[int, int], float]:
    """Millimetres per pixel of the levels of a file's series, by width and height in pixels.

    Levels that do not say it, or are written in another way than nearly all are (explicit, little-endian), are left
    out.
    """
    found = {}
    for other in dicom_series(path):
        with other.open("rb") as file:
            data = file.read(_SPACING_BYTES)
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
