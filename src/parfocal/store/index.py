"""Features that another tool has extracted at several magnifications become a set, without a copy."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parfocal.errors import ConfigError, MismatchError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.files import digest8
from parfocal.geometry import format_mpp, whole_ratio
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, update_failures
from parfocal.store.files import write_index
from parfocal.store.formats.format import FeatureFile, format_of
from parfocal.store.h5 import count_not_finite, file_digest
from parfocal.store.join import JoinedTiles, join_tiles
from parfocal.store.layout import create_set
from parfocal.store.set import EmbeddingSet, open_set
from parfocal.store.survey import TOLERANCE, FeatureSettings, FeatureSurvey, SurveyedSlide, survey_features
from parfocal.store.tokens import SlidePlaces
from parfocal.table import some_of

# Tiles with a little tissue are dropped at each magnification for itself, but nine of ten are hardly ever.
_FEWEST = 0.02
_MANY = 8


@dataclass(frozen=True)
class IndexedSlide:
    """What the index of one slide found.

    Attributes:
        slide: the slide's id.
        slide_mpp: its resolution, in micrometres per level-0 pixel.
        mpp_source: where that came from.
        realised_mpp: per magnification, the true resolution of its tiles.
        n_regions: how many regions it has.
        n_tiles: per magnification, how many tiles lie in a region.
        n_left_out: per magnification, how many tiles lie in none.
        misalignment_um: the largest distance of a tile from the place where it would nest exactly.
    """

    slide: str
    slide_mpp: float
    mpp_source: str
    realised_mpp: Mapping[float, float]
    n_regions: int
    n_tiles: Mapping[float, int]
    n_left_out: Mapping[float, int]
    misalignment_um: float


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
                    "slide_mpp": one.slide_mpp,
                    "mpp_source": one.mpp_source,
                    "realised_mpp": {format_mpp(mpp): value for mpp, value in one.realised_mpp.items()},
                    "regions": one.n_regions,
                    "tiles": {format_mpp(mpp): count for mpp, count in one.n_tiles.items()},
                    "left_out": {format_mpp(mpp): count for mpp, count in one.n_left_out.items()},
                    "misalignment_um": one.misalignment_um,
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
    """Make a set of features in TRIDENT's layout, by writing nothing but one index per slide.

    Tiles are joined by where they lie in micrometres: from their level-0 coordinates, their side in level-0 pixels,
    and the slide's true resolution. A nominal magnification is never used as a length: TRIDENT calls slides of 0.2325
    to 0.2738 um per pixel 40x alike. It only gives a magnification its name in the set, and only where the true one is
    within 5 % of it; a slide further away is refused. The regions of a slide are then as large as its coarsest tiles
    really are.

    What most slides have decides which folders are used, how wide rows are, and how many pixels a tile has; a slide
    that has something else is named and left out, as is one whose rows are not finite. The rows are read once for it.

    Args:
        sources: TRIDENT job folders, or one folder of HDF5 files for each magnification.
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
    per_side = _tiles_per_side(settings.region_um, max(survey.mpps) * survey.tile_px)
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
    rows = {
        "encoder": survey.encoder,
        "source": "features that another tool extracted, in TRIDENT's layout",
        "mpps": list(survey.mpps),
        "tile_px": survey.tile_px,
        "coarsest_tiles_per_side": per_side,
    }
    # Of a foreign encoder nothing is known but its name.
    digest = digest8({"encoder": survey.encoder, "source": "name only"})
    return create_set(
        store,
        f"{survey.encoder}-{digest8(rows)}",
        "tiles",
        region_um=max(survey.mpps) * survey.tile_px * per_side,
        dims=survey.dims,
        settings=rows,
        encoder_digests=dict.fromkeys(survey.mpps, digest),
        tile_px=survey.tile_px,
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
    paths = {mpp: file.path for mpp, file in zip(mpps, one.files, strict=True)}
    for mpp, true in realised.items():
        if not math.isclose(true, mpp, rel_tol=TOLERANCE):
            raise MismatchError(
                f"the tiles of {slide} in {paths[mpp].parent} have {true:.4g} um per pixel (the slide has "
                f"{one.mpp:g}, from {one.origin.mpp_source}), more than {TOLERANCE:.0%} from the set's {mpp:g}. "
                "Extract the slide at that resolution, or index it apart."
            )
    files = {mpp: format_of(path).read_places(path) for mpp, path in paths.items()}
    joined: JoinedTiles = join_tiles(files, one.mpp, per_side, max_misalignment)
    _refuse_few(joined, files)
    digests: dict[float | None, str] = {mpp: _checked_digest(path) for mpp, path in paths.items()}
    write_index(
        set_path,
        SlidePlaces(slide, joined.region_um, one.mpp, joined.region_xy_um, joined.region, joined.center_um),
        row=joined.row,
        files={mpp: os.path.relpath(file.path.resolve(), set_path.resolve()) for mpp, file in files.items()},
        digests=digests,
        origin=one.origin,
        realised_mpp={format_mpp(mpp): true for mpp, true in realised.items()},
        misalignment_um=joined.misalignment_um,
    )
    indexed = IndexedSlide(
        slide,
        one.mpp,
        str(one.origin.mpp_source),
        realised,
        len(joined.region_xy_um),
        {mpp: len(rows) for mpp, rows in joined.row.items()},
        joined.n_left_out,
        joined.misalignment_um,
    )
    return indexed, tuple(digests.values())


def _checked_digest(path: Path) -> str:
    """The digest of a file whose rows are all there, by which a later reader sees that it is still the same.

    Raises:
        NotFiniteError: a value is not finite.
        StoreError: rows hold nothing but zeros, as where an extraction was stopped; or the file cannot be read.
    """
    rows, digest = format_of(path).read_rows(path), file_digest(path)
    remedy = "Extract it again, or leave it out."
    bad = count_not_finite(rows)
    if bad:
        raise NotFiniteError(
            f"cannot use {path}: {bad} of its {len(rows)} rows hold values that are not finite. {remedy}"
        )
    empty = int((~rows.any(axis=1)).sum())
    if empty:
        raise StoreError(
            f"cannot use {path}: {empty} of its {len(rows)} rows hold nothing but zeros, as after an extraction that "
            f"was stopped. {remedy}"
        )
    return digest


def _refuse_few(joined: JoinedTiles, files: Mapping[float, FeatureFile]) -> None:
    """Refuse next to no tiles under the coarsest ones, as of a run that was stopped, or one vector of a whole slide."""
    coarsest = max(files)
    for mpp, file in files.items():
        n_tiles = len(joined.row[mpp])
        room = len(joined.row[coarsest]) * round(files[coarsest].tile_l0px / file.tile_l0px) ** 2
        if n_tiles < _FEWEST * room or n_tiles == 1 < room / _MANY:
            raise MismatchError(
                f"cannot use {file.path}: {n_tiles} of its tiles lie under the {len(joined.row[coarsest])} coarsest "
                f"ones, where {room} have room. Its extraction was not finished, or its rows are not of tiles. "
                "Extract it again, or leave it out."
            )
