"""Plain pictures: PNG, JPEG and untiled TIFF, held in memory as a slide of one level."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.openslide_reader import on_white
from parfocal.slides.reader import NotMineError, PixelReader, Window
from parfocal.slides.tiff_metadata import BROKEN_DATA, quiet_tifffile, resolution_tag

__all__ = ["MAX_PICTURE_PX", "PictureReader"]

# 240 MB of RGB. A larger picture belongs in a tiled pyramid, which is read piece by piece.
MAX_PICTURE_PX = 80_000_000
_FORMATS = ("PNG", "JPEG", "TIFF")
_MODES = {"RGB", "RGBA", "L", "LA", "P"}


class PictureReader(PixelReader):
    """A picture, upright (its orientation tag is applied), RGB, opaque."""

    def __init__(self, path: Path) -> None:
        """Load the whole picture.

        Raises:
            NotMineError: it is not a picture of a kind that is read here.
            UnreadableSlideError: it is one, but too large or broken.
        """
        self.path = path
        self.objective_power = None
        with warnings.catch_warnings():
            # Pillow warns of large pictures and odd tags; the size is checked below.
            warnings.simplefilter("ignore")
            try:
                picture = Image.open(path, formats=_FORMATS)
            except (Image.DecompressionBombError, *BROKEN_DATA, SyntaxError) as error:
                reason = "not a PNG, JPEG or TIFF picture" if "cannot identify" in str(error) else str(error)
                raise NotMineError(reason) from error
            with picture:
                self.format = f"{picture.format} picture"
                if picture.mode not in _MODES:
                    raise NotMineError(f"a picture of mode {picture.mode}, not 8-bit RGB")
                if picture.format == "TIFF":
                    _check_tiff(path)
                if picture.width * picture.height > MAX_PICTURE_PX:
                    raise UnreadableSlideError(
                        f"cannot read {path.name}: a picture without tiles of {picture.width} x {picture.height} px; "
                        f"at most {MAX_PICTURE_PX / 1e6:g} million are held in memory. "
                        "Write it as a tiled pyramid, for example with `vips tiffsave IN OUT --tile --pyramid`."
                    )
                self.mpp_claim = _resolution(picture, path)
                try:
                    upright = ImageOps.exif_transpose(picture)
                    if upright.mode in {"RGBA", "LA", "P"}:
                        self._pixels = on_white(np.asarray(upright.convert("RGBA")))
                    else:
                        self._pixels = np.asarray(upright.convert("RGB"))
                except (*BROKEN_DATA, SyntaxError) as error:
                    raise UnreadableSlideError(
                        f"cannot read {path.name}: the {self.format} is broken ({error}). "
                        "Copy the file again or leave it out."
                    ) from error
        self.level_sizes = ((self._pixels.shape[1], self._pixels.shape[0]),)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Copy the window; see PixelReader."""
        return Window(self._pixels[y : y + height, x : x + width].copy())

    def close(self) -> None:
        """Drop the pixels; see PixelReader."""
        self._pixels = np.empty((0, 0, 3), np.uint8)


def _check_tiff(path: Path) -> None:
    """Take only what Pillow reads right: old JPEG in TIFF has no one meaning, and 16 bits would lose half of them."""
    with quiet_tifffile():
        try:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                compression, bits, samples = int(page.compression), page.bitspersample, page.samplesperpixel
                tiled = page.is_tiled
        except BROKEN_DATA as error:
            raise NotMineError(" ".join(str(error).split())) from error
    if tiled:
        raise NotMineError("a tiled TIFF is not read as a picture")
    if compression == 6:
        raise NotMineError("old-style JPEG compression (6) is not read: its files contradict each other")
    if bits != 8:
        raise NotMineError(f"its {samples} samples have {bits} bits, not 8")


def _resolution(picture: Image.Image, path: Path) -> MppClaim | None:
    """What the picture says of its resolution: dots per inch of a print, if anything."""
    if picture.format == "TIFF":
        with quiet_tifffile(), tifffile.TiffFile(path) as tiff:
            claim = resolution_tag(tiff.pages.first)
        return replace(claim, of_picture=True) if claim else None
    dpi = picture.info.get("dpi")
    if not dpi or min(dpi) <= 1:
        return None
    x, y = (float(value) for value in dpi)
    said = f"{x:.8g} dots per inch" if x == y else f"{x:.8g} by {y:.8g} dots per inch"
    return MppClaim(25400.0 / x, 25400.0 / y, f"{picture.format} resolution", said, of_picture=True)
