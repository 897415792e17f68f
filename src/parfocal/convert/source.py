"""A flat picture as it is read to be written again: its size, what it says of itself, and its rows from the top.

A PNG and a TIFF are read in bands, so that a picture of any size passes through little memory. A JPEG, an interlaced
PNG, a picture that is turned by its orientation tag, and TIFFs that only Pillow reads are decoded whole.
"""

import mmap
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from parfocal.convert.png import png_bands, read_png_header
from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.on_disk import check_openable
from parfocal.slides.picture import (
    PICTURE_FORMATS,
    check_mode,
    checked_png,
    picture_pixels,
    print_resolution,
    refuse_animation,
)
from parfocal.slides.reader import NotMineError, foreign_bytes
from parfocal.slides.tiff_file import TiffFacts, read_tiff
from parfocal.slides.tiff_level import TiffLevel
from parfocal.slides.tiff_tags import quiet_tifffile

# Of what is decoded whole: 3 bytes a pixel and as many as the file has, 9 a pixel for a progressive JPEG.
MOST_WHOLE_PX = 1_000_000_000
# Of a picture that is read in bands, about; of a TIFF what its strips or tiles have.
_BAND_BYTES = 1 << 24
Band = UInt8[np.ndarray, "y x 3"]


@dataclass(frozen=True, eq=False)
class FlatPicture:
    """A picture that can be read from top to bottom, upright and as RGB on white.

    Attributes:
        path: the file.
        width: in pixels, upright.
        height: in pixels, upright.
        claim: what the file says of its resolution.
        icc_profile: its colour profile, which goes along with pixels as they are; None where it has none for RGB.
        bands: gives the rows, as many at a time as suit the file.
        notes: what of the file does not go along, for a warning, each as a sentence without its subject, the file.
    """

    path: Path
    width: int
    height: int
    claim: MppClaim | None
    icc_profile: bytes | None
    bands: Callable[[], Iterator[Band]]
    notes: tuple[str, ...] = ()


def open_picture(path: Path) -> FlatPicture:
    """Look at a picture; its pixels are read when they are asked for.

    Args:
        path: a PNG, a JPEG, or a TIFF without levels.

    Raises:
        UnreadableSlideError: there is no such file, it is no such picture, or it would have to be decoded whole and is
            too large for that.
    """
    check_openable(path)
    try:
        with foreign_bytes(NotMineError):
            facts = read_tiff(path, None)
            return _with_profile(_of_tiff(path, facts) if facts is not None else _of_picture(path))
    except NotMineError as reason:
        raise UnreadableSlideError(
            f"cannot convert {path.name}: {reason}. Expected is a PNG, a JPEG, or a TIFF without levels, 8-bit RGB, "
            "grey or with a palette."
        ) from reason


def _with_profile(picture: FlatPicture) -> FlatPicture:
    """The picture without a profile of other colours: that of a grey scan says nothing of the RGB that it becomes."""
    if picture.icc_profile is None or picture.icc_profile[16:20] == b"RGB ":
        return picture
    of = picture.icc_profile[16:20].decode("ascii", "replace").strip() or "nothing"
    return replace(picture, icc_profile=None, notes=(f"has a colour profile of {of}, not of RGB, which is left out",))


