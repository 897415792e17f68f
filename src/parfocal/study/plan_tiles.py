"""The tiles of a cohort before they are embedded: how many, how large on disk, and how long it would take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from parfocal.embed import EmbedSettings, estimate_run
from parfocal.embed.slide import open_source, plan_slide
from parfocal.encoders.loading import parse_encoder_specs, parse_spec
from parfocal.encoders.preset import find_preset
from parfocal.errors import EncoderError
from parfocal.geometry import format_mpp
from parfocal.regions import RegionPlan
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.slides import SlideSource, find_slides
from parfocal.store import EmbeddingSet, LeftOut, open_set, with_readable_index
from parfocal.store.survey import survey_features
from parfocal.study.settings import CohortSource, SlidePaths, Study
from parfocal.study.stages import the_set


@dataclass(frozen=True)
class TilesPlan:
    """The tile embeddings of a cohort.

    Attributes:
        source: what they come from: slides, features or a store.
        path: the set's folder; None where only the run can say.
        slides: how many slides there are.
        done: how many are in the set already.
        problems: slides that would fail, with the reason.
        regions: of all slides; of features, which are not joined yet, the number of coarsest tiles.
        tiles: of all slides, per magnification.
        to_encode: of those that are not done, per magnification.
        gib: what would be written; None where the width of a row is not known.
        hours: how long it would take on this machine; None where nothing could be measured.
        note: what the numbers leave out; empty where nothing.
    """

    source: str
    path: str | None
    slides: int
    done: int
    problems: Mapping[str, str]
    regions: int
    tiles: Mapping[str, int]
    to_encode: Mapping[str, int]
    gib: float | None
    hours: float | None
    note: str = ""


@dataclass(frozen=True)
class PlannedCohort:
    """A cohort as far as it can be known before it is there.

    Attributes:
        tiles: its plan.
        made: its set, with the slides that are in it; None where there is none.
        regions: the number of regions of each slide that would not fail.
        counts: the tiles of each of these slides, by magnification, named as in the plan; one that several regions
            share counts in each.
    """

    tiles: TilesPlan
    made: EmbeddingSet | None
    regions: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]

    @property
    def is_complete(self) -> bool:
        """Whether its set holds all of it already."""
        return self.made is not None and self.tiles.done == self.tiles.slides

    @property
    def labelled(self) -> tuple[str, ...]:
        """The slides that an evaluation can use: with a tile at every magnification."""
        return tuple(sorted(slide for slide, own in self.counts.items() if min(own.values(), default=0) > 0))


def plan_tiles(study: Study, source: CohortSource, store: Path, device: str) -> PlannedCohort:
    """The plan of a cohort's tiles, its set where there is one, and the slides that would be in it.

    Where the encoder cannot be loaded, as gated weights on a laptop, tiles are counted all the same.

    Raises:
        ConfigError: a slide or a store is not there.
        StoreError: features or a store cannot be read.
    """
    if source.store is not None:
        left_out = LeftOut()
        return _of_set(with_readable_index(the_set(source.store), left_out), left_out.reasons)
    if source.features is not None:
        return _of_features(source)
    slides = source.slides
    if slides is None:
        raise ValueError("there is no source of tiles")
    settings = study.embed_settings(slides, device)
    try:
        estimate = estimate_run(slides.paths, store, settings)
    except EncoderError as error:
        return _counted(slides, settings, str(error))
    usable = [one for one in estimate.slides if one.problem is None]
    mpps = sorted({mpp for one in usable for mpp in one.n_tiles}, reverse=True)
    done = [one.slide for one in usable if one.done]
    plan = TilesPlan(
        "slides",
        str(estimate.set_path),
        len(usable),
        len(done),
        {one.slide: one.problem for one in estimate.slides if one.problem is not None},
        sum(one.n_regions for one in usable),
        {format_mpp(mpp): sum(one.n_tiles.get(mpp, 0) for one in usable) for mpp in mpps},
        {format_mpp(mpp): estimate.n_tiles.get(mpp, 0) for mpp in mpps},
        gib(estimate.n_bytes),
        None if estimate.seconds is None else estimate.seconds / 3600,
    )
    regions = {one.slide: one.n_regions for one in usable}
    counts = {one.slide: {format_mpp(mpp): one.n_places[mpp] for mpp in mpps} for one in usable}
    made = replace(open_set(estimate.set_path), slides=tuple(sorted(done))) if done else None
    return PlannedCohort(plan, made, regions, counts)


def _of_features(source: CohortSource) -> PlannedCohort:
    features = source.features
    if features is None:
        raise ValueError("there are no features")
    survey = survey_features(features.paths, features)
    names = list(map(format_mpp, survey.mpps))
    counts = {slide: dict(zip(names, one.n_tiles, strict=True)) for slide, one in survey.slides.items()}
    tiles = {name: sum(own[name] for own in counts.values()) for name in names}
    problems = {one.slide: one.message for one in survey.trouble.failed}
    note = "the number of regions is that of the coarsest tiles, before they are joined; rows are not read yet"
    # The index alone is written: a row number and a centre for each tile.
    size = gib(20 * sum(tiles.values()))
    plan = TilesPlan("features", None, len(counts), 0, problems, min(tiles.values()), tiles, {}, size, None, note)
    return PlannedCohort(plan, None, {slide: min(own.values()) for slide, own in counts.items()}, counts)


def _of_set(found: EmbeddingSet, problems: Mapping[str, str]) -> PlannedCohort:
    counts = {slide: {format_mpp(mpp): n for mpp, n in found.n_tiles(slide).items()} for slide in found.slides}
    regions = {slide: found.n_regions(slide) for slide in found.slides}
    rows = [found.n_rows(slide) for slide in found.slides]
    tiles = {format_mpp(mpp): sum(one[mpp] for one in rows) for mpp in found.mpps}
    n, total, none = len(found.slides), sum(regions.values()), dict.fromkeys(tiles, 0)
    plan = TilesPlan("a store", str(found.path), n, n, problems, total, tiles, none, 0.0, 0.0)
    return PlannedCohort(plan, found, regions, counts)


def _counted(slides: SlidePaths, settings: EmbedSettings, reason: str) -> PlannedCohort:
    """The tiles of slides by their tissue alone."""
    grid = settings.grid
    problems: dict[str, str] = {}
    regions: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    n_tiles = dict.fromkeys(grid.mpps, 0)
    sources = find_slides(slides.paths, ids=slides.ids)
    for source in sources:
        plan = attempt(partial(_plan_of, source, settings))
        if isinstance(plan, Failed):
            problems[source.slide] = plan.problem
            continue
        regions[source.slide] = plan.n_regions
        counts[source.slide] = {format_mpp(mpp): plan.n_places(mpp) for mpp in grid.mpps}
        n_tiles = {mpp: count + plan.n_tiles(mpp) for mpp, count in n_tiles.items()}
    tiles = {format_mpp(mpp): count for mpp, count in n_tiles.items()}
    widths = {mpp: _width(spec) for mpp, spec in parse_encoder_specs(settings.encoder, grid.mpps).items()}
    each = np.dtype(settings.dtype).itemsize
    n_bytes = sum(n_tiles[mpp] * each * (width or 0) for mpp, width in widths.items())
    planned = TilesPlan(
        "slides",
        None,
        len(sources) - len(problems),
        0,
        problems,
        sum(regions.values()),
        tiles,
        tiles,
        None if None in widths.values() else gib(n_bytes),
        None,
        f"no time, and nothing is taken for done, because the encoder cannot be loaded here: {reason}",
    )
    return PlannedCohort(planned, None, regions, counts)


def _plan_of(source: SlideSource, settings: EmbedSettings) -> RegionPlan:
    with open_source(source, settings) as slide:
        return plan_slide(slide, source, settings)


def _width(spec: str) -> int | None:
    """The width of a preset's row; None of what only loading can tell."""
    parsed = parse_spec(spec)
    if parsed.kind != "preset":
        return None
    return find_preset(parsed.target).dim * (4 if parsed.grid2 else 1)


def gib(n_bytes: int) -> float:
    """Bytes in units of 2 ** 30."""
    return round(n_bytes / 2**30, 4)
