"""How large a pixel of level 0 is in the features of a slide: as they say, or as the slide or its user says.

A nominal magnification is never a length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from parfocal.addresses import shown_path
from parfocal.config import Settings
from parfocal.errors import CalibrationError, MismatchError
from parfocal.slides import SlideIds, SlideSource, check_slide_mpp, open_slide
from parfocal.store.files import SCAN, SlideOrigin
from parfocal.store.fingerprint import ends_fingerprint
from parfocal.store.formats.format import FeatureFile

# Two numbers for one slide that differ by more cannot both be right.
_SAME = 0.01


class FeatureSettings(Settings):
    """How features that another tool has extracted are indexed."""

    slides: tuple[Path, ...] = Field(
        (), description="The slide files, folders of them or manifests, for their true resolution."
    )
    slide_mpp: float | None = Field(
        None,
        description="Micrometres per pixel of every slide, in place of what its file says; a manifest's goes before.",
    )
    mpp_from_objective: bool = Field(
        False, description="Take 10 um / power where a slide has an objective power and no resolution."
    )
    ids: SlideIds = Field(
        "path", description="Whether a slide in a folder is called by its path below it or by its file's name alone."
    )
    encoder: str | None = Field(
        None, description="Name of the encoder, where a job folder holds the features of several."
    )
    format: str | None = Field(
        None, description="The feature format of the files; by default it is recognised by what is in them."
    )
    region_um: float | None = Field(
        None, description="Side of a region, in micrometres; a whole number of the largest tiles, one by default."
    )
    max_misalignment: float = Field(
        0.5,
        ge=0,
        description="How far a tile may lie from where it would nest, as a share of its side. At 0.5 any grid is taken "
        "as it lies; the places that are kept are the true ones.",
    )


@dataclass(frozen=True)
class Resolution:
    """What is known of a slide whose features another tool extracted.

    Attributes:
        mpp: micrometres per pixel of its level 0; NaN where nobody says it and all places are in micrometres.
        unit_um: micrometres in one unit of each features file.
        origin: what is known of its file.
    """

    mpp: float
    unit_um: tuple[float, ...]
    origin: SlideOrigin


def source_of(slide: str, known_slides: Mapping[str, SlideSource]) -> SlideSource | None:
    """The slide's file among those that were named; by its name alone where that fits only one."""
    if slide in known_slides:
        return known_slides[slide]
    by_stem = [source for source in known_slides.values() if source.slide.rsplit("/", 1)[-1] == slide]
    return by_stem[0] if len(by_stem) == 1 else None


def stored_file(slide: str, stored: Mapping[str, Any], named: Mapping[str, SlideSource]) -> SlideSource | None:
    """The file of a slide of a set: where it was named to be, else where it was; None where nobody knows it.

    Its resolution is the set's, with which the places of its tiles were computed, whatever the file or a manifest says
    now; its own where the set has none. Of several scans it is the one that was read.

    Args:
        slide: id.
        stored: its attributes in the set.
        named: slide files, by id.
    """
    there = source_of(slide, named)
    path = there.path if there is not None else Path(str(stored["slide_path"])) if "slide_path" in stored else None
    mpp, scan = float(stored["slide_mpp"]), int(stored.get(SCAN, 0))
    return None if path is None else SlideSource(slide, path, mpp if math.isfinite(mpp) else None, scan or None)


def check_level0_known(slide: str, slide_mpp: float, remedy: str = "") -> None:
    """Make sure that lengths of a slide can be told in pixels of level 0.

    Raises:
        CalibrationError: its resolution is not known; `remedy` is what helps beside indexing it again.
    """
    if not math.isfinite(slide_mpp):
        raise CalibrationError(
            f"cannot place {slide} in pixels of level 0: its resolution is not known, as it was indexed from files in "
            f"micrometres. Index it again with --slides or --slide-mpp{remedy}."
        )


