"""Embeddings of a store in the layout of another tool: one file for each slide and magnification.

What is there already is compared with what would be written: the same is kept, which is how a stopped export goes on,
and anything else is left alone and told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field, field_validator

from parfocal.errors import ConfigError, MismatchError, ParfocalError
from parfocal.export.objects import ANNDATA, COHORT_FILE, object_path, write_object
from parfocal.export.tiles import features_of
from parfocal.files import writable_folder
from parfocal.geometry import format_mpp
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.failures import NOT_TRIED, FailedSlide, SlideOutcomes, try_update_failures, update_failures
from parfocal.run.jobs import attempt_slide, attempt_slides
from parfocal.run.shards import Sharding, refuse_shard
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, only_mpps, open_sets
from parfocal.store.choose import the_set
from parfocal.store.formats.format import FORMATS, FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.store.set import Source
from parfocal.table import some_of


def export_formats() -> tuple[str, ...]:
    """The layouts that can be written."""
    return (*(one.name for one in FORMATS if one.write is not None and one.target is not None), ANNDATA)


class ExportChoices(Sharding):
    """Which part of a set is exported, and what happens to files that are there."""

    mpps: tuple[float, ...] = Field((), description="Magnifications that are exported; all of the set when empty.")
    only: tuple[str, ...] = Field((), description="Ids of the slides that are exported; all of the set when empty.")
    overwrite: bool = Field(False, description="Write over files that are there and hold something else.")


class ExportSettings(ExportChoices):
    """Which embeddings are exported, and how they are written."""

    format: str = Field("trident", description="The layout: trident, clam, stamp, slide2vec, atlaspatch, anndata.")
    per: Literal["slide", "cohort"] = Field("slide", description="For anndata: an object for each slide, or one.")

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in export_formats():
            raise ValueError(f"{name!r} is no layout that is written. Choose one of: {', '.join(export_formats())}.")
        return name


@dataclass(frozen=True)
class ExportedSlide:
    """A slide whose features are there.

    Attributes:
        slide: id.
        files: by magnification, the file of its rows.
        n_rows: by magnification, how many there are.
        n_kept: how many of the files were there before.
    """

    slide: str
    files: Mapping[float, Path]
    n_rows: Mapping[float, int]
    n_kept: int


@dataclass(frozen=True, eq=False)
class ExportSummary(SlideOutcomes[ExportedSlide]):
    """What came of an export.

    Attributes:
        embeddings: the set.
        folder: where the files are.
        slides: what came of each.
    """

    embeddings: EmbeddingSet
    folder: Path
    slides: tuple[ExportedSlide | FailedSlide, ...]


def export_features(
    source: Source,
    out: Path,
    settings: ExportSettings | None = None,
    *,
    set_name: str | None = None,
    on_event: OnEvent | None = None,
) -> ExportSummary:
    """Write the embeddings of a set as another tool writes them; what fails is recorded, the rest goes on.

    A tile's place is its top left, in the nearest pixel of level 0 (or in micrometres, where the layout has those). A
    tile that several regions hold is written once. A row of a set of regions is a tile of a region's side. TRIDENT has
    a folder for each magnification; the others get one, named by its micrometres per pixel, in `out`.

    Args:
        source: a store, or a set of it; embedded, represented or indexed.
        out: the folder.
        settings: which layout, and which part of the set.
        set_name: the set, or the beginning of its name, where the source has several.
        on_event: told how many `slides` are done.

    Raises:
        ConfigError: there is no such set or slide, or several sets are meant.
        MismatchError: the set lacks a magnification.
        StoreError: the source holds no set.
    """
    settings = settings or ExportSettings()
    embeddings = chosen_set(source, set_name, settings)
    tell = on_event or warn_of
    writable_folder(out)
    slides = chosen_slides(embeddings, settings)
    if settings.format == ANNDATA and settings.per == "cohort":
        refuse_shard(settings.shard, "one object for the cohort (--per cohort)")
        return _export_cohort(embeddings, slides, out, settings)
    export = _export_object if settings.format == ANNDATA else _export_slide
    outcomes = outcomes_of(embeddings, slides, out, lambda slide: export(embeddings, slide, out, settings), tell)
    return ExportSummary(embeddings, out, outcomes)


Exported = TypeVar("Exported")


def outcomes_of(
    embeddings: EmbeddingSet, slides: Sequence[str], out: Path, export: Callable[[str], Exported], tell: OnEvent
) -> tuple[Exported | FailedSlide, ...]:
    """Export each slide of a set, and bring the table of failures up to date; a full disk ends it."""
    outcomes: list[Exported | FailedSlide] = []
    unwritten: list[str] = []
    sources = [SlideSource(slide, embeddings.path) for slide in slides]
    tell(Progress("slides", 0, len(slides)))
    for source, outcome in zip(
        sources, attempt_slides(sources, lambda source: export(source.slide), writes_to=out), strict=True
    ):
        outcomes.append(outcome)
        if isinstance(outcome, FailedSlide) and outcome.error != NOT_TRIED:
            unwritten += try_update_failures(out, embeddings.name, [outcome], [])
        tell(Progress("slides", len(outcomes), len(slides), source.slide))
    done = [source.slide for source, one in zip(sources, outcomes, strict=True) if not isinstance(one, FailedSlide)]
    unwritten += try_update_failures(out, embeddings.name, [], done)
    for text in dict.fromkeys(unwritten):
        tell(Notice(text, is_warning=True))
    return tuple(outcomes)


def chosen_set(source: Source, set_name: str | None, choices: ExportChoices) -> EmbeddingSet:
    """The set that is exported, with the magnifications that are asked for.

    Raises:
        ConfigError: there is no such set, or several are meant; or magnifications of regions are asked for.
        MismatchError: the set lacks one of them.
    """
    found = the_set(open_sets(source), str(source), set_name, kind="tiles")
    if choices.mpps and found.kind == "regions":
        raise ConfigError(f"{found.name} has one row for each region and not for each magnification. Leave out --mpps.")
    return only_mpps(found, choices.mpps) if found.kind == "tiles" else found


def chosen_slides(embeddings: EmbeddingSet, choices: ExportChoices) -> tuple[str, ...]:
    """The slides that are exported.

    Raises:
        ConfigError: the set lacks one of them.
    """
    unknown = sorted({*choices.only} - {*embeddings.slides})
    if unknown:
        raise ConfigError(
            f"{embeddings.name} has no slide {some_of(unknown)}. Its ids are {some_of(embeddings.slides)}."
        )
    return tuple(choices.own(slide for slide in embeddings.slides if not choices.only or slide in choices.only))


def _export_cohort(
    embeddings: EmbeddingSet, slides: tuple[str, ...], out: Path, settings: ExportSettings
) -> ExportSummary:
    """One object of all slides that can be read."""
    failed = []
    for slide in slides:
        checked = attempt_slide(SlideSource(slide, embeddings.path), partial(_read_once, embeddings, slide))
        if isinstance(checked, FailedSlide):
            failed.append(checked)
    lost = {one.slide for one in failed}
    kept, path = [slide for slide in slides if slide not in lost], out / COHORT_FILE
    if not kept:
        update_failures(out, embeddings.name, failed, [])
        return ExportSummary(embeddings, out, tuple(failed))
    counts, is_kept = write_object(embeddings, kept, path, overwrite=settings.overwrite)
    update_failures(out, embeddings.name, failed, kept)
    done = [ExportedSlide(slide, dict.fromkeys(count, path), count, int(is_kept)) for slide, count in counts.items()]
    return ExportSummary(embeddings, out, (*done, *failed))


def _read_once(embeddings: EmbeddingSet, slide: str) -> str:
    """See that a slide can be read, so that it does not end the writing of one file for all."""
    embeddings.read_regions(slide) if embeddings.kind == "regions" else embeddings.read(slide)
    return slide


def _export_object(embeddings: EmbeddingSet, slide: str, out: Path, settings: ExportSettings) -> ExportedSlide:
    path = object_path(out, slide)
    counts, is_kept = write_object(embeddings, [slide], path, overwrite=settings.overwrite)
    return ExportedSlide(slide, dict.fromkeys(counts[slide], path), counts[slide], int(is_kept))


def _export_slide(embeddings: EmbeddingSet, slide: str, out: Path, settings: ExportSettings) -> ExportedSlide:
    format = FORMATS.get(settings.format)
    files: dict[float, Path] = {}
    n_rows: dict[float, int] = {}
    n_kept = 0
    for features in features_of(embeddings, slide, in_um=format.name == "stamp"):
        assert format.write is not None  # it is one of `export_formats`
        assert format.target is not None
        folder = out if format.by_mpp else out / format_mpp(features.mpp)
        target = format.target(folder, features)
        is_kept = _is_there(format, target, features, overwrite=settings.overwrite)
        files[features.mpp] = target.path if is_kept else format.write(folder, features)
        n_rows[features.mpp], n_kept = len(features.rows), n_kept + is_kept
    return ExportedSlide(slide, files, n_rows, n_kept)


def _is_there(format: FeatureFormat, target: FeatureSource, features: FeaturesToWrite, *, overwrite: bool) -> bool:
    """Whether the features have been written already.

    Raises:
        MismatchError: the file is there, cannot be read or holds something else, and must not be written over.
    """
    if not target.path.exists():
        return False
    try:
        if target.part not in (format.parts(target.path) or {}) and target.part:
            return False  # the features of another encoder, in a file that holds those of several
        if _is_same(format, target, features):
            return True
        problem = "holds other features"
    except ParfocalError as error:
        problem = f"cannot be read ({str(error).rstrip('.')})"
    if overwrite:
        return False
    raise MismatchError(
        f"{target.path} is there and {problem}. Export into another folder, or pass --overwrite (overwrite=True)."
    )


def _is_same(format: FeatureFormat, target: FeatureSource, features: FeaturesToWrite) -> bool:
    file = format.read_places(target)
    l0px = 1.0 if file.unit == "l0px" else features.slide_mpp
    if (len(file.xy), file.dim, file.tile_px) != (*features.rows.shape, features.tile_px):
        return False
    if abs(file.tile / l0px - features.tile_px * features.mpp / features.slide_mpp) > 1:
        return False
    there, ours = np.rint(file.xy / l0px).astype(np.int64), features.xy_l0px
    order, own = np.lexsort(there.T), np.lexsort(ours.T)
    if np.abs(there[order] - ours[own]).max(initial=0) > (file.unit == "um"):
        return False
    rows = np.asarray(format.read_rows(target))
    return bool(np.array_equal(rows[order], features.rows[own].astype(rows.dtype)))
