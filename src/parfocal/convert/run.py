"""Pictures into tiled pyramids, one after the other; one that cannot be converted is named, and the others go on."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from parfocal.convert.pyramid import Codec, PyramidTags, level_sizes, write_pyramid
from parfocal.convert.source import open_picture
from parfocal.errors import CalibrationError, ConfigError, ParfocalWarning, StoreError
from parfocal.files import remove_leftovers, staging, writable_folder, writing
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, SlideOutcomes
from parfocal.run.jobs import attempt_slides
from parfocal.run.shards import Sharding
from parfocal.slides import SlideSource, check_slide_mpp, open_slide
from parfocal.slides.calibration import MppClaim, calibrate
from parfocal.slides.on_disk import real_path
from parfocal.version import __version__

# How far the resolution that is read back may lie from the one that was to be written: a tag holds a ratio.
_EQUAL_MPP = 1e-6


class ConvertSettings(Sharding):
    """How pictures become pyramids."""

    codec: Codec = Field("jpeg", description="jpeg, or lossless (deflate), whose files are larger.")
    quality: int = Field(90, ge=1, le=100, description="Of JPEG: 1 to 100.")
    overwrite: bool = Field(False, description="Write over a pyramid of the same name that is there already.")
    threads: int = Field(2, ge=1, description="Threads that compress.")


@dataclass(frozen=True)
class ConvertedPicture:
    """One picture that is a pyramid now.

    Attributes:
        slide: the pyramid's name without suffix.
        source: the picture.
        path: the pyramid.
        width_px: of level 0.
        height_px: of level 0.
        mpp: micrometres per pixel of level 0.
        mpp_source: where that was found.
        levels: how many there are.
    """

    slide: str
    source: Path
    path: Path
    width_px: int
    height_px: int
    mpp: float
    mpp_source: str
    levels: int


@dataclass(frozen=True)
class ConvertSummary(SlideOutcomes[ConvertedPicture]):
    """What came of each picture, in their order.

    Attributes:
        slides: pyramids, and failures in between.
    """

    slides: tuple[ConvertedPicture | FailedSlide, ...]

    def describe(self) -> dict[str, Any]:
        """All of it as plain values."""
        failed = [
            {"slide": one.slide, "path": one.path, "error": one.error, "message": one.message} for one in self.failed
        ]
        return {"done": [asdict(one) for one in self.done], "failed": failed}


def convert_pictures(
    pictures: Sequence[Path],
    out: Path,
    settings: ConvertSettings | None = None,
    *,
    slide_mpp: float | None = None,
    on_event: OnEvent | None = None,
) -> ConvertSummary:
    """Write each picture as a tiled TIFF with levels that says how many micrometres a pixel has.

    Level 0 has the picture's pixels, upright, as RGB on white; each further level is the mean of two by two pixels of
    the one before. A colour profile goes along. What is written is opened again before it gets its name, so that a file
    with that name is whole and is read with that resolution.

    Args:
        pictures: PNG and JPEG files, and TIFFs without levels.
        out: the folder of the pyramids, `NAME.tif` each.
        settings: how.
        slide_mpp: micrometres per pixel of every picture, in place of what its file says; without it a picture that
            says nothing, or only a screen's or a print's resolution, is not converted.
        on_event: told of each of the `pictures` that is done.

    Raises:
        ConfigError: no picture is named, or two would become one file; or no slide has such a resolution.
        StoreError: nothing can be written to `out`.
    """
    settings = settings or ConvertSettings()
    if not pictures:
        raise ConfigError("no picture is named. Give files: parfocal convert scan.png -o slides --slide-mpp 0.5")
    check_slide_mpp(slide_mpp)
    sources = [SlideSource(path.stem, path) for path in map(Path, pictures)]
    _check_names(sources, out)
    sources = settings.own(sources, name=lambda source: source.slide)
    writable_folder(out)
    tell, done = on_event or warn_of, list[ConvertedPicture | FailedSlide]()
    work = partial(_convert, out, settings, slide_mpp)
    for outcome in attempt_slides(sources, work, writes_to=out):
        done.append(outcome)
        tell(Progress("pictures", len(done), len(sources), sources[len(done) - 1].slide))
    return ConvertSummary(tuple(done))


def _check_names(sources: Sequence[SlideSource], out: Path) -> None:
    """Raise where two pictures would become one file, on a disk that does not tell cases apart either."""
    known: dict[str, SlideSource] = {}
    for source in sources:
        other = known.setdefault(source.slide.casefold(), source)
        if other is not source:
            raise ConfigError(
                f"{other.path} and {source.path} would both be written to {out / source.slide}.tif. Convert one of "
                "them into another folder."
            )


def _convert(out: Path, settings: ConvertSettings, slide_mpp: float | None, source: SlideSource) -> ConvertedPicture:
    target = out / f"{source.slide}.tif"
    if os.path.lexists(target):
        if real_path(target) == real_path(source.path):
            raise StoreError(f"cannot write {target}: it is the picture itself. Name another folder.")
        if not settings.overwrite:
            raise StoreError(f"cannot write {target}: it is there already. Name another folder, or pass --overwrite.")
    picture = open_picture(source.path)
    for note in picture.notes:
        warnings.warn(f"{source.path.name} {note}.", ParfocalWarning, stacklevel=3)
    found = calibrate(source.path.name, picture.claim, None, slide_mpp=slide_mpp, mpp_from_objective=False)
    problem = MppClaim(found.mpp, found.mpp, "TIFF resolution tag").problem()
    if problem is not None:
        raise CalibrationError(
            f"{source.path.name} cannot be written with {found.mpp:g} microns per pixel: it {problem}."
        )
    size = (picture.width, picture.height)
    tags = PyramidTags(found.mpp, picture.icc_profile, f"parfocal {__version__}")
    remove_leftovers(target)
    with staging(target.parent) as scratch, writing(target) as temporary:
        write_pyramid(
            temporary,
            picture.bands(),
            size,
            tags,
            scratch,
            codec=settings.codec,
            quality=settings.quality,
            workers=settings.threads,
        )
        with open_slide(temporary) as slide:
            # The one who reads it next, before it has its name.
            if (slide.width_px, slide.height_px, len(slide.levels)) != (*size, len(level_sizes(*size))) or (
                abs(slide.mpp / found.mpp - 1) > _EQUAL_MPP
            ):
                raise StoreError(
                    f"cannot use what was written to {target}: it has {slide.width_px} x {slide.height_px} px in "
                    f"{len(slide.levels)} levels of {slide.mpp:g} mpp. Please report it with the picture's header."
                )
    return ConvertedPicture(source.slide, source.path, target, *size, found.mpp, found.source, len(level_sizes(*size)))
