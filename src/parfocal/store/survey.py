"""What the features of a cohort are like before they are joined: what most slides have decides, the odd are named.

Also the true resolution of a slide whose features another tool has extracted.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from parfocal.config import Settings
from parfocal.errors import CalibrationError, MismatchError, ParfocalError, ParfocalWarning, StoreError
from parfocal.files import file_fingerprint
from parfocal.run.failures import FailedSlide, failure
from parfocal.slides import SlideIds, SlideSource, check_slide_mpp, find_slides, open_slide
from parfocal.store.files import SlideOrigin
from parfocal.store.folders import FeatureFolder, find_feature_folders
from parfocal.store.formats.format import FeatureFile, format_of
from parfocal.store.left_out import commonest
from parfocal.table import some_of

Result = TypeVar("Result")


class FeatureSettings(Settings):
    """How features that another tool has extracted are indexed."""

    slides: tuple[Path, ...] = Field(
        (), description="The slide files, folders of them or manifests, for their true resolution."
    )
    slide_mpp: float | None = Field(
        None, description="Micrometres per pixel of every slide whose file is not among the slides."
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
    region_um: float | None = Field(
        None, description="Side of a region, in micrometres; a whole number of coarsest tiles, one by default."
    )
    max_misalignment: float = Field(
        0.05, description="How far a tile may lie from where it would nest, as a share of the finest tile's side."
    )


def source_of(slide: str, known_slides: Mapping[str, SlideSource]) -> SlideSource | None:
    """The slide's file among those that were named; by its name alone where that fits only one."""
    if slide in known_slides:
        return known_slides[slide]
    by_stem = [source for source in known_slides.values() if source.slide.rsplit("/", 1)[-1] == slide]
    return by_stem[0] if len(by_stem) == 1 else None


