"""From a path to an open slide: the reader that takes the file, and its resolution."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import openslide

from parfocal.errors import CalibrationError, UnreadableSlideError
from parfocal.slides.calibration import Calibration, calibrate
from parfocal.slides.on_disk import check_openable
from parfocal.slides.openslide_reader import OpenSlideReader
from parfocal.slides.picture import PictureReader
from parfocal.slides.reader import NotMineError, PixelReader
from parfocal.slides.slide import Slide
from parfocal.slides.tiled_tiff import TiledTiffReader

__all__ = ["open_slide"]

# The formats of OpenSlide whose files are plain tiled TIFFs; every other name means a scanner's own rules.
_PLAIN_TIFF = {None, "aperio", "generic-tiff"}


def open_slide(
    path: Path | str, *, slide_mpp: float | None = None, mpp_from_objective: bool = False, require_mpp: bool = True
) -> Slide:
    """Open a slide and settle its resolution.

    Tiled TIFF and SVS are read by a fast path of our own, pictures by Pillow, everything else by OpenSlide.

    Args:
        path: the file; of a DICOM series or an MRXS slide the file that OpenSlide opens.
        slide_mpp: micrometres per level-0 pixel, in place of what the file says.
        mpp_from_objective: take 10 um / power where the file has no plausible resolution but an objective power.
        require_mpp: False opens a slide of unknown resolution too; its `mpp` then raises.

    Raises:
        UnreadableSlideError: no reader takes the file; the text has the reason of each.
        CalibrationError: the resolution is missing or implausible.
    """
    path = Path(path)
    reader, open_reader = _first_reader(path)
    calibration: Calibration | CalibrationError
    try:
        calibration = calibrate(
            path.name,
            reader.mpp_claim,
            reader.objective_power,
            slide_mpp=slide_mpp,
            mpp_from_objective=mpp_from_objective,
        )
    except CalibrationError as error:
        if require_mpp:
            reader.close()
            raise
        calibration = error
    return Slide(reader, open_reader, calibration, path.name)


def _first_reader(path: Path) -> tuple[PixelReader, Callable[[], PixelReader]]:
    """The first reader that takes the file, and how to open it again."""
    check_openable(path)
    candidates: list[tuple[str, Callable[[Path], PixelReader]]] = [
        ("OpenSlide", OpenSlideReader),
        ("Pillow", PictureReader),
    ]
    if openslide.OpenSlide.detect_format(str(path)) in _PLAIN_TIFF:
        candidates.insert(0, ("tifffile", TiledTiffReader))
    reasons = []
    for name, candidate in candidates:
        try:
            return candidate(path), partial(candidate, path)
        except NotMineError as reason:
            reasons.append(f"{name}: {reason}")
    raise UnreadableSlideError(
        f"cannot open {path.name}: no reader takes it ({'; '.join(reasons)}). "
        "Expected is a slide that OpenSlide knows, a tiled 8-bit RGB TIFF, or an RGB picture."
    )
