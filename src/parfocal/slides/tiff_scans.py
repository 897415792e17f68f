"""Which pages of a TIFF are a scan and its coarser levels, and which are thumbnails, overviews, labels and macros."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.reader import NotMineError
from parfocal.slides.tiff_tags import OmeImage, aperio_claim, read_ome, resolution_tag

_BESIDE = "label|macro|thumbnail|overview|barcode|navigation|preview"
# How a page is called that stands beside a scan: the whole of its name, or a field of its description.
_NAME = re.compile(rf"\s*(?:slide[ _-]?)?(?:{_BESIDE})(?:[ _-]?image)?[\s.:\d_x-]*", re.IGNORECASE)
_FIELD = re.compile(rf"(?:ImageType|Image type|imagetype)\W{{1,3}}(?:{_BESIDE})", re.IGNORECASE)
_APERIO_BESIDE = re.compile(r"[\r\n]+\s*(?:label|macro)\b", re.IGNORECASE)
_WORD = re.compile(rf"(?<![a-z])(?:{_BESIDE}|thumb)(?![a-z])", re.IGNORECASE)
# Pages that are not said to be levels: how much smaller a level is at least, and how alike in shape.
_STEP, _SHAPE = 1.9, 0.1
# Unrelated pages below this share of the largest one's area are pictures beside it.
_SCAN_SHARE = 1 / 16
# An image whose pixels are so much larger than the finest is an overview.
_OVERVIEW = 4.0

# The pages whose samples make up one level: one, or one for each colour.
Planes = tuple[Any, ...]


@dataclass(frozen=True)
class Scan:
    """One scan of a file.

    Attributes:
        levels: the pages of each level, finest first; the first is level 0.
        claim: what the file says of its resolution.
        objective_power: nominal, where the file says it.
        channels: names of the channels where each has a page of its own.
    """

    levels: tuple[Planes, ...]
    claim: MppClaim | None
    objective_power: float | None
    channels: tuple[str, ...] = ()


def find_scans(tiff: Any, name: str) -> list[Scan]:
    """The scans of a file in its order; thumbnails, overviews, labels and macros are none.

    Args:
        tiff: an open tifffile.TiffFile.
        name: how messages call the file.

    Raises:
        NotMineError: the file has a scanner's own rules.
        UnreadableSlideError: it holds channels, focal planes or times, which are no one picture.
    """
    if tiff.is_ndpi or tiff.is_scn or tiff.is_bif or tiff.is_philips or _is_scanners_own(tiff.pages.first):
        raise NotMineError("a scanner's own TIFF, left to OpenSlide")
    images = read_ome(tiff.pages.first.description) if tiff.is_ome else []
    pages = [tiff.pages[number] for number in range(len(tiff.pages))]
    images = [
        image
        for one in images
        if (image := _of_this_file(one, pages)) and image.pages and max(image.pages) < len(pages)
    ]
    if images:
        return _ome_scans(images, pages, name)
    if tiff.is_imagej and int((tiff.imagej_metadata or {}).get("images", 1)) > 1:
        raise UnreadableSlideError(_several(name, f"{tiff.imagej_metadata['images']} ImageJ planes"))
    scans = _plain_scans(pages, tiff.is_svs, name)
    if not tiff.is_svs:
        return scans
    claim, power = aperio_claim(tiff.pages.first.description)
    return [Scan(scan.levels, claim, power) for scan in scans]


def _of_this_file(image: OmeImage, pages: list[Any]) -> OmeImage:
    """The image with one page a plane; some writers do not say that a page holds all colours."""
    if not image.pages or image.pages[0] >= len(pages) or pages[image.pages[0]].samplesperpixel == 1:
        return image
    return replace(image, pages=image.pages[: image.depth])


def _is_scanners_own(page: Any) -> bool:
    """What OpenSlide knows a scanner by where tifffile does not: its program, or the data of a Ventana scan."""
    program, xmp = str(page.tags.valueof(305, "")), page.tags.valueof(700, b"")
    return program.startswith(("MedScan", "Philips")) or (isinstance(xmp, bytes) and b"iScan" in xmp)


def _ome_scans(images: list[OmeImage], pages: list[Any], name: str) -> list[Scan]:
    taken = {number for image in images for number in image.pages}
    scans = []
    for image in _without_overviews(images, pages):
        if image.depth > 1:
            raise UnreadableSlideError(_several(name, f"{image.depth} focal planes or times"))
        planes = tuple(pages[number] for number in image.pages)
        if len({(page.imagewidth, page.imagelength, page.samplesperpixel) for page in planes}) > 1:
            raise UnreadableSlideError(f"cannot read {name}: the planes of its OME image differ in size or samples.")
        below = [page.pages if page.subifds else () for page in planes]
        levels = [tuple(level) for level in zip(*below, strict=False)]
        if not levels and len(images) == 1 and len(planes) == 1:
            levels = [(page,) for number, page in enumerate(pages) if number not in taken and page.subfiletype & 1]
        power = image.objective_power
        claim = image.claim or resolution_tag(planes[0])
        scans.append(Scan(_in_order([planes, *levels]), claim, power, image.channels if len(planes) > 1 else ()))
    return scans


def _without_overviews(images: list[OmeImage], pages: list[Any]) -> list[OmeImage]:
    """Leave out what is called so, what has much larger pixels, and what is another one's size by a whole factor."""
    kept = [image for image in images if not _WORD.search(image.name)] or images
    finest = min((image.claim.mean for image in kept if image.claim and image.claim.mean > 0), default=0.0)
    kept = [image for image in kept if not (finest and image.claim and image.claim.mean > _OVERVIEW * finest)]

    def size(image: OmeImage) -> tuple[int, int]:
        page = pages[image.pages[0]]
        return page.imagewidth, page.imagelength

    largest = max((size(image) for image in kept), key=lambda one: one[0] * one[1])
    return [image for image in kept if not _is_reduced(largest, size(image))]


