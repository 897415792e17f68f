"""Features that another tool has extracted at several magnifications become a set, without a copy."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from parfocal.errors import ConfigError, MismatchError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.files import digest8
from parfocal.geometry import format_mpp, whole_ratio
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, update_failures
from parfocal.store.files import ForeignRows, write_index
from parfocal.store.formats.format import FeatureFormat, FeatureSource
from parfocal.store.grid import TileGrid
from parfocal.store.h5 import count_not_finite, tree_digest
from parfocal.store.join import JoinedTiles, join_tiles
from parfocal.store.layout import create_set
from parfocal.store.resolution import FeatureSettings
from parfocal.store.set import EmbeddingSet, open_set
from parfocal.store.survey import TOLERANCE, FeatureSurvey, SurveyedSlide, survey_features
from parfocal.store.tokens import SlidePlaces
from parfocal.table import some_of

# Tiles with a little tissue are dropped at each magnification for itself, but nine of ten are hardly ever.
_FEWEST = 0.02
_MANY = 8
_MOST = 0.5
# Copies of a slide are halved once or more often.
_COPIES = (2.0, 0.5, 4.0, 0.25)


@dataclass(frozen=True)
class IndexedSlide:
    """What the index of one slide found.

    Attributes:
        slide: the slide's id.
        slide_mpp: its resolution, in micrometres per level-0 pixel.
        mpp_source: where that came from.
        realised_mpp: per magnification, the true resolution of its tiles.
        n_regions: how many regions it has.
        n_tiles: per magnification, how many tiles lie in a region; one that several regions share counts once.
        n_left_out: per magnification, how many tiles lie in none.
        misalignment_um: per magnification, the largest distance of a tile from where it would nest exactly.
        remarks: what a reader of the numbers should know: why tiles do not nest, what a layout did not say.
    """

    slide: str
    slide_mpp: float
    mpp_source: str
    realised_mpp: Mapping[float, float]
    n_regions: int
    n_tiles: Mapping[float, int]
    n_left_out: Mapping[float, int]
    misalignment_um: Mapping[float, float]
    remarks: tuple[str, ...] = ()

    @property
    def largest_misalignment_um(self) -> float:
        """Of all magnifications."""
        return max(self.misalignment_um.values(), default=0.0)


@dataclass(frozen=True)
class IndexSummary:
    """What came of indexing: the set, its slides, and those that could not be joined."""

    embeddings: EmbeddingSet
    slides: tuple[IndexedSlide, ...]
    failed: tuple[FailedSlide, ...]

    @property
    def exit_status(self) -> int:
        """0 when all slides are in the set, 3 when some are."""
        return 3 if self.failed else 0

    def describe(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "set": str(self.embeddings.path),
            "slides": [
                {
                    "slide": one.slide,
                    "slide_mpp": None if math.isnan(one.slide_mpp) else one.slide_mpp,
                    "mpp_source": one.mpp_source,
                    "realised_mpp": {format_mpp(mpp): value for mpp, value in one.realised_mpp.items()},
                    "regions": one.n_regions,
                    "tiles": {format_mpp(mpp): count for mpp, count in one.n_tiles.items()},
                    "left_out": {format_mpp(mpp): count for mpp, count in one.n_left_out.items()},
                    "misalignment_um": {format_mpp(mpp): off for mpp, off in one.misalignment_um.items()},
                    "remarks": list(one.remarks),
                }
                for one in self.slides
            ],
            "failed": [{"slide": one.slide, "error": one.error, "message": one.message} for one in self.failed],
        }


def index_features(
    sources: Sequence[Path],
    store: Path,
    settings: FeatureSettings | None = None,
    *,
    on_event: OnEvent | None = None,
    **single: Any,
) -> IndexSummary:
    """Make a set of features that other tools have extracted, by writing nothing but one index per slide.

    Tiles are joined by where they lie in micrometres: from their level-0 coordinates, their side in level-0 pixels,
    and the slide's true resolution. A nominal magnification is never used as a length: TRIDENT calls slides of 0.2325
    to 0.2738 um per pixel 40x alike. It only gives a magnification its name in the set, and only where the true one is
    within 5 % of it; a slide further away is refused. The regions of a slide are then as large as its largest tiles
    really are, and lie where those lie. A smaller tile belongs to each region that holds its centre, wherever its own
    grid starts; how far it lies from where it would nest is measured and said.

    What most slides have decides which folders are used, how wide rows are, and how many pixels a tile has; a slide
    that has something else is named and left out, as is one whose rows are not finite. The rows are read once for it.

    Args:
        sources: the folders that a tool has written to, or one folder of files for each magnification.
        store: the folder to write to; it holds relative paths to the features, which stay where they are.
        settings: where the resolution of slides comes from, which encoder's features are meant, and what nests.
        on_event: told how many `slides` are done.
        **single: fields of `settings` by name, where it is not given itself.

    Raises:
        StoreError: there are no features, or no slide's are in the layout.
        CalibrationError: no slide's resolution is known.
        MismatchError: no slide's magnifications nest, or half of the slides are of one kind and half of another.
        ConfigError: `region_um` is no whole number of coarsest tiles, or no slide has such a `slide_mpp`.
        TypeError: `settings` is given, and single ones beside it.
    """
    if settings is not None and single:
        raise TypeError(f"settings say {', '.join(single)} already; name it there.")
    settings = settings or FeatureSettings(**single)
    survey = survey_features(sources, settings)
    per_side = _tiles_per_side(settings.region_um, _largest_um(survey))
    set_path, trouble = _create(store, survey, per_side), survey.trouble
    indexed: list[IndexedSlide] = []
    copies: dict[tuple[str, ...], list[str]] = {}
    tell = on_event or warn_of
    for number, (slide, one) in enumerate(survey.slides.items()):
        tell(Progress("slides", number, len(survey.slides), slide))
        work = partial(_index_slide, set_path, slide, one, survey.mpps, per_side, settings.max_misalignment)
        done = trouble.attempt(slide, work)
        if done is not None:
            indexed.append(done[0])
            copies.setdefault(done[1], []).append(slide)
    trouble.refuse_if_alone(indexed)
    alike = [" and ".join(slides) for slides in copies.values() if len(slides) > 1]
    if alike:
        warnings.warn(
            f"{len(alike)} groups of slides have the same features, byte for byte: {some_of(alike)}. See whether "
            "each slide has its own.",
            ParfocalWarning,
            stacklevel=2,
        )
    failed = sorted(trouble.failed, key=lambda one: one.slide)
    update_failures(store, set_path.name, failed, [one.slide for one in indexed])
    return IndexSummary(open_set(set_path), tuple(indexed), tuple(failed))


def _largest_um(survey: FeatureSurvey) -> float:
    """The nominal side of the largest tiles."""
    return max(mpp * tile_px for mpp, tile_px in survey.tile_px.items())


def _tiles_per_side(region_um: float | None, coarsest_um: float) -> int:
    if region_um is None:
        return 1
    # The set's magnification is nominal, the side that a user names is too.
    per_side = whole_ratio(region_um, coarsest_um, tolerance=TOLERANCE)
    if per_side is None:
        raise ConfigError(
            f"region_um={region_um:g} is not a whole number of the coarsest tiles ({coarsest_um:g} um). "
            f"Use a multiple of {coarsest_um:g} um."
        )
    return per_side


def _create(store: Path, survey: FeatureSurvey, per_side: int) -> Path:
    sides = survey.tile_px
    layout = "TRIDENT's layout" if survey.formats == ("trident",) else f"the layout {' and '.join(survey.formats)}"
    rows: dict[str, Any] = {
        "encoder": survey.encoder,
        "source": f"features that another tool extracted, in {layout}",
        "mpps": list(survey.mpps),
        "tile_px": sides[min(survey.mpps)] if len(set(sides.values())) == 1 else list(sides.values()),
        "coarsest_tiles_per_side": per_side,
    }
    if survey.region_step < 1:
        rows["grid"] = {"stride_um": float(f"{survey.region_step * _largest_um(survey):.4g}")}
    # Of a foreign encoder nothing is known but its name.
    digest = digest8({"encoder": survey.encoder, "source": "name only"})
    return create_set(
        store,
        f"{survey.encoder}-{digest8(rows)}",
        "tiles",
        region_um=_largest_um(survey) * per_side,
        dims=survey.dims,
        settings=rows,
        encoder_digests=dict.fromkeys(survey.mpps, digest),
        tile_px=sides,
        dtype="float16" if survey.float16 else "float32",
    )


def _index_slide(
    set_path: Path,
    slide: str,
    one: SurveyedSlide,
    mpps: Sequence[float],
    per_side: int,
    max_misalignment: float,
) -> tuple[IndexedSlide, tuple[str, ...]]:
    """The index of a slide, written, and the digests of its files."""
    realised = dict(zip(mpps, one.true_mpp, strict=True))
    sources = {mpp: file.source for mpp, file in zip(mpps, one.files, strict=True)}
    formats = dict(zip(mpps, one.formats, strict=True))
    mpp_source = one.resolution.origin.mpp_source
    for mpp, true in realised.items():
        if not math.isclose(true, mpp, rel_tol=TOLERANCE):
            raise MismatchError(
                f"the tiles of {slide} in {sources[mpp].path.parent} have {true:.4g} um per pixel (the slide has "
                f"{one.resolution.mpp:g}, from {mpp_source}), more than {TOLERANCE:.0%} from the set's {mpp:g}. "
                "Extract the slide at that resolution, or index it apart."
            )
    files = {mpp: formats[mpp].read_places(source) for mpp, source in sources.items()}
    grids = {mpp: one.grid(number, file) for number, (mpp, file) in enumerate(files.items())}
    joined = join_tiles(grids, per_side, max_misalignment)
    _refuse_few(joined, grids)
    for mpp, source in sources.items():
        _check_rows(formats[mpp], source)
    # A file may hold several magnifications, and by its digest a later reader sees that it is still the same.
    known = {path: tree_digest(path) for path in {source.path for source in sources.values()}}
    digests: dict[float | None, str] = {mpp: known[source.path] for mpp, source in sources.items()}
    write_index(
        set_path,
        SlidePlaces(slide, joined.region_um, one.resolution.mpp, joined.region_xy_um, joined.region, joined.center_um),
        row=joined.row,
        foreign={
            mpp: ForeignRows(os.path.relpath(source.path.resolve(), set_path.resolve()), source.part, formats[mpp].name)
            for mpp, source in sources.items()
        },
        digests=digests,
        origin=one.resolution.origin,
        realised_mpp={format_mpp(mpp): true for mpp, true in realised.items()},
        misalignment_um={format_mpp(mpp): off for mpp, off in joined.misalignment_um.items()},
    )
    remarks = [f"the tiles of {format_mpp(mpp)} mpp do not nest: {why}" for mpp, why in joined.reasons.items()]
    remarks += dict.fromkeys(file.remark for file in files.values() if file.remark)
    indexed = IndexedSlide(
        slide,
        one.resolution.mpp,
        mpp_source or "not known",
        realised,
        len(joined.region_xy_um),
        {mpp: len(np.unique(rows)) for mpp, rows in joined.row.items()},
        joined.n_left_out,
        joined.misalignment_um,
        tuple(remarks),
    )
    return indexed, tuple(digests.values())


def _check_rows(format: FeatureFormat, source: FeatureSource) -> None:
    """Refuse a file whose rows are not all there.

    Raises:
        NotFiniteError: a value is not finite.
        StoreError: rows hold nothing but zeros, as where an extraction was stopped; or the file cannot be read.
    """
    rows = format.read_rows(source)
    remedy = "Extract it again, or leave it out."
    bad = count_not_finite(rows)
    if bad:
        raise NotFiniteError(
            f"cannot use {source}: {bad} of its {len(rows)} rows hold values that are not finite. {remedy}"
        )
    empty = int((~rows.any(axis=1)).sum())
    if empty:
        raise StoreError(
            f"cannot use {source}: {empty} of its {len(rows)} rows hold nothing but zeros, as after an extraction that "
            f"was stopped. {remedy}"
        )


def _refuse_few(joined: JoinedTiles, grids: Mapping[float, TileGrid]) -> None:
    """Refuse next to no tiles in the regions, as of a run that was stopped, or one vector of a whole slide.

    Where the tiles would lie in regions if level 0 were another, that is said.
    """
    n_regions = len(joined.region_xy_um)
    for mpp, grid in grids.items():
        n_tiles = len(joined.row[mpp])
        room = n_regions * max(1, round((joined.region_um / grid.side_um) ** 2))
        if n_tiles >= _FEWEST * room and not n_tiles == 1 < room / _MANY:
            continue
        what = f"{n_tiles} of its {len(grid.xy_um)} tiles lie in the {n_regions} regions, where {room} have room"
        times = _scale_that_fits(joined, grid)
        if times is not None:
            raise MismatchError(
                f"cannot use {grid.name}: {what}; most would if its places were {times:g} times as far "
                "apart, so it was extracted from a copy of the slide with another level 0. Name the slide's file "
                "(--slides) where the features say the size of level 0, or extract all from one."
            )
        raise MismatchError(
            f"cannot use {grid.name}: {what}. Its extraction was not finished, its rows are not of tiles, or it is of "
            "another slide. Extract it again, or leave it out."
        )


def _scale_that_fits(joined: JoinedTiles, grid: TileGrid) -> float | None:
    """By what the places of a grid would have to be multiplied for most tiles to lie in regions; None where nothing."""
    if len(grid.xy_um) < _MANY or not len(joined.region_xy_um):
        return None
    middles = cKDTree(joined.region_xy_um + joined.region_um / 2)
    for times in _COPIES:
        away = middles.query((grid.xy_um + grid.side_um / 2) * times, p=np.inf)[0]
        if np.mean(away <= joined.region_um / 2) > _MOST:
            return times
    return None
