"""From a path to an open slide: the reader that takes the file, and its resolution."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import openslide

from parfocal.addresses import address_of
from parfocal.errors import CalibrationError, ParfocalWarning, UnreadableSlideError
from parfocal.slides.calibration import Calibration, calibrate
from parfocal.slides.ome_zarr import OmeZarrReader, is_ome_zarr
from parfocal.slides.on_disk import check_openable
from parfocal.slides.openslide_reader import OpenSlideReader
from parfocal.slides.picture import PictureReader
from parfocal.slides.reader import NotMineError, PixelReader, foreign_bytes, one_line
from parfocal.slides.remote import RemoteFile
from parfocal.slides.slide import Slide
from parfocal.slides.tiff_file import NotWholeError, TiffFacts, read_tiff
from parfocal.slides.tiled_tiff import TiledTiffReader

_T = TypeVar("_T")

# The formats of OpenSlide whose files are plain tiled TIFFs; every other name means a scanner's own rules.
_PLAIN_TIFF = {None, "aperio", "generic-tiff"}


def open_slide(
    path: Path | str,
    *,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    require_mpp: bool = True,
    scan: int | None = None,
) -> Slide:
    """Open a slide and settle its resolution.

    Tiled TIFF and SVS are read by a fast path of our own, OME-Zarr by zarr, pictures by Pillow, everything else by
    OpenSlide. A file that nobody shows right is refused, not handed on to a reader that knows less of it.

    Args:
        path: the file; of a DICOM series or an MRXS slide the file that OpenSlide opens, of OME-Zarr the folder. Or an
            address (`s3://`, `gs://`, `https://`, `http://`) of a tiled TIFF, SVS or OME-TIFF, or in a bucket of an
            OME-Zarr: only the bytes that are needed come.
        slide_mpp: micrometres per level-0 pixel, in place of what the file says.
        mpp_from_objective: take 10 um / power where the file has no plausible resolution but an objective power.
        require_mpp: False opens a slide of unknown resolution too; its `mpp` then raises.
        scan: which scan of a file that holds several, from 0 in the order of the file; None takes the first and warns
            where there are more.

    Raises:
        UnreadableSlideError: no reader takes the file, or it has no such scan; the text has the reason of each.
        CalibrationError: the resolution is missing or implausible.
    """
    path = Path(path)
    reader = _first_reader(path, scan)
    with ExitStack() as on_error:
        on_error.callback(reader.close)
        calibration = _calibration(path.name, reader, slide_mpp, mpp_from_objective)
        if isinstance(calibration, CalibrationError) and require_mpp:
            raise calibration
        for note in _notes(reader, scan):
            # An error where the caller has made warnings one.
            warnings.warn(f"{path.name}{note}.", ParfocalWarning, stacklevel=2)
        on_error.pop_all()
    return Slide(reader, partial(_first_reader, path, scan), calibration, path.name)


def _calibration(
    name: str, reader: PixelReader, slide_mpp: float | None, mpp_from_objective: bool
) -> Calibration | CalibrationError:
    try:
        return calibrate(
            name, reader.mpp_claim, reader.objective_power, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective
        )
    except CalibrationError as error:
        return error


def _notes(reader: PixelReader, scan: int | None) -> list[str]:
    """What the user is told of the file, each as the end of a sentence that begins with its name."""
    notes = [f": {note}" for note in reader.notes]
    if scan is None and len(reader.scan_sizes) > 1:
        sizes = ", ".join(
            f"{number}: {width} x {height} px" for number, (width, height) in enumerate(reader.scan_sizes)
        )
        notes.append(
            f" holds {len(reader.scan_sizes)} scans ({sizes}); scan {reader.scan} is read. "
            "Choose with --scan N (scan=N)"
        )
    return notes


def _first_reader(path: Path, scan: int | None) -> PixelReader:
    """The first reader that takes the file."""
    address = address_of(path)
    if is_ome_zarr(path):
        if scan not in {None, 0}:
            raise UnreadableSlideError(f"cannot read scan {scan} of {path.name}: it holds one, which is scan 0.")
        return OmeZarrReader(path)
    if address is not None:
        return _remote_reader(path, address, scan)
    check_openable(path)
    reasons: list[str] = []
    facts = _tried("tifffile", partial(_read_plain_tiff, path, scan), reasons)
    if facts is not None and facts.levels:
        return TiledTiffReader(path, facts)
    if facts is None and scan not in {None, 0}:
        raise UnreadableSlideError(f"cannot read scan {scan} of {path.name}: it holds one, which is scan 0.")
    candidates: dict[str, Callable[[Path], PixelReader]] = {
        "OpenSlide": OpenSlideReader,
        "Pillow": partial(PictureReader, tiff=facts),
    }
    if facts is not None:
        candidates = {name: candidate for name, candidate in candidates.items() if name == facts.left_to}
    for name, candidate in candidates.items():
        reader = _tried(name, partial(candidate, path), reasons)
        if reader is not None:
            if facts is not None:
                # What the file says in its own words is known better here than there.
                reader.mpp_claim = facts.claim or reader.mpp_claim
                reader.objective_power = facts.objective_power or reader.objective_power
                reader.scan, reader.scan_sizes = facts.scan, facts.scan_sizes
            return reader
    raise UnreadableSlideError(
        f"cannot open {path.name}: no reader takes it ({'; '.join(reasons)}). "
        "Expected is a slide that OpenSlide knows, a tiled 8-bit RGB TIFF, or an RGB picture."
    )


def _remote_reader(path: Path, address: str, scan: int | None) -> PixelReader:
    """The reader of a slide that lies on no disk: others than the fast one read a file as a whole, or many files."""
    with ExitStack() as on_error:
        file = RemoteFile(address)
        on_error.callback(file.close)
        try:
            facts, why = read_tiff(path, scan, cast(BinaryIO, file)), "it is no TIFF, or one with a scanner's own rules"
        except NotMineError as error:
            facts, why = None, one_line(error)
        except NotWholeError as error:
            facts, why = None, f"it is no whole TIFF ({one_line(error.__cause__ or error)})"
        if file.problem is not None:
            raise file.problem
        if facts is None or not facts.levels:
            if facts is not None:
                why = f"only {facts.left_to} shows its pixels right"
            raise UnreadableSlideError(
                f"cannot read {address} where it is: {why.rstrip('.')}. Tiled TIFF, SVS and OME-TIFF are read from an "
                "address; other formats can be read from a disk only; copy it first."
            )
        on_error.pop_all()
    return TiledTiffReader(path, facts, file)


def _read_plain_tiff(path: Path, scan: int | None) -> TiffFacts:
    try:
        facts = read_tiff(path, scan)
    except NotWholeError as error:
        # Scanners bend the rules of TIFF; what OpenSlide knows by name is not asked to keep them.
        vendor = openslide.OpenSlide.detect_format(str(path))
        if vendor in _PLAIN_TIFF:
            raise
        raise NotMineError(f"left to OpenSlide, which knows it as {vendor}") from error
    if facts is None:
        raise NotMineError("not a TIFF file")
    return facts


def _tried(name: str, attempt: "Callable[[], _T]", reasons: list[str]) -> "_T | None":
    """What an attempt gives; None, with the reason noted, where this reader does not take the file."""
    try:
        with foreign_bytes(NotMineError):
            return attempt()
    except NotMineError as reason:
        reasons.append(f"{name}: {reason}")
        return None
