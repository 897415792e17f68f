"""Features that another tool has extracted at several magnifications become a set, without a copy."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from parfocal.embeddings.events import FailedSlide
from parfocal.embeddings.files import SlideOrigin, write_index
from parfocal.embeddings.foreign import FeatureFile, FeatureFolder, find_feature_folders, read_feature_file
from parfocal.embeddings.h5 import file_rows_digest
from parfocal.embeddings.job import failure
from parfocal.embeddings.join import JoinedTiles, join_tiles
from parfocal.embeddings.records import update_failures
from parfocal.embeddings.sets import create_set
from parfocal.embeddings.store import EmbeddingSet, open_set
from parfocal.errors import CalibrationError, ConfigError, MismatchError, ParfocalError, StoreError
from parfocal.geometry import format_mpp, whole_ratio
from parfocal.provenance import digest8, file_fingerprint
from parfocal.slides import SlideSource, check_slide_mpp, find_slides, open_slide

__all__ = ["IndexSummary", "IndexedSlide", "index_features"]

# How far the true resolution of a slide's tiles may lie from the set's magnification, as in reading slides.
_TOLERANCE = 0.05


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


@dataclass(frozen=True)
class _Known:
    """A slide's resolution and what else is known of its file."""

    mpp: float
    source: str
    origin: SlideOrigin


def index_features(
    sources: Sequence[Path],
    store: Path,
    *,
    slides: Sequence[Path] = (),
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    encoder: str | None = None,
    region_um: float | None = None,
    max_misalignment: float = 0.05,
) -> IndexSummary:
    """Make a set of features in TRIDENT's layout, by writing nothing but one index per slide.

    Tiles are joined by where they lie in micrometres: from their level-0 coordinates, their side in level-0 pixels,
    and the slide's true resolution. A nominal magnification is never used as a length: TRIDENT calls slides of 0.2325
    to 0.2738 um per pixel 40x alike. It only gives a magnification its name in the set, and only where the true one is
    within 5 % of it; a slide further away is refused. The regions of a slide are then as large as its coarsest tiles
    really are.

    Args:
        sources: TRIDENT job folders, or one folder of HDF5 files for each magnification.
        store: the folder to write to; it holds relative paths to the features, which stay where they are.
        slides: the slide files, folders of them or manifests, for their true resolution.
        slide_mpp: the resolution of every slide that `slides` does not hold.
        mpp_from_objective: take 10 um / power where a slide has an objective power and no resolution.
        encoder: name of the encoder; needed where a job folder holds the features of several, or where the folders'
            names do not say it.
        region_um: side of a region; a whole number of coarsest tiles, one when None.
        max_misalignment: how far a tile may lie from where it would nest, as a share of the finest tile's side.

    Raises:
        StoreError: there are no features, or they are not in the layout.
        CalibrationError: no slide's resolution is known.
        MismatchError: no slide's magnifications nest.
        ConfigError: `region_um` is no whole number of coarsest tiles, or no slide has such a `slide_mpp`.
    """
    check_slide_mpp(slide_mpp)
    folders = find_feature_folders(sources, encoder)
    known_slides = {source.slide: source for source in find_slides(list(slides))} if slides else {}
    ids = sorted({slide for folder in folders for slide in folder.files})
    opened: dict[str, tuple[_Known, list[FeatureFile]]] = {}
    failed: list[FailedSlide] = []
    first_error: ParfocalError | None = None
    for slide in ids:
        try:
            opened[slide] = _open_slide_features(slide, folders, known_slides, slide_mpp, mpp_from_objective)
        except ParfocalError as error:
            first_error = first_error or error
            failed.append(failure(_source(slide, folders, known_slides), error))
    if not opened:
        raise first_error or StoreError("there is nothing to index")
    mpps = _magnifications(list(opened.values()))
    tile_px = opened[next(iter(opened))][1][0].tile_px
    per_side = _tiles_per_side(region_um, max(mpps) * tile_px)
    name = encoder or next((folder.encoder for folder in folders if folder.encoder), "features")
    set_path = _create(store, name, mpps, tile_px, per_side, next(iter(opened.values()))[1])
    indexed = []
    for slide, (known, files) in opened.items():
        try:
            indexed.append(
                _index_slide(set_path, slide, known, dict(zip(mpps, files, strict=True)), per_side, max_misalignment)
            )
        except ParfocalError as error:
            first_error = first_error or error
            failed.append(failure(_source(slide, folders, known_slides), error))
    if not indexed:
        raise first_error or StoreError("there is nothing to index")
    update_failures(store, set_path.name, failed, [one.slide for one in indexed])
    return IndexSummary(open_set(set_path), tuple(indexed), tuple(failed))