def _of_picture(path: Path) -> FlatPicture:
    with _header(path) as picture:
        if picture.format == "TIFF":
            raise NotMineError("a TIFF that is no plain picture")
        check_mode(picture)
        refuse_animation(path, picture)
        size, claim, profile = picture.size, print_resolution(picture), picture.info.get("icc_profile")
        if picture.format == "PNG":
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                picture.info.update(checked_png(data))
                header = read_png_header(data)
            if header.depth > 8:
                raise NotMineError(f"its samples have {header.depth} bits, not 8")
            turned = Image.Image.getexif(picture).get(274, 1)
            rows = max(1, _BAND_BYTES // (3 * header.width))
            if not header.is_interlaced and turned in {0, 1}:
                return FlatPicture(path, *size, claim, profile, partial(_bands_of_png, path, rows))
            why = "an interlaced PNG" if header.is_interlaced else f"a PNG that is turned (orientation {turned})"
        else:
            turned, why = Image.Image.getexif(picture).get(274, 1), "a JPEG"
    return _whole(path, (size[1], size[0]) if turned in {5, 6, 7, 8} else size, claim, profile, why, None)


def _of_tiff(path: Path, facts: TiffFacts) -> FlatPicture:
    if len(facts.scan_sizes) > 1 or len(facts.levels) > 1:
        what = f"{len(facts.scan_sizes)} scans" if len(facts.scan_sizes) > 1 else f"{len(facts.levels)} levels"
        raise NotMineError(f"it has {what} already, and is read as it is")
    if facts.left_to == "OpenSlide":
        raise NotMineError("it is a slide that OpenSlide reads as it is")
    with quiet_tifffile(), tifffile.TiffFile(path, _multifile=False) as tiff:
        tag = tiff.pages.first.tags.get(34675)
        profile = None if tag is None else bytes(tag.value)
    level = facts.strips or next(iter(facts.levels), None)
    size, turned = facts.scan_sizes[0], facts.orientation
    if level is not None and turned == 1:
        return FlatPicture(path, *size, facts.claim, profile, partial(_bands_of_tiff, path, level))
    why = f"a TIFF that is turned (orientation {turned})" if turned != 1 else "a TIFF of this kind"
    upright = (size[1], size[0]) if turned in {5, 6, 7, 8} else size
    if level is None:
        with _header(path) as picture:
            check_mode(picture)
    return _whole(path, upright, facts.claim, profile, why, facts)


def _whole(
    path: Path,
    size: tuple[int, int],
    claim: MppClaim | None,
    profile: bytes | None,
    why: str,
    tiff: TiffFacts | None,
) -> FlatPicture:
    if size[0] * size[1] > MOST_WHOLE_PX:
        raise UnreadableSlideError(
            f"cannot convert {path.name}: {why} is decoded whole, and its {size[0]} x {size[1]} px are more than the "
            f"{MOST_WHOLE_PX / 1e6:g} million that are held in memory. Write it as an upright TIFF in strips, or as an "
            "upright PNG that is not interlaced, which are read in parts."
        )

    def bands() -> Iterator[Band]:
        with _damage(path), _header(path) as picture:
            try:
                pixels = picture_pixels(path, picture, tiff)
            except MemoryError as error:
                raise UnreadableSlideError(
                    f"cannot convert {path.name}: {why} is decoded whole, and its {size[0]} x {size[1]} px do not fit "
                    "into this machine's memory. Convert it on a larger one, or write it as an upright TIFF in strips."
                ) from error
        yield pixels

    return FlatPicture(path, *size, claim, profile, bands)


@contextmanager
def _header(path: Path) -> Iterator[Image.Image]:
    """The picture, opened by Pillow and not loaded, whatever its size."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # By its name Pillow would map an uncompressed file into memory, and then not turn it upright.
            picture = Image.open(file, formats=PICTURE_FORMATS)
        except UnidentifiedImageError as error:
            raise NotMineError("not a PNG, JPEG or TIFF picture") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before
        with picture:
            yield picture


def _bands_of_png(path: Path, rows: int) -> Iterator[Band]:
    with (
        _damage(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield from png_bands(data, rows)


def _bands_of_tiff(path: Path, level: TiffLevel) -> Iterator[Band]:
    """Row by row of tiles, or strip by strip; what has no bytes is white, as everywhere."""
    with _damage(path), path.open("rb") as file:
        for row in range(level.down):
            top = row * level.tile_height
            band = np.full((min(level.tile_height, level.height - top), level.width, 3), 255, np.uint8)
            for column in range(level.across):
                number, left = row * level.across + column, column * level.tile_width
                if level.is_absent[number]:
                    continue
                tile = level.decode(number, level.read_streams(file, number), np.empty(level.tile_shape, np.uint8))
                part = band[:, left : left + level.tile_width]
                part[...] = tile[: part.shape[0], : part.shape[1]]
            yield band


def _damage(path: Path) -> AbstractContextManager[None]:
    """What a decoder meets in a damaged file, as a line; a picture with a hole is not written."""
    text = "cannot convert {}: it is damaged ({}). Copy the file again or leave it out."
    return foreign_bytes(lambda why: UnreadableSlideError(text.format(path.name, why)))
