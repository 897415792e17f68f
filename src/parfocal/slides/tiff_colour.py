"""What the three samples of compressed pixels are, where headers contradict each other or say nothing.

The header of a TIFF, the marks in a JPEG stream and the pixels themselves are three witnesses. Scanners leave the marks
out, converters copy headers, and no reader shows the right colours by believing one of them alone.
"""

from collections.abc import Iterable

import numpy as np

from parfocal.slides.jpeg import JpegHeader, read_jpeg_header

__all__ = ["ColourError", "colour_of_jpeg", "colour_of_pixels"]

# JPEG noise leaves the range of RGB by a few grey levels.
_MARGIN = 16
# Of the pixels: how many may leave the range of RGB where they are YCbCr, and how many do where they are not.
_FEW, _MANY = 0.02, 0.1
# How much less chroma varies than brightness; of red, green and blue of a stain none does.
_FLAT = 0.7
# Pixels of one brightness say nothing.
_LEAST_CONTRAST = 4.0


class ColourError(ValueError):
    """The witnesses contradict each other, so that any choice may show false colours."""


def colour_of_jpeg(header_says: str, streams: Iterable[bytes], raw_pixels: np.ndarray) -> str:
    """`RGB` or `YCbCr`: what the three components of a level's JPEG streams are.

    Args:
        header_says: what the TIFF header says, `RGB` or `YCbCr`.
        streams: a few of the level's streams.
        raw_pixels: their components as they are, one row a pixel.

    Raises:
        ColourError: the pixels contradict what is said of them, or the streams each other.
    """
    headers = [header for stream in streams if (header := _header(stream)) is not None]
    if any(header.is_subsampled for header in headers):
        return "YCbCr"
    stated = {header.colour for header in headers} - {None}
    if len(stated) > 1:
        raise ColourError("its JPEG streams disagree on whether they are RGB or YCbCr")
    said = stated.pop() if stated else None
    seen = colour_of_pixels(raw_pixels)
    if seen is None:
        return said or header_says
    if said not in {None, seen} and header_says != seen:
        raise ColourError(f"its header and its JPEG streams say {said}, and its pixels look like {seen}")
    return seen


def _header(stream: bytes) -> JpegHeader | None:
    try:
        return read_jpeg_header(stream)
    except ValueError:
        # A damaged tile says nothing of the others; when it is read, it is a gap.
        return None


def colour_of_pixels(raw: np.ndarray) -> str | None:
    """What three unnamed samples look like; None where both would do.

    Most RGB read as YCbCr leaves the range of colours: white would be (433, 120, 480). What stays inside and has two
    samples that vary little is YCbCr.
    """
    if len(raw) == 0:
        return None
    y, cb, cr = (raw[:, n].astype(np.float32) for n in range(3))
    red, green = y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    rgb = np.stack([red, green, blue])
    outside = float(((rgb < -_MARGIN) | (rgb > 255 + _MARGIN)).any(axis=0).mean())
    if outside > _MANY:
        return "RGB"
    spread = [float(sample.std()) for sample in (y, cb, cr)]
    if outside < _FEW and spread[0] > _LEAST_CONTRAST and max(spread[1:]) < _FLAT * spread[0]:
        return "YCbCr"
    return None
