"""The files of an explanation: tables of slides, regions, tiles and directions, and all settings as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal.explain.qupath import write_geojson
from parfocal.explain.result import ExplainSummary, SlideExplanation, region_part_names
from parfocal.explain.shapley import pairs_of_players
from parfocal.explain.shards import SLIDES
from parfocal.files import file_of, write_csv
from parfocal.geometry import format_mpp
from parfocal.report import columns, pick, write_json, write_table
from parfocal.run.failures import FailedSlide
from parfocal.version import __version__

_ENDS = (
    *columns("pair", "number", "mpp", "side", of="direction", score_of="column"),
    *columns("end", "place", "slide", "x_um", "y_um", "side_um", "projection"),
)


def write_slide(one: SlideExplanation, scores: Sequence[str], mpps: Sequence[float], out: Path) -> None:
    """Write the tables of a slide: `regions/SLIDE.csv`, `qupath/SLIDE.geojson` and `tiles/SLIDE.csv`.

    QuPath's is left out where the resolution of the slide is not known, as its places are in pixels.
    """
    slide = one.parts.slide
    if one.regions is not None:
        names = ("score_of", "x_um", "y_um", "side_um", *region_part_names(mpps))
        write_csv(file_of(out / "regions", slide, ".csv"), names, _region_rows(one, scores))
        if math.isfinite(one.slide_mpp):
            write_geojson(one, scores, mpps, file_of(out / "qupath", slide, ".geojson"))
    if one.tiles:
        names = ("score_of", "mpp", "x_um", "y_um", "side_um", "contribution")
        write_csv(file_of(out / "tiles", slide, ".csv"), names, _tile_rows(one, scores))


def write_explanations(
    summary: ExplainSummary, out: Path, *, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Write the table of slides, that of directions where there are any, and `explain.json`."""
    write_slides(summary, out / SLIDES)
    write_table(out / "directions.csv", _ENDS, map(_with_pair, summary.ends), keep_empty=False)
    write_json(
        out / "explain.json",
        {"parfocal_version": __version__, "settings": settings, "inputs": inputs, **describe(summary)},
    )


def write_slides(summary: ExplainSummary, path: Path) -> None:
    """Write the table of slides, or of those of a shard."""
    mpps = summary.head.facts.tiles.mpps
    said = next((tuple(one.prediction) for one in summary.explained), ())
    parts = (*_of_mpps("shapley", mpps), *_of_mpps("own", mpps), *_of_pairs(mpps))
    names = ("slide", "score_of", "base", "score", *said, *parts, "problem", "parfocal_version", "head")
    write_csv(path, names, _slide_rows(summary, len(names)))


def describe(summary: ExplainSummary) -> dict[str, Any]:
    """All of it but the slides, as plain values, for JSON."""
    facts = summary.head.facts
    return {
        **pick(facts, "target", "kind", "classes", "arm", mpps="tiles.mpps", encoder="tiles.encoder_digest"),
        "head": summary.head.digest,
        "scores": list(summary.columns),
        "slides": len(summary.explained),
        **pick(summary, "parts", "sentences"),
        "failed": [pick(one, "slide", "error", "message") for one in summary.failed],
    }


def _of_mpps(prefix: str, mpps: Sequence[float]) -> list[str]:
    return [f"{prefix}_{format_mpp(mpp)}" for mpp in mpps]


def _of_pairs(mpps: Sequence[float]) -> list[str]:
    return [f"interaction_{format_mpp(mpps[a])}_{format_mpp(mpps[b])}" for a, b in pairs_of_players(len(mpps))]


def _numbers(*values: float) -> list[str]:
    return [f"{value:.9g}" for value in values]


def _slide_rows(summary: ExplainSummary, width: int) -> Iterator[list[str]]:
    by = [__version__, summary.head.digest]
    for one in summary.slides:
        if isinstance(one, FailedSlide):
            yield [one.slide, *[""] * (width - 4), f"{one.error}: {one.message}", *by]
            continue
        for place, name in enumerate(summary.columns):
            parts = [array[:, place] for array in (one.shapley, one.own, one.interaction)]
            numbers = (one.base[place], one.score[place], *one.prediction.values(), *(n for own in parts for n in own))
            yield [one.slide, name, *_numbers(*numbers), "", *by]


def _region_rows(one: SlideExplanation, scores: Sequence[str]) -> Iterator[list[str]]:
    assert one.regions is not None
    for place, name in enumerate(scores):
        for xy_um, parts in zip(one.xy_um, one.regions.of_column(place), strict=True):
            yield [name, *_numbers(*xy_um, one.side_um, *parts)]


def _tile_rows(one: SlideExplanation, scores: Sequence[str]) -> Iterator[list[str]]:
    for place, name in enumerate(scores):
        for mpp, tiles in one.tiles.items():
            for xy_um, added in zip(tiles.xy_um, tiles.contribution[:, place], strict=True):
                yield [name, format_mpp(mpp), *_numbers(*xy_um, tiles.side_um, added)]


def _with_pair(one: Any) -> dict[str, Any]:
    """A region at an end, its pair of magnifications as one text."""
    return {**vars(one), "direction": {**vars(one.direction), "pair": " with ".join(one.direction.pair)}}
