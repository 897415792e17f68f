"""Headers of DICOM files, written by hand: enough to be found, not to be read."""

import struct
import zlib
from pathlib import Path
from typing import Literal

Syntax = Literal["explicit", "implicit", "big-endian", "deflated", "jpeg"]

SYNTAXES: dict[Syntax, str] = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big-endian": "1.2.840.10008.1.2.2",
    "jpeg": "1.2.840.10008.1.2.4.50",
}
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


def _element(group: int, number: int, kind: str, value: bytes, order: str = "<", explicit: bool = True) -> bytes:
    value += b"\0" * (len(value) % 2)
    tag = struct.pack(order + "HH", group, number)
    if not explicit:
        return tag + struct.pack(order + "I", len(value)) + value
    if kind in {"SQ", "UN", "OB"}:
        return tag + kind.encode() + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return tag + kind.encode() + struct.pack(order + "H", len(value)) + value


def _endless_sequence(group: int, number: int, inside: bytes, order: str, explicit: bool) -> bytes:
    """A sequence of undefined length with one item of undefined length."""
    undefined = struct.pack(order + "I", 0xFFFFFFFF)
    head = struct.pack(order + "HH", group, number) + (b"SQ\0\0" if explicit else b"") + undefined
    item = struct.pack(order + "HH", 0xFFFE, 0xE000) + undefined
    ends = [struct.pack(order + "HHI", 0xFFFE, last, 0) for last in (0xE00D, 0xE0DD)]
    return head + item + inside + ends[0] + ends[1]


def write_dicom(
    path: Path, series: str, *, syntax: Syntax = "explicit", sop_class: str = SLIDE_CLASS, modality: str = "SM"
) -> Path:
    """A DICOM file of a series, with a sequence before the series that names another one inside."""
    order, explicit = (">" if syntax == "big-endian" else "<"), syntax != "implicit"

    def element(group: int, number: int, kind: str, value: str) -> bytes:
        return _element(group, number, kind, value.encode(), order, explicit)

    decoy = element(0x0020, 0x000E, "UI", "9.9.9")
    body = (
        element(0x0008, 0x0016, "UI", sop_class)
        + element(0x0008, 0x0060, "CS", modality)
        + _endless_sequence(
            0x0008, 0x1115, decoy + _endless_sequence(0x0008, 0x1199, decoy, order, explicit), order, explicit
        )
        + _element(0x0008, 0x2112, "SQ", b"", order, explicit)
        + element(0x0010, 0x0010, "PN", "Nobody")
        + element(0x0020, 0x000D, "UI", "1.1")
        + element(0x0020, 0x000E, "UI", series)
        + element(0x0020, 0x0013, "IS", "1")
    )
    if syntax == "deflated":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    meta = _element(0x0002, 0x0001, "OB", b"\0\1") + _element(0x0002, 0x0002, "UI", sop_class.encode())
    meta += _element(0x0002, 0x0010, "UI", SYNTAXES[syntax].encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + _element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta))) + meta + body)
    return path
