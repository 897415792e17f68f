"""The true resolution of a slide whose features another tool has extracted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parfocal.embeddings.files import SlideOrigin
from parfocal.embeddings.foreign import FeatureFile
from parfocal.errors import CalibrationError, MismatchError
from parfocal.provenance import file_fingerprint
from parfocal.slides import SlideSource, check_slide_mpp, open_slide

__all__ = ["KnownSlide", "find_resolution", "source_of"]


@dataclass(frozen=True)
class KnownSlide:
    """A slide's resolution and what else is known of its file.

    Attributes:
        mpp: micrometres per level-0 pixel.
        source: where that came from.
        origin: what is known of the file.
    """

    mpp: float
    source: str
    origin: SlideOrigin


def source_of(slide: str, known_slides: Mapping[str, SlideSource]) -> SlideSource | None:
    """The slide's file among those that were named; by its name alone where that fits only one."""
    if slide in known_slides:
        return known_slides[slide]
    by_stem = [source for source in known_slides.values() if source.slide.rsplit("/", 1)[-1] == slide]
    return by_stem[0] if len(by_stem) == 1 else None


def find_resolution(
    slide: str,
    files: Sequence[FeatureFile],
    known_slides: Mapping[str, SlideSource],
    slide_mpp: float | None,
    mpp_from_objective: bool,
) -> KnownSlide:
    """Micrometres per level-0 pixel: from the slide or the manifest, else as given, else from parfocal's own files.

    Raises:
        CalibrationError: it is not known.
        MismatchError: the features come from a slide of another size.
        SlideError: the slide cannot be opened.
    """
    source = source_of(slide, known_slides)
    sizes = {file.size_l0px for file in files if 0 not in file.size_l0px}
    if len(sizes) > 1:
        named = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise MismatchError(
            f"the features of {slide} come from slides of different sizes: {named} px. Extract all from one slide."
        )
    size_l0px = next(iter(sizes), (0, 0))
    if source is not None and source.slide_mpp is not None:
        return KnownSlide(
            source.slide_mpp, "manifest", SlideOrigin(str(source.path), size_l0px=size_l0px, mpp_source="manifest")
        )
    if source is not None:
        with open_slide(
            source.path, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective, scan=source.scan
        ) as opened:
            found, calibration = (opened.width_px, opened.height_px), opened.calibration
            objective_power, mpp = opened.objective_power, opened.mpp
        if 0 not in size_l0px and found != size_l0px:
            raise MismatchError(
                f"{source.path} has {found[0]} x {found[1]} px, and the features of {slide} come from a slide of "
                f"{size_l0px[0]} x {size_l0px[1]} px. Name the slide that they were extracted from."
            )
        mpp_source = calibration.source if calibration else "slide"
        origin = SlideOrigin(str(source.path), file_fingerprint(source.path), found, objective_power, mpp_source)
        return KnownSlide(mpp, mpp_source, origin)
    if slide_mpp is not None:
        return KnownSlide(slide_mpp, "--slide-mpp", SlideOrigin(size_l0px=size_l0px, mpp_source="--slide-mpp"))
    stated = {file.slide_mpp for file in files}
    own = next(iter(stated))
    if len(stated) == 1 and own is not None:
        check_slide_mpp(own, f"{files[0].path}: slide_mpp")
        return KnownSlide(own, "features file", SlideOrigin(size_l0px=size_l0px, mpp_source="features file"))
    raise CalibrationError(
        f"the microns per pixel of {slide} are not known: its features only carry a nominal magnification. "
        "Name its slide file, a folder of slides or a manifest (--slides), or pass --slide-mpp if you know it."
    )
