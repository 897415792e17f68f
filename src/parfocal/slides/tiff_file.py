"""What a TIFF holds, read once: its scans, their levels and ratios, and whether anybody can show them right.

The fast reader takes most files. What it leaves to OpenSlide or Pillow goes with the resolution that was found here,
and what comes out wrong in every reader is refused here: a fallback that knows less would show false colours.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.jpeg import has_subsampled_components
from parfocal.slides.level_ratios import LevelShape, level_ratios, size_without_padding
from parfocal.slides.reader import NotMineError, foreign_bytes, one_line
from parfocal.slides.tiff_level import BrokenTileError, TiffLevel
from parfocal.slides.tiff_pixels import JPEG, JPEG2000, PixelKind, colour_of_jpeg, colour_of_pixels, pixel_kind
from parfocal.slides.tiff_scans import Planes, Scan, find_scans
from parfocal.slides.tiff_tags import MOST_TILES, count_tiles, quiet_tifffile, resolution_tag

# Tiles that are looked at where the header does not say what the samples are.
_LOOKED_AT = 6
# Of three unnamed planes: how bright the brightest quarter of the pixels is in each where they are one RGB picture.
_BRIGHT = 150


@dataclass(frozen=True, eq=False)
class TiffFacts:
    """What is known of the scan that was asked for.

    Attributes:
        format: a word or two for people.
        scan_sizes: width and height of each scan of the file.
        scan: number of this one.
        claim: what the file says of its resolution.
        objective_power: nominal, where the file says it.
        levels: finest first; empty where another reader has to show the pixels.
        sizes: width and height of each level, without what fills up its tiles.
        ratios: level-0 pixels per pixel of each level.
        notes: what was left out, for a warning.
        left_to: the reader that shows the pixels right where this one cannot: `OpenSlide` or `Pillow`.
        strips: of a picture without tiles its one level; None where only Pillow knows what its samples are.
        orientation: how such a picture has to be turned, 1 to 8.
    """

    format: str
    scan_sizes: tuple[tuple[int, int], ...]
    scan: int
    claim: MppClaim | None
    objective_power: float | None
    levels: tuple[TiffLevel, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    ratios: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    left_to: str = ""
    strips: TiffLevel | None = None
    orientation: int = 1


class NotWholeError(UnreadableSlideError):
    """The structure of the file is damaged, or bends the rules of TIFF."""


def read_tiff(path: Path, scan: int | None, remote: BinaryIO | None = None) -> TiffFacts | None:
    """Look into a TIFF; None where the file is none, or has a scanner's own rules.

    Args:
        path: any file.
        scan: number of the scan, None for the first.
        remote: the file, where it lies on no disk; it stays open.

    Raises:
        UnreadableSlideError: nobody should read it: what it holds would come out wrong.
    """
    refusal = "cannot read {}: it is no whole TIFF ({}). Copy the file again or leave it out."
    with (
        foreign_bytes(lambda why: NotWholeError(refusal.format(path.name, why))),
        nullcontext(remote) if remote is not None else path.open("rb") as file,
        quiet_tifffile(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        tiles = count_tiles(file)
        if tiles is None:
            return None
        if tiles > MOST_TILES:
            raise UnreadableSlideError(
                f"cannot read {path.name}: its index lists {tiles} tiles; at most {MOST_TILES} are read. "
                "Write it again with larger tiles."
            )
        source = path if remote is None else remote
        file.seek(0)  # tifffile begins where a file stands
        with tifffile.TiffFile(source, name=path.name, _multifile=False) as tiff:
            return _facts(path.name, tiff, scan, _reader(file))


def _facts(name: str, tiff: Any, number: int | None, read: Callable[[int, int], bytes]) -> TiffFacts:
    scans = find_scans(tiff, name)
    sizes = tuple((int(one.levels[0][0].imagewidth), int(one.levels[0][0].imagelength)) for one in scans)
    if number is not None and not 0 <= number < len(scans):
        listed = ", ".join(f"{n}: {width} x {height} px" for n, (width, height) in enumerate(sizes))
        raise UnreadableSlideError(f"cannot read scan {number} of {name}: it holds {len(scans)} ({listed}).")
    scan = scans[number or 0]
    page = scan.levels[0][0]
    kind = "aperio" if tiff.is_svs else "OME-TIFF" if tiff.is_ome else "tiled TIFF" if page.is_tiled else "TIFF"
    claim = scan.claim
    if claim is not None and not page.is_tiled and not tiff.is_ome:
        claim = replace(claim, of_picture=True)
    facts = TiffFacts(kind, sizes, number or 0, claim, scan.objective_power)
    if not page.is_tiled and len(tiff.pages) == 1 and int(page.compression) != JPEG:
        return replace(facts, left_to="Pillow", strips=_strips(page), orientation=_orientation(page))
    try:
        if (turned := _orientation(page)) != 1:
            # OpenSlide ignores the tag where viewers honour it, so coordinates would not agree.
            raise ValueError(f"its orientation tag says {turned} (turned or mirrored), slides have 1")
        first = _level(scan.levels[0], scan.channels, read)
    except _LeftToOpenSlideError as reason:
        if page is not tiff.pages.first:
            raise UnreadableSlideError(f"cannot read {name}: {reason}, and it is not its first page.") from reason
        return replace(facts, left_to="OpenSlide")
    except ValueError as error:
        raise UnreadableSlideError(
            f"cannot read {name}: {one_line(error)}. Expected is upright 8-bit RGB in tiles; write it again like that, "
            "for example with `vips tiffsave IN OUT --tile --pyramid`."
        ) from error
    return _with_levels(name, facts, scan, first, read)


def _with_levels(
    name: str, facts: TiffFacts, scan: Scan, first: TiffLevel, read: Callable[[int, int], bytes]
) -> TiffFacts:
    """Add the coarser levels that can be trusted, and notes of those that cannot."""
    notes, found = [], []
    for planes in scan.levels[1:]:
        size = f"{planes[0].imagewidth} x {planes[0].imagelength} px"
        try:
            level = _level(planes, scan.channels, read)
        except ValueError as error:
            notes.append(f"the level of {size} is left out: {one_line(error)}")
            continue
        stated = _stated_ratio(scan.levels[0][0], planes[0])
        found.append((level, size, _shape(level, stated), facts.format == "aperio" or bool(planes[0].subfiletype & 1)))
    levels, sizes, ratios = [first], [(first.width, first.height)], [1.0]
    trusted = level_ratios(_shape(first), [shape for _, _, shape, _ in found])
    for (level, size, shape, is_marked), ratio in zip(found, trusted, strict=True):
        if ratio is None or ratio < 1.01:
            # What is not called a level and does not fit is a thumbnail.
            if is_marked:
                _check_sides(name, first, level)
                notes.append(
                    f"the level of {size} is left out: no one ratio explains its width and height beside "
                    f"{first.width} x {first.height} px"
                )
        elif missing := _tiles_that_level_0_has(first, level, ratio):
            notes.append(f"the level of {size} is left out: it has no bytes for {missing} tiles that level 0 has")
        else:
            levels.append(level)
            sizes.append(size_without_padding(_shape(first), shape, ratio))
            ratios.append(ratio)
    return replace(facts, levels=tuple(levels), sizes=tuple(sizes), ratios=tuple(ratios), notes=tuple(notes))


def _check_sides(name: str, first: TiffLevel, level: TiffLevel) -> None:
    """Refuse a level that a whole ratio explains once its sides are exchanged: level 0's may be the wrong ones."""
    ratio = round(first.width / level.height)
    sides = ((first.width, level.height), (first.height, level.width))
    if ratio > 1 and all(whole // ratio <= part <= -(-whole // ratio) for whole, part in sides):
        raise UnreadableSlideError(
            f"cannot read {name}: a level of {level.width} x {level.height} px contradicts the {first.width} x "
            f"{first.height} px of level 0: one of the two has its width and height exchanged. Write the file again."
        )


class _LeftToOpenSlideError(ValueError):
    """OpenSlide shows these pixels right, and the fast reader cannot; the text says why."""


def _level(planes: Planes, channels: tuple[str, ...], read: Callable[[int, int], bytes]) -> TiffLevel:
    kind = pixel_kind(planes, channels)
    level = TiffLevel(planes, kind)
    if not kind.has_to_be_seen:
        return level
    page = planes[0]
    picked = _picked(level)
    streams = [
        [read(int(o), int(s)) for o, s in zip(level.offsets[:, n], level.sizes[:, n], strict=True)] for n in picked
    ]
    if int(page.compression) in JPEG2000 and any(has_subsampled_components(one[0]) for one in streams):
        raise _LeftToOpenSlideError("subsampled JPEG 2000")
    if int(page.compression) == JPEG and len(planes) == 1:
        raw = _raw_pixels(TiffLevel(planes, PixelKind("raw", "RGB")), picked, streams)
        return TiffLevel(
            planes, PixelKind("RGB", colour_of_jpeg(kind.jpeg_colour or "RGB", [s[0] for s in streams], raw))
        )
    raw = _raw_pixels(level, picked, streams)
    if len(planes) == 1:
        return TiffLevel(planes, PixelKind(colour_of_pixels(raw) or kind.samples))
    bright = raw[np.argsort(raw.sum(axis=1, dtype=np.int64))[-max(len(raw) // 4, 1) :]]
    if len(raw) == 0 or bright.mean(axis=0).min() < _BRIGHT:
        raise ValueError("it holds 3 channels without names that do not look like red, green and blue of one picture")
    return level


def _picked(level: TiffLevel) -> list[int]:
    """Tiles to look at: the three with most bytes, and three over the level."""
    present = np.flatnonzero(~level.is_absent & ~level.is_misplaced)
    if len(present) <= _LOOKED_AT:
        return [int(n) for n in present]
    largest = present[np.argsort(level.sizes[0, present], kind="stable")[-_LOOKED_AT // 2 :]]
    spread = present[np.linspace(0, len(present) - 1, _LOOKED_AT // 2).astype(int)]
    return sorted({int(n) for n in [*largest, *spread]})


def _raw_pixels(level: TiffLevel, picked: list[int], streams: list[list[bytes]]) -> np.ndarray:
    """Samples of the tiles that can be decoded, one row a pixel."""
    found = [np.empty((0, 3), np.uint8)]
    for number, planes in zip(picked, streams, strict=True):
        try:
            samples = np.concatenate([level.samples(number, one) for one in planes], axis=2)
        except BrokenTileError:
            continue  # it says nothing of the others; when it is read, it is a gap
        if samples.shape[2] == 3:
            found.append(samples.reshape(-1, 3))
    return np.concatenate(found)


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1


def _strips(page: Any) -> TiffLevel | None:
    """A picture without tiles as a level whose tiles are its strips; None where Pillow has to decode it."""
    if int(page.compression) == 6:
        raise NotMineError("old-style JPEG compression (6) is not read: its files contradict each other")
    if page.bitspersample != 8:
        raise NotMineError(f"its {page.samplesperpixel} samples have {page.bitspersample} bits, not 8")
    try:
        kind = pixel_kind((page,), ())
        return None if kind.has_to_be_seen or kind.jpeg_colour else TiffLevel((page,), kind)
    except ValueError:
        return None


def _shape(level: TiffLevel, stated: float | None = None) -> LevelShape:
    tile = (level.tile_width, level.tile_height) if level.is_tiled else (0, 0)
    return LevelShape(level.width, level.height, *tile, stated)


def _stated_ratio(full: Any, page: Any) -> float | None:
    """What the resolution tags say; None where they say nothing, or are copies of level 0's."""
    one, other = resolution_tag(full), resolution_tag(page)
    if one is None or other is None:
        return None
    x, y = other.x / one.x, other.y / one.y
    return (x + y) / 2 if x > 1.05 and abs(x - y) < 0.02 * x else None


def _tiles_that_level_0_has(first: TiffLevel, level: TiffLevel, ratio: float) -> int:
    """How many tiles of a level have no bytes where level 0 has some: white there would hide tissue."""
    absent = np.flatnonzero(level.is_absent)
    if not len(absent):
        return 0
    present = np.zeros((first.down + 1, first.across + 1), np.int64)
    present[1:, 1:] = (~first.is_absent).reshape(first.down, first.across).cumsum(axis=0).cumsum(axis=1)

    def edges(numbers: np.ndarray, tile: int, full_tile: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        # Half a tile at an edge may be blank.
        low = np.ceil(numbers * tile * ratio / full_tile).astype(int)
        high = np.floor((numbers + 1) * tile * ratio / full_tile).astype(int)
        return np.minimum(low, count), np.minimum(np.maximum(high, low), count)

    left, right = edges(absent % level.across, level.tile_width, first.tile_width, first.across)
    top, bottom = edges(absent // level.across, level.tile_height, first.tile_height, first.down)
    inside = present[bottom, right] - present[top, right] - present[bottom, left] + present[top, left]
    return int((inside > 0).sum())


def _reader(file: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(min(size, 1 << 26))

    return read
