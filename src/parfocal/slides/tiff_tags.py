"""What the tags of a TIFF page say, the OME-XML among them: images, pages, the size of a pixel.

How many tiles a page lists is asked before tifffile holds the place of each of them in memory, and tifffile is kept
quiet while it reads.
"""

import logging
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from parfocal.slides.calibration import MppClaim

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


_PREFIXES = {
    **{"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0, "d": -1, "c": -2},
    **{"m": -3, "\u00b5": -6, "\u03bc": -6, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24},
}
# Every unit of length of the OME schema that has a fixed size on a slide. Micro and angstrom have two letters each.
_UM_PER_OME_UNIT = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()} | {
    **{"\u00c5": 1e-4, "\u212b": 1e-4, "thou": 25.4, "li": 25400 / 12, "in": 25400.0, "ft": 304800.0, "yd": 914400.0},
    **{"mi": 1609344e3, "pt": 25400 / 72, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "nanometer": 1e-3},
}


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-TIFF.

    Attributes:
        name: what it is called, often empty.
        pages: numbers of the pages of its planes, in the order of the file.
        depth: number of focal planes times number of times.
        channels: names of the channels, as far as they have any.
        claim: what it says of its resolution.
        objective_power: nominal, where it says it.
    """

    name: str
    pages: tuple[int, ...]
    depth: int
    channels: tuple[str, ...]
    claim: MppClaim | None
    objective_power: float | None


def read_ome(text: str) -> list[OmeImage]:
    """The images in the order of the file; none where the text is no OME-XML that can be read.

    A bare ampersand (`H&E`) is the usual fault and has one meaning; whatever else is not well-formed is not read.
    """
    # Nobody writes entities into OME-XML; they are how a small text becomes a huge one.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return []
    root = _parsed(text)
    if root is None:
        root = _parsed(re.sub(r"&(?!(?:#\d+|#x[0-9a-fA-F]+|\w+);)", "&amp;", text))
    if root is None:
        return []
    images = [image for image in root.iter() if image.tag.rpartition("}")[2] == "Image"]
    return [found for image in images if (found := _image(root, image)) is not None]


def _parsed(text: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _image(root: ElementTree.Element, image: ElementTree.Element) -> OmeImage | None:
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return None
    counts = {axis: _count(pixels.get(f"Size{axis}")) for axis in "ZCT"}
    channels = pixels.findall("{*}Channel")
    samples = _count(channels[0].get("SamplesPerPixel")) if channels else 1
    depth = counts["Z"] * counts["T"]
    planes = depth * max(counts["C"] // samples, 1)
    return OmeImage(
        name=image.get("Name") or "",
        pages=_pages(root, pixels, planes),
        depth=depth,
        channels=tuple(channel.get("Name") or "" for channel in channels),
        claim=_claim(pixels),
        objective_power=_objective_power(root, image),
    )


def _pages(root: ElementTree.Element, pixels: ElementTree.Element, planes: int) -> tuple[int, ...]:
    """Where the planes stand; those in other files of the same data set are left out."""
    listed = pixels.findall("{*}TiffData")
    if not listed:
        return tuple(range(planes))
    pages: list[int] = []
    for data in listed:
        other = data.find("{*}UUID")
        if other is not None and root.get("UUID") and (other.text or "").strip() != root.get("UUID"):
            continue
        first = _count(data.get("IFD"), least=0, absent=0)
        count = _count(data.get("PlaneCount"), absent=planes if data.get("IFD") is None else 1)
        pages += range(first, first + min(count, planes))
    return tuple(dict.fromkeys(pages))


def _claim(pixels: ElementTree.Element) -> MppClaim | None:
    sizes, said = [], []
    for axis in "XY":
        text, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        size, um = leading_number(text), _UM_PER_OME_UNIT.get(unit.strip())
        if not size or um is None:
            return None
        sizes.append(size * um)
        said.append(f"{size:.8g} {unit.strip()}")
    return MppClaim(sizes[0], sizes[1], "OME PhysicalSize", said[0] if said[0] == said[1] else " by ".join(said))


def _objective_power(root: ElementTree.Element, image: ElementTree.Element) -> float | None:
    """Of the objective that the image names; of the only one where it names none."""
    settings = image.find("{*}ObjectiveSettings")
    objectives = root.findall(".//{*}Objective")
    if settings is not None:
        objectives = [one for one in objectives if one.get("ID") == settings.get("ID")]
    return leading_number(objectives[0].get("NominalMagnification")) if len(objectives) == 1 else None


def _count(text: str | None, *, least: int = 1, absent: int = 1) -> int:
    number = leading_number(text)
    return absent if number is None else max(int(min(number, 1e9)), least)