def _is_reduced(largest: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a size is that of a smaller copy: a whole factor on both sides, or a very small picture."""
    if size[0] * size[1] * 64 < largest[0] * largest[1]:
        return True
    factor = round(largest[0] / size[0])
    return factor >= 2 and all(
        whole // factor <= part <= -(-whole // factor) for whole, part in zip(largest, size, strict=True)
    )


def _plain_scans(pages: list[Any], is_svs: bool, name: str) -> list[Scan]:
    usable = [page for page in pages if not page.subfiletype & 4 and page.imagewidth > 0 and page.imagelength > 0]
    if is_svs:
        # Thumbnail, label and macro of an SVS are stored in strips.
        usable = [page for page in usable if page.is_tiled and not _APERIO_BESIDE.search(page.description)]
    usable = [page for page in usable if not _is_beside(page)] or usable
    if not usable:
        raise NotMineError("none of its pages is a slide's")
    roots = _roots(usable)
    if len(roots) > 1 and all(page.samplesperpixel == 1 and page.photometric in {0, 1} for page in roots):
        sizes = {(page.imagewidth, page.imagelength) for page in roots}
        if len(sizes) < len(roots):
            raise UnreadableSlideError(_several(name, f"{len(roots)} grey pages of one size"))
    order = {id(page): number for number, page in enumerate(usable)}
    levels: dict[int, list[Any]] = {id(root): [] for root in roots}
    for page in usable:
        owner = _owner(page, roots, order)
        if owner is not None:
            levels[id(owner)].append(page)
    scans = []
    for root in roots:
        below = [*(root.pages if root.subifds else ()), *levels[id(root)]]
        scans.append(Scan(_in_order([(root,), *((page,) for page in below)]), resolution_tag(root), None))
    return scans


def _roots(usable: list[Any]) -> list[Any]:
    """The pages that are level 0 of a scan, in the order of the file: the largest, and what is no smaller copy."""
    largest = max(usable, key=_area)
    found = [largest]
    for page in sorted(usable, key=_area, reverse=True):
        if page is largest or page.subfiletype & 1 or page.is_tiled != largest.is_tiled:
            continue
        if _area(page) >= _SCAN_SHARE * _area(largest) and not any(_may_be_level(page, root) for root in found):
            found.append(page)
    return [page for page in usable if any(page is root for root in found)]


def _owner(page: Any, roots: list[Any], order: dict[int, int]) -> Any | None:
    """The scan that a page is a level of: the nearest one before it. A smaller copy that comes first is a thumbnail."""
    if any(page is root for root in roots):
        return None
    before = [root for root in roots if order[id(root)] < order[id(page)]]
    if page.subfiletype & 1:
        fitting = [root for root in before if _may_be_level(page, root)]
        return (fitting or before or roots)[-1] if before or len(roots) == 1 else None
    if page.is_tiled != roots[0].is_tiled:
        return None
    return next((root for root in reversed(before) if _may_be_level(page, root)), None)


def _may_be_level(page: Any, root: Any) -> bool:
    across, down = root.imagewidth / page.imagewidth, root.imagelength / page.imagelength
    alike = abs(across / down - 1) < _SHAPE and page.samplesperpixel == root.samplesperpixel
    root_of_two = abs(across / 2**0.5 - 1) < 0.01
    return bool(alike and (min(across, down) >= _STEP or root_of_two)) or _is_smaller_in_tiles(page, root)


def _is_smaller_in_tiles(page: Any, root: Any) -> bool:
    """Whether a page is another one reduced and filled up to whole tiles: of small slides this is another shape."""
    if not page.is_tiled or page.samplesperpixel != root.samplesperpixel:
        return False
    sides = (
        (root.imagewidth, page.imagewidth, page.tilewidth),
        (root.imagelength, page.imagelength, page.tilelength),
    )
    return any(
        all(part == math.ceil(whole / factor / tile) * tile < whole for whole, part, tile in sides)
        for factor in range(2, 65)
    )


def _is_beside(page: Any) -> bool:
    tag = page.tags.get(285)
    names = [str(tag.value) if tag is not None else "", page.description]
    return any(_NAME.fullmatch(text) for text in names if text) or bool(_FIELD.search(page.description))


def _area(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _in_order(levels: Sequence[Planes]) -> tuple[Planes, ...]:
    return tuple(sorted(levels, key=lambda planes: -_area(planes[0])))


def _several(name: str, what: str) -> str:
    return (
        f"cannot read {name}: it holds {what}, not one brightfield picture. "
        "Write the plane that you mean into a file of its own."
    )