def find_resolution(
    slide: str, files: Sequence[FeatureFile], known_slides: Mapping[str, SlideSource], settings: FeatureSettings
) -> Resolution:
    """The true resolution of a slide, and of the level 0 that each of its features files counts its pixels in.

    That of a manifest counts first, then what the user gives for all, then that of the slide, then a features file's
    own; where a features file has one its places are counted by that, and two that differ are refused. A file whose
    level 0 is another size than the slide's was extracted from another copy of it, and is scaled by the sizes.

    Raises:
        CalibrationError: it is not known.
        MismatchError: the features come from another slide, or two numbers for it contradict each other.
        SlideError: the slide cannot be opened.
    """
    known = _slide_itself(slide, known_slides, settings)
    mpp, origin = known if known is not None else (None, SlideOrigin())
    stated = [_stated(file) for file in files]
    if mpp is None:
        mpp, origin = _without_slide(slide, files, stated)
    if 0 in origin.size_l0px:
        origin = replace(origin, size_l0px=_common_size(slide, [file for file in files if file.slide_mpp is None]))
    size_l0px = origin.size_l0px
    units = []
    for file, own in zip(files, stated, strict=True):
        times = _times(slide, file, size_l0px, origin)
        if file.unit == "um":
            units.append(1.0)
        elif own is not None:
            if known is not None and abs(own / (mpp * times) - 1) > _SAME:
                raise MismatchError(
                    f"{file.source} says that a pixel of {slide} is {own:.5g} um, and by "
                    f"{origin.mpp_source or 'the slide'} it is {mpp * times:.5g}. One of the two is wrong: "
                    "leave the slide out of --slides, or correct it."
                )
            units.append(own)
        else:
            units.append(mpp * times)
    return Resolution(mpp, tuple(units), origin)


def _stated(file: FeatureFile) -> float | None:
    if file.slide_mpp is not None:
        check_slide_mpp(file.slide_mpp, f"{file.source}: its slide's resolution")
    return file.slide_mpp


def _slide_itself(
    slide: str, known_slides: Mapping[str, SlideSource], settings: FeatureSettings
) -> tuple[float, SlideOrigin] | None:
    """What the slide's file or the manifest says; else what the user says of all slides; None where nobody does."""
    source = source_of(slide, known_slides)
    if source is not None and source.slide_mpp is not None:
        return source.slide_mpp, SlideOrigin(shown_path(source.path), mpp_source="manifest")
    if source is not None:
        with open_slide(
            source.path,
            slide_mpp=settings.slide_mpp,
            mpp_from_objective=settings.mpp_from_objective,
            scan=source.scan,
        ) as opened:
            mpp_source = opened.calibration.source if opened.calibration else "slide"
            size = (opened.width_px, opened.height_px)
            fingerprint = ends_fingerprint(source.path)
            return opened.mpp, SlideOrigin(
                shown_path(source.path), fingerprint, size, opened.objective_power, mpp_source, scan=source.scan
            )
    return None if settings.slide_mpp is None else (settings.slide_mpp, SlideOrigin(mpp_source="--slide-mpp"))


def _without_slide(
    slide: str, files: Sequence[FeatureFile], stated: Sequence[float | None]
) -> tuple[float, SlideOrigin]:
    """The finest level 0 that the files speak of."""
    own = [(mpp, file.size_l0px) for mpp, file in zip(stated, files, strict=True) if mpp is not None]
    if any(mpp is None and file.unit == "l0px" for mpp, file in zip(stated, files, strict=True)):
        raise CalibrationError(
            f"the microns per pixel of {slide} are not known: its features only carry a nominal magnification. "
            "Name its slide file, a folder of slides or a manifest (--slides), or pass --slide-mpp if you know it."
        )
    mpp, size_l0px = min(own, default=(float("nan"), (0, 0)))
    return mpp, SlideOrigin(size_l0px=size_l0px, mpp_source="features file" if own else None)


def _common_size(slide: str, files: Sequence[FeatureFile]) -> tuple[int, int]:
    """The size of level 0 where only features say it.

    Raises:
        MismatchError: they do not agree, so that nobody knows of which one the resolution is.
    """
    sizes = {file.size_l0px for file in files if 0 not in file.size_l0px}
    if len(sizes) > 1:
        named = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise MismatchError(
            f"the features of {slide} come from slides of different sizes: {named} px. Name the slide's file "
            "(--slides), which tells how they belong together, or extract all from one."
        )
    return next(iter(sizes), (0, 0))


def _times(slide: str, file: FeatureFile, size_l0px: tuple[int, int], origin: SlideOrigin) -> float:
    """How many pixels of the slide's level 0 are one of the file's, along a side."""
    if 0 in size_l0px or 0 in file.size_l0px:
        return 1.0
    width, height = (own / other for own, other in zip(size_l0px, file.size_l0px, strict=True))
    # Sides are whole pixels, and pyramids round them up or down.
    uncertain = 2 * max(1, width) / min(size_l0px)
    if abs(width - height) > uncertain * max(width, height):
        where = origin.path or f"another file of {slide}"
        raise MismatchError(
            f"{where} has {size_l0px[0]} x {size_l0px[1]} px, and the features in {file.source} come from a slide of "
            f"{file.size_l0px[0]} x {file.size_l0px[1]} px. Name the slide that they were extracted from."
        )
    return 1.0 if abs(width - 1) <= uncertain else width
