"""What the features of a cohort are like before they are joined: what most slides have decides, the odd are named."""

import math
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

from parfocal.errors import MismatchError, ParfocalError, ParfocalWarning, StoreError
from parfocal.run.failures import FailedSlide, failure
from parfocal.slides import SlideSource, check_slide_mpp, find_slides
from parfocal.store.folders import FeatureFolder, find_feature_folders
from parfocal.store.formats.format import FeatureFile, FeatureFormat
from parfocal.store.grid import TileGrid, lay_grid
from parfocal.store.left_out import commonest
from parfocal.store.resolution import FeatureSettings, Resolution, find_resolution, source_of
from parfocal.table import some_of

Result = TypeVar("Result")


# How far the true resolution of a slide's tiles may lie from the set's magnification, as in reading slides.
TOLERANCE = 0.05
_CANNOT = "cannot index these features together"


@dataclass(frozen=True, eq=False)
class SurveyedSlide:
    """A slide whose features can be opened.

    Attributes:
        resolution: of the slide and of its files.
        files: coarse to fine, without the places of their tiles.
        formats: of the files.
        n_tiles: how many tiles each file has.
        stride_um: from one tile to the next, of each file.
    """

    resolution: Resolution
    files: tuple[FeatureFile, ...]
    formats: tuple[FeatureFormat, ...]
    n_tiles: tuple[int, ...]
    stride_um: tuple[float, ...]

    def grid(self, number: int, file: FeatureFile) -> TileGrid:
        """The tiles of one of its files, whose places have been read, on the lattice that was measured before."""
        unit_um = self.resolution.unit_um[number]
        return TileGrid(str(file.source), file.xy * unit_um, file.tile * unit_um, self.stride_um[number])

    @property
    def true_mpp(self) -> tuple[float, ...]:
        """The true resolution of its tiles, coarse to fine."""
        units = zip(self.files, self.resolution.unit_um, strict=True)
        return tuple(file.tile * unit_um / file.tile_px for file, unit_um in units)


@dataclass(frozen=True, eq=False)
class FeatureSurvey:
    """The slides that belong together.

    Attributes:
        mpps: the names of the magnifications, coarse to fine.
        tile_px: side of a tile, per magnification.
        dims: width of a row, per magnification.
        float16: whether rows are float16.
        encoder: the name of the encoder.
        formats: the names of the formats of their files.
        region_step: from one of the largest tiles to the next, as a share of their side; below 1 where they overlap.
        slides: those that can be joined, by id.
        trouble: the others.
    """

    mpps: tuple[float, ...]
    tile_px: Mapping[float, int]
    dims: Mapping[float, int]
    float16: bool
    encoder: str
    formats: tuple[str, ...]
    region_step: float
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
    ids = sorted({slide for folder in folders for slide in folder.sources})
    present = {
        slide: frozenset(number for number, folder in enumerate(folders) if slide in folder.sources) for slide in ids
    }
    counts = Counter(present.values())
    best = [kind for kind, count in counts.items() if count == max(counts.values())]
    chosen = max(best, key=len)
    if not all(kind <= chosen for kind in best):

        def named(kind: frozenset[int]) -> str:
            return f"features in {', '.join(str(folders[number]) for number in sorted(kind))}"

        commonest(present, named, _CANNOT)
    odd = {}
    for slide, kind in present.items():
        absent = ", ".join(str(folders[number]) for number in sorted(chosen - kind))
        beyond = ", ".join(str(folders[number]) for number in sorted(kind - chosen))
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
    folders = find_feature_folders(sources, settings.encoder, settings.format)
    slides = find_slides(list(settings.slides), ids=settings.ids) if settings.slides else ()
    known_slides = {source.slide: source for source in slides}
    trouble = Trouble(lambda slide: _source_for(slide, folders, known_slides))
    used, odd = _used_folders(folders)
    for folder in folders:
        if folder not in used:
            warnings.warn(
                f"{folder} is not used: most slides have no features there ({len(folder.sources)} have).",
                ParfocalWarning,
                stacklevel=3,
            )
    opened: dict[str, SurveyedSlide] = {}
    for slide in sorted({slide for folder in folders for slide in folder.sources}):
        if slide in odd:
            trouble.add(slide, odd[slide])
            continue
        one = trouble.attempt(slide, partial(_open, slide, used, known_slides, settings))
        if one is not None:
            opened[slide] = one
    trouble.refuse_if_alone(opened)
    kinds = {slide: tuple((file.tile_px, file.dim) for file in one.files) for slide, one in opened.items()}
    kind = commonest(kinds, _described, _CANNOT)
    alike = list(kinds.values()).count(kind)
    for slide, own in kinds.items():
        if own != kind:
            trouble.add(slide, _odd(slide, opened.pop(slide), kind, f"{alike} of {len(kinds)} slides"))
    mpps = _magnifications(opened)
    return FeatureSurvey(
        mpps,
        {mpp: tile_px for mpp, (tile_px, _) in zip(mpps, kind, strict=True)},
        {mpp: dim for mpp, (_, dim) in zip(mpps, kind, strict=True)},
        sum(all(file.float16 for file in one.files) for one in opened.values()) * 2 > len(opened),
        settings.encoder or next((folder.encoder for folder in used if folder.encoder), "features"),
        tuple(sorted({format.name for one in opened.values() for format in one.formats})),
        float(np.median([_region_step(one) for one in opened.values()])),
        opened,
        trouble,
    )


