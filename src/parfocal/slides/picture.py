"""Plain pictures: PNG, JPEG and untiled TIFF, held in memory as a slide of one level."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from parfocal.errors import UnreadableSlideError
from parfocal.slides.calibration import MppClaim
from parfocal.slides.picture_pixels import bytes_per_px, picture_pixels
from parfocal.slides.reader import NotMineError, PixelReader, Window, one_line
from parfocal.slides.tiff_metadata import BROKEN_DATA, quiet_tifffile, resolution_tag

__all__ = ["MAX_PICTURE_PX", "PictureReader"]

# 240 MB of RGB, and at most about twice that while it is loaded. A larger picture belongs in a tiled pyramid, which is
# read piece by piece.
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
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow warns of large pictures and odd tags; the size is checked below.
            warnings.simplefilter("ignore")
            try:
                # By its name Pillow would map an uncompressed file into memory, and then not turn it upright.
                picture = Image.open(file, formats=_FORMATS)
            except Image.DecompressionBombError as error:
                raise NotMineError(f"a picture of more than {MAX_PICTURE_PX / 1e6:g} million pixels") from error
            except (*BROKEN_DATA, SyntaxError) as error:
                reason = "not a PNG, JPEG or TIFF picture" if "cannot identify" in str(error) else one_line(error)
                raise NotMineError(reason) from error
            with picture:
                self._load(picture)
        self.level_sizes = ((self._pixels.shape[1], self._pixels.shape[0]),)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        """Copy the window; see PixelReader."""
        return Window(self._pixels[y : y + height, x : x + width].copy())

    def close(self) -> None:
        """Drop the pixels; see PixelReader."""
        self._pixels = np.empty((0, 0, 3), np.uint8)

    def _load(self, picture: Image.Image) -> None:
        kind = "JPEG" if picture.format == "MPO" else picture.format
        self.format = f"{kind} picture"
        page = _only_page(self.path) if kind == "TIFF" else None
        if picture.mode not in _MODES:
            raise NotMineError(f"a picture of mode {picture.mode}, not 8-bit RGB")
        if page is not None and page.bitspersample != 8:
            raise NotMineError(f"its {page.samplesperpixel} samples have {page.bitspersample} bits, not 8")
        self._check_size(picture, page)
        self.mpp_claim = _resolution(picture, page)
        try:
            self._pixels = picture_pixels(self.path, picture, page)
        except NotMineError:
            raise
        except Exception as error:
            # Whatever a decoder meets in foreign bytes.
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: the {self.format} is broken ({one_line(error)}). "
                "Copy the file again or leave it out."
            ) from error

    def _check_size(self, picture: Image.Image, page: Any) -> None:
        most = min(MAX_PICTURE_PX, 2 * 3 * MAX_PICTURE_PX // bytes_per_px(picture, page))
        if picture.width * picture.height > most:
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: a picture without tiles of {picture.width} x {picture.height} px; "
                f"at most {most / 1e6:g} million are held in memory. "
                "Write it as a tiled pyramid, for example with `vips tiffsave IN OUT --tile --pyramid`."
            )
        frames = getattr(picture, "n_frames", 1)
        if picture.format == "PNG" and frames > 1:
            raise UnreadableSlideError(
                f"cannot read {self.path.name}: it is an animation of {frames} pictures. "
                "Write the one that is meant as a file of its own."
            )


def _only_page(path: Path) -> Any:
    """The page of an untiled TIFF, as tifffile has it; several pages are left to the reader of tiled ones."""
    with quiet_tifffile():
        try:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                # tifffile makes the decoder when it is first asked for, and looks into the file for that.
                count, _ = len(tiff.pages), page.decode
        except BROKEN_DATA as error:
            raise NotMineError(one_line(error)) from error
    if count > 1:
        raise NotMineError(f"a TIFF of {count} pages is not read as a picture")
    if page.is_tiled:
        raise NotMineError("a tiled TIFF is not read as a picture")
    if int(page.compression) == 6:
        raise NotMineError("old-style JPEG compression (6) is not read: its files contradict each other")
    return page


def _resolution(picture: Image.Image, page: Any) -> MppClaim | None:
    """What the picture says of its resolution: dots per inch of a print, if anything."""
    if page is not None:
        claim = resolution_tag(page)
        return replace(claim, of_picture=True) if claim else None
    dpi = picture.info.get("dpi")
    if not dpi or min(dpi) <= 1:
        return None
    x, y = (float(value) for value in dpi)
    said = f"{x:.8g} dots per inch" if x == y else f"{x:.8g} by {y:.8g} dots per inch"
    kind = "JPEG" if picture.format == "MPO" else picture.format
    return MppClaim(25400.0 / x, 25400.0 / y, f"{kind} resolution", said, of_picture=True)