def _open_slide_features(
    slide: str,
    folders: Sequence[FeatureFolder],
    known_slides: Mapping[str, SlideSource],
    slide_mpp: float | None,
    mpp_from_objective: bool,
) -> tuple[_Known, list[FeatureFile]]:
    """The slide's resolution and its files, coarse to fine."""
    absent = [str(folder.path) for folder in folders if slide not in folder.files]
    if absent:
        raise MismatchError(f"{slide} has no features in {', '.join(absent)}. Extract it there, or leave it out.")
    files = [read_feature_file(folder.files[slide]) for folder in folders]
    if len({file.tile_px for file in files}) > 1:
        sides = ", ".join(f"{file.tile_px} px in {file.path.parent}" for file in files)
        raise MismatchError(f"the tiles of {slide} have different sides: {sides}. Extract all with one.")
    files.sort(key=lambda file: file.tile_l0px, reverse=True)
    for coarse, fine in pairwise(files):
        if coarse.tile_l0px == fine.tile_l0px:
            raise MismatchError(
                f"{coarse.path} and {fine.path} are one magnification: tiles of {fine.tile_l0px:g} level-0 px both."
            )
    return _resolution(slide, files, known_slides, slide_mpp, mpp_from_objective), files


def _resolution(
    slide: str,
    files: Sequence[FeatureFile],
    known_slides: Mapping[str, SlideSource],
    slide_mpp: float | None,
    mpp_from_objective: bool,
) -> _Known:
    """Micrometres per level-0 pixel: from the slide or the manifest, else as given, else from parfocal's own files."""
    by_stem = [source for source in known_slides.values() if source.slide.rsplit("/", 1)[-1] == slide]
    source = known_slides.get(slide) or (by_stem[0] if len(by_stem) == 1 else None)
    size_l0px = files[0].size_l0px
    if source is not None and source.slide_mpp is not None:
        return _Known(
            source.slide_mpp, "manifest", SlideOrigin(str(source.path), size_l0px=size_l0px, mpp_source="manifest")
        )
    if source is not None:
        with open_slide(source.path, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective) as opened:
            found, calibration = (opened.width_px, opened.height_px), opened.calibration
            objective_power, mpp = opened.objective_power, opened.mpp
        if 0 not in size_l0px and found != size_l0px:
            raise MismatchError(
                f"{source.path} has {found[0]} x {found[1]} px, and the features of {slide} come from a slide of "
                f"{size_l0px[0]} x {size_l0px[1]} px. Name the slide that they were extracted from."
            )
        mpp_source = calibration.source if calibration else "slide"
        origin = SlideOrigin(str(source.path), file_fingerprint(source.path), found, objective_power, mpp_source)
        return _Known(mpp, mpp_source, origin)
    if slide_mpp is not None:
        return _Known(slide_mpp, "--slide-mpp", SlideOrigin(size_l0px=size_l0px, mpp_source="--slide-mpp"))
    stated = {file.slide_mpp for file in files}
    own = next(iter(stated))
    if len(stated) == 1 and own is not None:
        return _Known(own, "features file", SlideOrigin(size_l0px=size_l0px, mpp_source="features file"))
    raise CalibrationError(
        f"the microns per pixel of {slide} are not known: its features only carry a nominal magnification. "
        "Name its slide file, a folder of slides or a manifest (--slides), or pass --slide-mpp if you know it."
    )


def _magnifications(opened: Sequence[tuple[_Known, list[FeatureFile]]]) -> tuple[float, ...]:
    """The names of the set's magnifications, coarse to fine.

    The nominal value where the typical slide is within the tolerance of it, so that sets of several cohorts agree;
    the median of the true ones elsewhere.
    """
    names = []
    for which in range(len(opened[0][1])):
        true = statistics.median(_true_mpp(known, files[which]) for known, files in opened)
        power = opened[0][1][which].target_magnification
        nominal = 10 / power if power else None
        close = nominal is not None and abs(true / nominal - 1) <= _TOLERANCE
        names.append(nominal if nominal is not None and close else float(f"{true:.3g}"))
    return tuple(names)


