"""What the OME-XML of a TIFF says: its images, which pages they are, and how large a pixel is."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from parfocal.slides.calibration import MppClaim
from parfocal.slides.tiff_tags import leading_number

__all__ = ["OmeImage", "read_ome"]

_PREFIXES = {
    **{"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0, "d": -1, "c": -2},
    **{"m": -3, "\u00b5": -6, "\u03bc": -6, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24},
}
# Every unit of length of the OME schema that has a fixed size on a slide. Micro and angstrom have two letters each.
_UM_PER_UNIT = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()} | {
    **{"\u00c5": 1e-4, "\u212b": 1e-4, "thou": 25.4, "li": 25400 / 12, "in": 25400.0, "ft": 304800.0, "yd": 914400.0},
    **{"mi": 1609344e3, "pt": 25400 / 72, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "nanometer": 1e-3},
}


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-TIFF.

    Attributes:
        name: what it is called, often empty.
        pages: numbers of the pages of its planes, in the order of the file.
        samples: how many samples a pixel of one page has.
        planes: how many pages its channels, focal planes and times need.
        depth: number of focal planes times number of times.
        channels: names of the channels, as far as they have any.
        claim: what it says of its resolution.
        objective_power: nominal, where it says it.
    """

    name: str
    pages: tuple[int, ...]
    samples: int
    planes: int
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
        samples=samples,
        planes=planes,
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
        size, um = leading_number(text), _UM_PER_UNIT.get(unit.strip())
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