def _open(
    slide: str, folders: Sequence[FeatureFolder], known_slides: Mapping[str, SlideSource], settings: FeatureSettings
) -> SurveyedSlide:
    read = [(folder.read_places(slide), folder.format) for folder in folders]
    for file, _ in read:
        # A tool names a slide by its file, without the folders that an id may hold, and some with its ending.
        own = slide.rsplit("/", 1)[-1]
        if file.slide is not None and not {file.slide, file.slide.rpartition(".")[0]} & {slide, own}:
            raise MismatchError(
                f"{file.source} says that it holds the features of {file.slide}, not of {slide}. Give it its own name "
                "again, or leave it out."
            )
    resolution = find_resolution(slide, [file for file, _ in read], known_slides, settings)
    fineness = [file.tile_px / (file.tile * own_um) for (file, _), own_um in zip(read, resolution.unit_um, strict=True)]
    order = sorted(range(len(read)), key=fineness.__getitem__)
    files, formats = tuple(read[number][0] for number in order), tuple(read[number][1] for number in order)
    units = tuple(resolution.unit_um[number] for number in order)
    grids = [lay_grid(file, own_um) for file, own_um in zip(files, units, strict=True)]
    opened = SurveyedSlide(
        Resolution(resolution.mpp, units, resolution.origin),
        tuple(file.without_places() for file in files),
        formats,
        tuple(len(file.xy) for file in files),
        tuple(grid.stride_um for grid in grids),
    )
    for (coarse, coarser_mpp), (fine, finer_mpp) in pairwise(zip(files, opened.true_mpp, strict=True)):
        if coarser_mpp == finer_mpp:
            raise MismatchError(
                f"{coarse.source} and {fine.source} are one magnification: tiles of {finer_mpp:.4g} um per pixel both."
            )
    return opened


def _largest(one: SurveyedSlide) -> int:
    """Which of its files has the largest tiles."""
    return max(range(len(one.files)), key=lambda number: one.true_mpp[number] * one.files[number].tile_px)


def _region_step(one: SurveyedSlide) -> float:
    """From one of its largest tiles to the next, as a share of their side; 1 where they do not overlap."""
    number = _largest(one)
    grid = one.grid(number, one.files[number])
    return grid.stride_um / grid.side_um if grid.overlaps else 1.0


_Kind = tuple[tuple[int, int], ...]


def _described(kind: _Kind) -> str:
    sides, widths = zip(*kind, strict=True)
    return f"tiles of {_several(sides)} px and rows of width {_several(widths)}"


def _several(values: Sequence[int]) -> str:
    return ", ".join(map(str, values if len(set(values)) > 1 else values[:1]))


def _odd(slide: str, one: SurveyedSlide, kind: _Kind, alike: str) -> MismatchError:
    for file, (tile_px, dim) in zip(one.files, kind, strict=True):
        if file.tile_px != tile_px:
            return MismatchError(
                f"the tiles of {slide} have {file.tile_px} px in {file.path.parent}, and {alike} have {tile_px} px. "
                "Extract it as the others, or index it apart."
            )
        if file.dim != dim:
            return MismatchError(
                f"{file.source} has rows of width {file.dim}, and {alike} have {dim}. "
                "Extract it with the encoder of the others, or index it apart."
            )
    raise AssertionError("it is like the others")


def _magnifications(opened: Mapping[str, SurveyedSlide]) -> tuple[float, ...]:
    """The names of the set's magnifications, coarse to fine.

    The nominal value where the typical slide is within the tolerance of it, so that sets of several cohorts agree (of
    files that do not say one, the nearest of 0.25, 0.5, 1, 2, 4, ...); the median of the true ones elsewhere.
    """
    typical = _typical({slide: one.true_mpp for slide, one in opened.items()})
    names = []
    for which, true in enumerate(typical):
        powers = Counter(one.files[which].target_magnification for one in opened.values())
        power = max(powers, key=lambda power: (powers[power], power or 0.0))
        nominal = 10 / power if power and power > 0 else 2.0 ** round(math.log2(true))
        names.append(nominal if abs(true / nominal - 1) <= TOLERANCE else float(f"{true:.3g}"))
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
    return found or SlideSource(slide, next(one.sources[slide].path for one in folders if slide in one.sources))