def _true_mpp(known: _Known, file: FeatureFile) -> float:
    return file.tile_l0px * known.mpp / file.tile_px


def _tiles_per_side(region_um: float | None, coarsest_um: float) -> int:
    if region_um is None:
        return 1
    # The set's magnification is nominal, the side that a user names is too.
    per_side = whole_ratio(region_um, coarsest_um, tolerance=_TOLERANCE)
    if per_side is None:
        raise ConfigError(
            f"region_um={region_um:g} is not a whole number of the coarsest tiles ({coarsest_um:g} um). "
            f"Use a multiple of {coarsest_um:g} um."
        )
    return per_side


def _create(
    store: Path,
    encoder: str,
    mpps: tuple[float, ...],
    tile_px: int,
    per_side: int,
    files: Sequence[FeatureFile],
) -> Path:
    rows = {
        "encoder": encoder,
        "source": "features that another tool extracted, in TRIDENT's layout",
        "mpps": list(mpps),
        "tile_px": tile_px,
        "coarsest_tiles_per_side": per_side,
    }
    # Of a foreign encoder nothing is known but its name.
    digest = digest8({"encoder": encoder, "source": "name only"})
    return create_set(
        store,
        f"{encoder}-{digest8(rows)}",
        "tiles",
        region_um=max(mpps) * tile_px * per_side,
        dims={mpp: file.dim for mpp, file in zip(mpps, files, strict=True)},
        settings=rows,
        encoder_digests=dict.fromkeys(mpps, digest),
        tile_px=tile_px,
        dtype="float16" if all(file.float16 for file in files) else "float32",
    )


def _index_slide(
    set_path: Path,
    slide: str,
    known: _Known,
    files: Mapping[float, FeatureFile],
    per_side: int,
    max_misalignment: float,
) -> IndexedSlide:
    dims = open_set(set_path).dims
    for mpp, file in files.items():
        if file.dim != dims[mpp]:
            raise MismatchError(f"{file.path} has rows of width {file.dim}, other slides of the set have {dims[mpp]}.")
    realised = {mpp: _true_mpp(known, file) for mpp, file in files.items()}
    for mpp, true in realised.items():
        if not math.isclose(true, mpp, rel_tol=_TOLERANCE):
            raise MismatchError(
                f"the tiles of {slide} in {files[mpp].path.parent} have {true:.4g} um per pixel (the slide has "
                f"{known.mpp:g}, from {known.source}), more than {_TOLERANCE:.0%} from the set's {mpp:g}. "
                "Extract the slide at that resolution, or index it apart."
            )
    joined: JoinedTiles = join_tiles(files, known.mpp, per_side, max_misalignment)
    write_index(
        set_path,
        slide,
        slide_mpp=known.mpp,
        region_xy_um=joined.region_xy_um,
        region=joined.region,
        center_um=joined.center_um,
        row=joined.row,
        files={mpp: os.path.relpath(file.path.resolve(), set_path.resolve()) for mpp, file in files.items()},
        digests={mpp: file_rows_digest(file.path) for mpp, file in files.items()},
        region_um=joined.region_um,
        origin=known.origin,
        realised_mpp={format_mpp(mpp): true for mpp, true in realised.items()},
        misalignment_um=joined.misalignment_um,
    )
    return IndexedSlide(
        slide,
        known.mpp,
        known.source,
        realised,
        len(joined.region_xy_um),
        {mpp: len(rows) for mpp, rows in joined.row.items()},
        joined.n_left_out,
        joined.misalignment_um,
    )


def _source(slide: str, folders: Sequence[FeatureFolder], known_slides: Mapping[str, SlideSource]) -> SlideSource:
    """What the table of failures names: the slide's file where it is known, else a file of its features."""
    if slide in known_slides:
        return known_slides[slide]
    return SlideSource(slide, next(folder.files[slide] for folder in folders if slide in folder.files))