def find_resolution(
    slide: str, files: Sequence[FeatureFile], known_slides: Mapping[str, SlideSource], settings: FeatureSettings
) -> tuple[float, SlideOrigin]:
    """Micrometres per level-0 pixel: from the slide or the manifest, else as given, else from parfocal's own files.

    Beside it what is known of the slide's file, and so where the number came from.

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
        return source.slide_mpp, SlideOrigin(str(source.path), size_l0px=size_l0px, mpp_source="manifest")
    if source is not None:
        with open_slide(
            source.path,
            slide_mpp=settings.slide_mpp,
            mpp_from_objective=settings.mpp_from_objective,
            scan=source.scan,
        ) as opened:
            found, calibration = (opened.width_px, opened.height_px), opened.calibration
            objective_power, mpp = opened.objective_power, opened.mpp
        if 0 not in size_l0px and found != size_l0px:
            raise MismatchError(
                f"{source.path} has {found[0]} x {found[1]} px, and the features of {slide} come from a slide of "
                f"{size_l0px[0]} x {size_l0px[1]} px. Name the slide that they were extracted from."
            )
        mpp_source = calibration.source if calibration else "slide"
        return mpp, SlideOrigin(str(source.path), file_fingerprint(source.path), found, objective_power, mpp_source)
    if settings.slide_mpp is not None:
        return settings.slide_mpp, SlideOrigin(size_l0px=size_l0px, mpp_source="--slide-mpp")
    stated = {file.slide_mpp for file in files}
    own = next(iter(stated))
    if len(stated) == 1 and own is not None:
        check_slide_mpp(own, f"{files[0].path}: slide_mpp")
        return own, SlideOrigin(size_l0px=size_l0px, mpp_source="features file")
    raise CalibrationError(
        f"the microns per pixel of {slide} are not known: its features only carry a nominal magnification. "
        "Name its slide file, a folder of slides or a manifest (--slides), or pass --slide-mpp if you know it."
    )


# How far the true resolution of a slide's tiles may lie from the set's magnification, as in reading slides.
TOLERANCE = 0.05
_CANNOT = "cannot index these features together"


@dataclass(frozen=True, eq=False)
class SurveyedSlide:
    """A slide whose features can be opened.

    Attributes:
        mpp: its micrometres per level-0 pixel.
        origin: what is known of its file.
        files: coarse to fine, without the places of their tiles.
        n_tiles: how many tiles each file has.
    """

    mpp: float
    origin: SlideOrigin
    files: tuple[FeatureFile, ...]
    n_tiles: tuple[int, ...]

    @property
    def true_mpp(self) -> tuple[float, ...]:
        """The true resolution of its tiles, coarse to fine."""
        return tuple(file.tile_l0px * self.mpp / file.tile_px for file in self.files)


@dataclass(frozen=True, eq=False)
class FeatureSurvey:
    """The slides that belong together.

    Attributes:
        mpps: the names of the magnifications, coarse to fine.
        tile_px: side of a tile.
        dims: width of a row, per magnification.
        float16: whether rows are float16.
        encoder: the name of the encoder.
        slides: those that can be joined, by id.
        trouble: the others.
    """

    mpps: tuple[float, ...]
    tile_px: int
    dims: Mapping[float, int]
    float16: bool
    encoder: str
    slides: Mapping[str, SurveyedSlide]
    trouble: "Trouble"


class Trouble:
    """The slides that cannot be used, each with its reason; whatever is raised about one is not raised on."""

    def __init__(self, sources: Callable[[str], SlideSource]) -> None:
        """Begin with none; `sources` says which file of a slide the table of failures names."""
        self.failed: list[FailedSlide] = []
        self._sources = sources
        self._first: Exception | None = None

    def attempt(self, slide: str, job: Callable[[], Result]) -> Result | None:
        """What a job gives; None where it fails, whatever a library raises on the files of one slide."""
        try:
            return job()
        except Exception as error:
            self.add(slide, error)
            return None

    def add(self, slide: str, error: Exception) -> None:
        """This slide cannot be used."""
        self._first = self._first or error
        self.failed.append(failure(self._sources(slide), error))

    def refuse_if_alone(self, usable: Mapping[str, object] | Sequence[object]) -> None:
        """Raise the first reason where there is no slide without one."""
        if usable:
            return
        if self._first is None:
            raise StoreError("there is nothing to index.")
        error = self._first
        if not isinstance(error, ParfocalError):
            error = StoreError(f"cannot index {self.failed[0].slide}: {self.failed[0].error}: {self.failed[0].message}")
        if len(self.failed) > 1:
            error.add_note(f"and {len(self.failed) - 1} more slides cannot be indexed")
        raise error from self._first


def _used_folders(folders: Sequence[FeatureFolder]) -> tuple[list[FeatureFolder], dict[str, MismatchError]]:
    """The folders that most slides have features in, and the slides that do not have just these.

    Of two choices with as many slides the one with more magnifications is taken: it is what was asked for.

    Raises:
        MismatchError: as many slides are in some folders as are in others.
    """
    ids = sorted({slide for folder in folders for slide in folder.files})
    present = {
        slide: frozenset(number for number, folder in enumerate(folders) if slide in folder.files) for slide in ids
    }
    counts = Counter(present.values())
    best = [kind for kind, count in counts.items() if count == max(counts.values())]
    chosen = max(best, key=len)
    if not all(kind <= chosen for kind in best):

        def named(kind: frozenset[int]) -> str:
            return f"features in {', '.join(str(folders[number].path) for number in sorted(kind))}"

        commonest(present, named, _CANNOT)
    odd = {}
    for slide, kind in present.items():
        absent = ", ".join(str(folders[number].path) for number in sorted(chosen - kind))
        beyond = ", ".join(str(folders[number].path) for number in sorted(kind - chosen))
        if absent:
            odd[slide] = MismatchError(f"{slide} has no features in {absent}. Extract it there, or leave it out.")
        elif beyond:
            odd[slide] = MismatchError(
                f"{slide} has features in {beyond}, where {counts[chosen]} of {len(ids)} slides have none. "
                "Extract the others there, or index it apart."
            )
    return [folders[number] for number in sorted(chosen)], odd


def survey_features(sources: Sequence[Path], settings: FeatureSettings) -> FeatureSurvey:
    """Open the features of every slide, rows excepted, and keep the slides that are alike; see `index_features`.

    Raises:
        StoreError: there are no features.
        ConfigError: no slide has such a `slide_mpp`, or `slides` are not there.
        ParfocalError: no slide can be used, or two kinds of slides are equally frequent.
    """
    check_slide_mpp(settings.slide_mpp)
    folders = find_feature_folders(sources, settings.encoder)
    slides = find_slides(list(settings.slides), ids=settings.ids) if settings.slides else ()
    known_slides = {source.slide: source for source in slides}
    trouble = Trouble(lambda slide: _source_for(slide, folders, known_slides))
    used, odd = _used_folders(folders)
    for folder in folders:
        if folder not in used:
            warnings.warn(
                f"{folder.path} is not used: most slides have no features there ({len(folder.files)} have).",
                ParfocalWarning,
                stacklevel=3,
            )
    opened: dict[str, SurveyedSlide] = {}
    for slide in sorted({slide for folder in folders for slide in folder.files}):
        if slide in odd:
            trouble.add(slide, odd[slide])
            continue
        one = trouble.attempt(slide, partial(_open, slide, used, known_slides, settings))
        if one is not None:
            opened[slide] = one
    trouble.refuse_if_alone(opened)
    kinds = {slide: (one.files[0].tile_px, *(file.dim for file in one.files)) for slide, one in opened.items()}
    tile_px, *dims = kind = commonest(kinds, _described, _CANNOT)
    alike = list(kinds.values()).count(kind)
    for slide, own in kinds.items():
        if own != kind:
            trouble.add(slide, _odd(slide, opened.pop(slide), kind, f"{alike} of {len(kinds)} slides"))
    mpps = _magnifications(opened)
    return FeatureSurvey(
        mpps,
        tile_px,
        dict(zip(mpps, dims, strict=True)),
        sum(all(file.float16 for file in one.files) for one in opened.values()) * 2 > len(opened),
        settings.encoder or next((folder.encoder for folder in used if folder.encoder), "features"),
        opened,
        trouble,
    )


def _open(
    slide: str, folders: Sequence[FeatureFolder], known_slides: Mapping[str, SlideSource], settings: FeatureSettings
) -> SurveyedSlide:
    files = [format_of(folder.files[slide]).read_places(folder.files[slide]) for folder in folders]
    for file in files:
        # A tool names a slide by its file, without the folders that an id may hold, and some with its ending.
        own = slide.rsplit("/", 1)[-1]
        if file.slide is not None and not {file.slide, file.slide.rpartition(".")[0]} & {slide, own}:
            raise MismatchError(
                f"{file.path} says that it holds the features of {file.slide}, not of {slide}. Give it its own name "
                "again, or leave it out."
            )
    if len({file.tile_px for file in files}) > 1:
        sides = ", ".join(f"{file.tile_px} px in {file.path.parent}" for file in files)
        raise MismatchError(f"the tiles of {slide} have different sides: {sides}. Extract all with one.")
    files.sort(key=lambda file: file.tile_l0px, reverse=True)
    for coarse, fine in pairwise(files):
        if coarse.tile_l0px == fine.tile_l0px:
            raise MismatchError(
                f"{coarse.path} and {fine.path} are one magnification: tiles of {fine.tile_l0px:g} level-0 px both."
            )
    mpp, origin = find_resolution(slide, files, known_slides, settings)
    n_tiles = tuple(len(file.xy_l0px) for file in files)
    return SurveyedSlide(mpp, origin, tuple(file.without_places() for file in files), n_tiles)


def _described(kind: tuple[int, ...]) -> str:
    tile_px, *dims = kind
    widths = f"width {dims[0]}" if len(set(dims)) == 1 else f"widths {', '.join(map(str, dims))}"
    return f"tiles of {tile_px} px and rows of {widths}"


def _odd(slide: str, one: SurveyedSlide, kind: tuple[int, ...], alike: str) -> MismatchError:
    tile_px, *dims = kind
    if one.files[0].tile_px != tile_px:
        what = f"the tiles of {slide} have {one.files[0].tile_px} px in {one.files[0].path.parent}"
        return MismatchError(f"{what}, and {alike} have {tile_px} px. Extract it as the others, or index it apart.")
    file, dim = next((file, dim) for file, dim in zip(one.files, dims, strict=True) if file.dim != dim)
    return MismatchError(
        f"{file.path} has rows of width {file.dim}, and {alike} have {dim}. "
        "Extract it with the encoder of the others, or index it apart."
    )


def _magnifications(opened: Mapping[str, SurveyedSlide]) -> tuple[float, ...]:
    """The names of the set's magnifications, coarse to fine.

    The nominal value where the typical slide is within the tolerance of it, so that sets of several cohorts agree;
    the median of the true ones elsewhere.
    """
    typical = _typical({slide: one.true_mpp for slide, one in opened.items()})
    names = []
    for which, true in enumerate(typical):
        powers = Counter(one.files[which].target_magnification for one in opened.values())
        power = max(powers, key=lambda power: (powers[power], power or 0.0))
        nominal = 10 / power if power and power > 0 else None
        close = nominal is not None and abs(true / nominal - 1) <= TOLERANCE
        names.append(nominal if nominal is not None and close else float(f"{true:.3g}"))
    if len(set(names)) < len(names):
        raise MismatchError(
            f"{_CANNOT}: two of their magnifications are nearly one ({', '.join(f'{mpp:.4g}' for mpp in typical)} um "
            "per pixel). Name only one of their folders."
        )
    return tuple(names)


def _typical(true_mpp: Mapping[str, tuple[float, ...]]) -> Float64[np.ndarray, " magnification"]:
    """The median of the slides that most slides are close to, so that neither the first nor an odd one decides.

    Raises:
        MismatchError: there are two such groups.
    """
    slides, values = list(true_mpp), np.array(list(true_mpp.values()))
    close = [np.flatnonzero((np.abs(values / own - 1) <= TOLERANCE).all(axis=1)) for own in values]
    most = max(map(len, close))
    best = sorted((number for number in range(len(slides)) if len(close[number]) == most), key=lambda n: values[n, 0])
    middle = best[len(best) // 2]
    rival = next((number for number in best if number not in close[middle]), None)
    if rival is not None:
        groups = "; ".join(
            f"{most} have {', '.join(f'{mpp:.4g}' for mpp in values[number])} "
            f"({some_of([slides[other] for other in close[number]])})"
            for number in (rival, middle)
        )
        raise MismatchError(
            f"{_CANNOT}: as many slides have tiles of one resolution (um per pixel) as of another. {groups}. "
            "Index each in a store of its own."
        )
    typical: Float64[np.ndarray, " magnification"] = np.median(values[close[middle]], axis=0)
    return typical


def _source_for(slide: str, folders: Sequence[FeatureFolder], known_slides: Mapping[str, SlideSource]) -> SlideSource:
    """What the table of failures names: the slide's file where it is known, else a file of its features."""
    found = source_of(slide, known_slides)
    return found or SlideSource(slide, next(folder.files[slide] for folder in folders if slide in folder.files))
