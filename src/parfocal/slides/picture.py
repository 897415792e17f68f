"""Plain pictures: PNG, JPEG and untiled TIFF, held in memory as a slide of one level.

They are decoded strictly into one array, with little more memory than the array itself has.
"""

import mmap
import shlex
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.jpeg import StrictJpeg, read_jpeg_header
from parfocal.slides.openslide_reader import on_white
from parfocal.slides.reader import NotMineError, PixelReader, Window, foreign_bytes, one_line
from parfocal.slides.tiff_file import TiffFacts
from parfocal.slides.tiff_level import TiffLevel
from parfocal.slides.tiff_tags import BROKEN_DATA, quiet_log

# What is converted at once, so that no second copy of the whole picture is made.
_BAND_PX = 1 << 20
_BYTES_OF_PILLOW = {"L": 1, "P": 1, "LA": 4, "RGB": 4, "RGBA": 4}
_PNG_START = b"\x89PNG\r\n\x1a\n"


def picture_pixels(path: Path, picture: Image.Image, tiff: TiffFacts | None) -> UInt8[np.ndarray, "y x 3"]:
    """RGB of a whole picture, upright (its orientation tag is applied) and opaque.

    Where possible the file is decoded into the array that is kept. Pillow is not asked then: it goes on behind damage
    in a JPEG, leaves the checksums of a PNG unread, and holds four bytes for each pixel besides.

    Args:
        path: the file.
        picture: the same, opened by Pillow and not loaded.
        tiff: of a TIFF what is known of it; else None.

    Raises:
        NotMineError: its samples are not of 8 bits.
        Exception: it is damaged or cut short, whatever the decoder calls it.
    """
    if tiff is not None:
        # Pillow turns it itself.
        return _by_pillow(picture) if tiff.strips is None else _upright(_decoded(path, tiff.strips), tiff.orientation)
    if picture.format == "PNG":
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            picture.info.update(checked_png(data))
            pixels = _png(data)
    else:
        pixels = _jpeg(path.read_bytes(), picture.size)
    # The method of a PNG would load the whole picture first.
    return _upright(pixels, Image.Image.getexif(picture).get(274, 1))


def bytes_per_px(picture: Image.Image, tiff: TiffFacts | None) -> int:
    """How much memory the decoding takes for each pixel, RGB included; arguments as in `picture_pixels`."""
    if tiff is not None:
        return 6 if tiff.strips is not None else 3 + _BYTES_OF_PILLOW[picture.mode]
    # Progressive JPEG: all coefficients until the last scan.
    return 3 + 6 if picture.info.get("progressive") or picture.info.get("progression") else 6


def _jpeg(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
    header = read_jpeg_header(data)
    grey = header.components == 1
    colour = "grey" if grey else header.colour or "YCbCr"
    pixels = np.empty((size[1], size[0], 1 if grey else 3), np.uint8)
    StrictJpeg(None, colour).decode(data, pixels)
    return _as_rgb(pixels)


def _png(data: mmap.mmap) -> UInt8[np.ndarray, "y x 3"]:
    with quiet_log("imagecodecs"):  # remarks on colour profiles
        pixels = np.asarray(imagecodecs.png_decode(data))
    if pixels.dtype != np.uint8:
        raise NotMineError(f"its samples have {8 * pixels.dtype.itemsize} bits, not 8")
    return _as_rgb(pixels if pixels.ndim == 3 else pixels[..., None])


def _decoded(path: Path, level: TiffLevel) -> UInt8[np.ndarray, "y x 3"]:
    pixels = np.empty((level.height, level.width, 3), np.uint8)
    with path.open("rb") as file:
        for number in range(level.down):
            rows = pixels[number * level.tile_height : (number + 1) * level.tile_height]
            whole = rows if len(rows) == level.tile_height else np.empty(level.tile_shape, np.uint8)
            decoded = level.decode(number, level.read_streams(file, number), whole)
            if decoded is not rows:
                rows[...] = decoded[: len(rows)]
    return pixels


def _upright(pixels: UInt8[np.ndarray, "y x 3"], orientation: int) -> UInt8[np.ndarray, "y2 x2 3"]:
    """The pixels as the orientation tag turns them; a view, so nothing is copied."""
    if orientation in {2, 3, 7, 8}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 6, 7}:
        pixels = pixels[::-1]
    return pixels.swapaxes(0, 1) if orientation in {5, 6, 7, 8} else pixels


def _as_rgb(pixels: UInt8[np.ndarray, "y x sample"]) -> UInt8[np.ndarray, "y x 3"]:
    """Grey, grey with transparency, RGB or RGB with transparency as RGB on white, in the same memory where it fits."""
    height, width, samples = pixels.shape
    if samples == 3:
        return pixels
    flat = pixels.reshape(-1) if samples == 4 else np.empty(height * width * 3, np.uint8)
    for top, bottom in _bands(height, width):
        band = pixels[top:bottom]
        if samples != 4:
            band = np.concatenate([band[..., :1]] * 3 + [band[..., 1:]], axis=2)
        # What is written ends before the next band begins: three bytes take the place of four.
        rgb = on_white(band) if band.shape[2] == 4 else band
        flat[top * width * 3 : bottom * width * 3] = rgb.reshape(-1)
    return flat[: height * width * 3].reshape(height, width, 3)


