"""What the samples of a TIFF's pixels are, and how they become RGB; kinds that nobody shows right are refused.

Headers may contradict each other or say nothing. The header of a TIFF, the marks in a JPEG stream and the pixels
themselves are three witnesses. Scanners leave the marks out, converters copy headers, and no reader shows the right
colours by believing one of them alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from parfocal.slides.jpeg import JpegHeader, read_jpeg_header
from parfocal.slides.tiff_scans import Planes

JPEG, JPEG2000 = 7, {33003, 33004, 33005, 34712}
COMPRESSIONS = {
    **{1: "none", 5: "LZW", JPEG: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "Zstandard"},
    **dict.fromkeys(JPEG2000, "JPEG 2000"),
}
_PHOTOMETRIC = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
_NAMES_OF_RGB = {("r", "g", "b"), ("red", "green", "blue")}


@dataclass(frozen=True, eq=False)
class PixelKind:
    """What the samples of a level are.

    Attributes:
        samples: `grey`, `inverted`, `palette`, `RGB`, `YCbCr`, `RGBA` or `premultiplied`.
        jpeg_colour: what the components of its JPEG streams are, see StrictJpeg; None where it has none.
        palette: the colours of a palette.
        has_to_be_seen: the header does not decide: the pixels have to be looked at.
    """

    samples: str
    jpeg_colour: str | None = None
    palette: UInt8[np.ndarray, "256 3"] | None = None
    has_to_be_seen: bool = False

    @property
    def is_plain_rgb(self) -> bool:
        """Whether nothing is left to do when the samples are decoded."""
        return self.samples == "RGB"


def pixel_kind(planes: Planes, channels: tuple[str, ...]) -> PixelKind:
    """What the header says that the samples of a level are.

    Raises:
        ValueError: nobody shows such pixels right; the text is what they are, as a clause.
    """
    page = planes[0]
    compression, photometric = int(page.compression), int(page.photometric)
    if page.dtype != np.uint8 or page.bitspersample != 8:
        found = page.dtype if page.dtype not in {None, np.dtype(np.uint8)} else f"of {page.bitspersample} bits"
        raise ValueError(f"its pixels are {found}, not 8 bit")
    if compression not in COMPRESSIONS:
        raise ValueError(f"its compression {compression} is none of {', '.join(sorted(set(COMPRESSIONS.values())))}")
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise ValueError("it has several focal planes")
    samples, is_planar = int(page.samplesperpixel), int(page.planarconfig) == 2
    if len(planes) > 1:
        return _channels(len(planes) if samples == 1 else 0, photometric, compression, channels)
    if samples == 1 and photometric in {0, 1, 3}:
        kind = {0: "inverted", 1: "grey", 3: "palette"}[photometric]
        return PixelKind(kind, "grey" if compression == JPEG else None, _palette(page) if kind == "palette" else None)
    if samples == 3 and photometric == 2 and is_planar:
        return PixelKind("RGB", "grey" if compression == JPEG else None)
    if samples == 3 and not is_planar and photometric in {2, 6}:
        if compression == JPEG:
            return PixelKind("RGB", _PHOTOMETRIC[photometric], has_to_be_seen=True)
        if compression in JPEG2000:
            return PixelKind(_PHOTOMETRIC[photometric], has_to_be_seen=True)
        if photometric == 2:
            return PixelKind("RGB")
    extra = tuple(int(one) for one in page.extrasamples)
    if samples == 4 and photometric == 2 and not is_planar and compression not in {JPEG, *JPEG2000}:
        if extra in {(1,), (2,)}:
            return PixelKind("premultiplied" if extra == (1,) else "RGBA")
        raise ValueError("its fourth sample is not said to be opacity or anything else")
    what = _PHOTOMETRIC.get(photometric, f"of kind {photometric}")
    raise ValueError(
        f"its pixels have {samples} sample{'s' * (samples > 1)} ({what}, {COMPRESSIONS[compression]}), "
        "not those of one RGB picture"
    )


def to_rgb(raw: UInt8[np.ndarray, "y x s"], kind: PixelKind, out: UInt8[np.ndarray, "y x 3"]) -> None:
    """Turn samples into RGB; what is transparent lies on white."""
    if kind.samples == "RGB":
        out[...] = raw
    elif kind.samples == "YCbCr":
        cv2.cvtColor(np.ascontiguousarray(raw[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB, dst=out)
    elif kind.samples == "palette":
        assert kind.palette is not None
        out[...] = kind.palette[raw[..., 0]]
    elif kind.samples in {"grey", "inverted"}:
        out[...] = raw if kind.samples == "grey" else 255 - raw
    else:
        alpha = raw[..., 3:].astype(np.uint32)
        colour = raw[..., :3] * (np.uint32(255) if kind.samples == "premultiplied" else alpha)
        out[...] = np.minimum((colour + 255 * (255 - alpha) + 127) // 255, 255)


def _channels(count: int, photometric: int, compression: int, names: tuple[str, ...]) -> PixelKind:
    """Three pages are red, green and blue where their names say so, or, without names, where they look so."""
    known = tuple(name.strip().lower() for name in names if name.strip())
    if count != 3 or photometric != 1 or (known and known not in _NAMES_OF_RGB):
        called = f" ({', '.join(names)})" if known else ""
        raise ValueError(f"it holds {count or 'several'} channels{called}, not one RGB picture")
    return PixelKind("RGB", "grey" if compression == JPEG else None, has_to_be_seen=not known)


def _palette(page: object) -> UInt8[np.ndarray, "256 3"]:
    colours = np.asarray(getattr(page, "colormap"), np.uint16)  # noqa: B009
    if colours.shape != (3, 256):
        raise ValueError("its palette has not 256 colours")
    # Old writers put 8 bits where 16 belong.
    return (colours if colours.max() < 256 else colours >> 8).astype(np.uint8).T.copy()


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