def _by_pillow(picture: Image.Image) -> UInt8[np.ndarray, "y x 3"]:
    picture.load()
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top, bottom in _bands(height, width):
        band = picture.crop((0, top, width, bottom))
        if band.mode in {"RGBA", "LA", "P"}:
            pixels[top:bottom] = on_white(np.asarray(band.convert("RGBA")))
        else:
            pixels[top:bottom] = np.asarray(band.convert("RGB"))
    return pixels


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(_BAND_PX // max(width, 1), 1)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def checked_png(data: mmap.mmap) -> dict[str, bytes]:
    """Compare every chunk with its checksum; a decoder stops reading when it has all rows.

    Returns:
        The EXIF data, as Pillow calls them, where there are any.

    Raises:
        ValueError: a chunk is damaged, or the file ends before its last one.
    """
    at, kind, found = len(_PNG_START), b"", {}
    with memoryview(data) as view:
        while kind != b"IEND":
            length = int.from_bytes(view[at : at + 4], "big")
            end = at + 12 + length
            if end > len(view):
                raise ValueError("the file ends before its last chunk")
            kind = bytes(view[at + 4 : at + 8])
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise ValueError(f"its chunk {kind.decode('latin-1')!a} at byte {at} does not have its checksum")
            if kind == b"eXIf":
                found["exif"] = b"Exif\0\0" + bytes(view[at + 8 : end - 4])
            at = end
    return found


# 900 MB of RGB, and at most about twice that while it is loaded. A larger picture belongs in a tiled pyramid, which is
# read piece by piece.
MAX_PICTURE_PX = 300_000_000
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF")
_MODES = {"RGB", "RGBA", "L", "LA", "P"}


def check_mode(picture: Image.Image) -> None:
    """Raise for samples that are not made RGB here, such as those of 16 bits or of CMYK.

    Raises:
        NotMineError: the picture has such.
    """
    if picture.mode not in _MODES:
        raise NotMineError(f"a picture of mode {picture.mode}, not 8-bit RGB")


class PictureReader(PixelReader):
    """A picture, upright (its orientation tag is applied), RGB, opaque."""

    def __init__(self, path: Path, tiff: TiffFacts | None = None) -> None:
        """Load the whole picture; of a TIFF take over what `read_tiff` has found in it.

        Raises:
            NotMineError: it is not a picture of a kind that is read here.
            UnreadableSlideError: it is one, but too large or broken.
        """
        self.path = path
        self.objective_power = None
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow warns of odd tags and refuses large pictures in words of its own; the size is checked below, before
            # anything but the header is read.
            warnings.simplefilter("ignore")
            pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                # By its name Pillow would map an uncompressed file into memory, and then not turn it upright.
                picture = Image.open(file, formats=PICTURE_FORMATS)
            except (*BROKEN_DATA, SyntaxError) as error:
                reason = "not a PNG, JPEG or TIFF picture" if "cannot identify" in str(error) else one_line(error)
                raise NotMineError(reason) from error
            finally:
                Image.MAX_IMAGE_PIXELS = pillows
            with picture:
                self._load(picture, tiff)
        self.level_sizes = ((self._pixels.shape[1], self._pixels.shape[0]),)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Copy the window; see PixelReader."""
        return Window(self._pixels[y : y + height, x : x + width].copy())

    def close(self) -> None:
        """Drop the pixels; see PixelReader."""
        self._pixels = np.empty((0, 0, 3), np.uint8)

    def _load(self, picture: Image.Image, tiff: TiffFacts | None) -> None:
        kind = "JPEG" if picture.format == "MPO" else picture.format
        self.format = f"{kind} picture"
        if kind == "TIFF" and tiff is None:
            raise NotMineError("a TIFF that is no plain picture")
        check_mode(picture)
        self._check_size(picture, tiff)
        self.mpp_claim = tiff.claim if tiff is not None else print_resolution(picture)
        refusal = "cannot read {}: the {} is broken ({}). Copy the file again or leave it out."
        with foreign_bytes(lambda why: UnreadableSlideError(refusal.format(self.path.name, self.format, why))):
            self._pixels = picture_pixels(self.path, picture, tiff)

    def _check_size(self, picture: Image.Image, tiff: TiffFacts | None) -> None:
        most = min(MAX_PICTURE_PX, 2 * 3 * MAX_PICTURE_PX // bytes_per_px(picture, tiff))
        if picture.width * picture.height > most:
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: a picture without tiles of {picture.width} x {picture.height} px; "
                f"at most {most / 1e6:g} million are held in memory. "
                f"Write it as a tiled pyramid: parfocal convert {shlex.quote(str(self.path))} -o FOLDER"
            )
        refuse_animation(self.path, picture)


def refuse_animation(path: Path, picture: Image.Image) -> None:
    """Raise for a PNG that holds several pictures.

    Raises:
        UnreadableSlideError: it does.
    """
    frames = getattr(picture, "n_frames", 1)
    if picture.format == "PNG" and frames > 1:
        raise UnreadableSlideError(
            f"cannot read {path.name}: it is an animation of {frames} pictures. "
            "Write the one that is meant as a file of its own."
        )


def print_resolution(picture: Image.Image) -> MppClaim | None:
    """What the picture says of its resolution: dots per inch of a print, if anything."""
    dpi = picture.info.get("dpi")
    if not dpi or min(dpi) <= 1:
        return None
    x, y = (float(value) for value in dpi)
    said = f"{x:.8g} dots per inch" if x == y else f"{x:.8g} by {y:.8g} dots per inch"
    kind = "JPEG" if picture.format == "MPO" else picture.format
    return MppClaim(25400.0 / x, 25400.0 / y, f"{kind} resolution", said, of_picture=True)
