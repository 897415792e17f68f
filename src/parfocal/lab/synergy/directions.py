"""The two directions of a pairing, to be looked at: the tiles at both of their ends, and maps of a few slides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from parfocal.geometry import Box, format_mpp
from parfocal.lab.synergy.moments import CohortRows
from parfocal.lab.synergy.permutation import Candidate
from parfocal.report import Figure, slide_map_figure, tile_gallery
from parfocal.slides import Slide, SlideSource, open_slide, read_tile
from parfocal.store import EmbeddingSet, SlideTokens, stored_file

_MAP_PX = 420


@dataclass(frozen=True, eq=False)
class DirectionScores:
    """Every region of the cohort along both directions of one candidate; NaN where a magnification is absent.

    Attributes:
        candidate: the pair of magnifications, the components and the directions.
        first: u^T x of the coarser magnification.
        second: v^T x of the finer one.
        slide: number of each region's slide.
    """

    candidate: Candidate
    first: Float64[np.ndarray, " region"]
    second: Float64[np.ndarray, " region"]
    slide: Int64[np.ndarray, " region"]

    def of_slides(self) -> Float64[np.ndarray, " slide"]:
        """The mean of the product over the regions of every slide that have both magnifications; 0 without any."""
        product = self.first * self.second
        there = np.isfinite(product)
        number = int(self.slide.max()) + 1
        total = np.bincount(self.slide[there], product[there], minlength=number)
        return total / np.maximum(np.bincount(self.slide[there], minlength=number), 1)


def score_directions(rows: CohortRows, candidate: Candidate) -> DirectionScores:
    """Project every region on the candidate's directions."""
    a, b = candidate.mpps
    k = candidate.components
    return DirectionScores(
        candidate,
        rows.rows[a][:, :k].astype(np.float64) @ candidate.first,
        rows.rows[b][:, :k].astype(np.float64) @ candidate.second,
        rows.of_region,
    )


def ends(
    score: Float64[np.ndarray, " region"], slide: Int64[np.ndarray, " region"], number: int
) -> tuple[list[int], list[int]]:
    """The regions with the highest and with the lowest scores, from as many slides as there are."""
    order = np.argsort(score, kind="stable")
    order = order[np.isfinite(score[order])]
    return _spread(order[::-1], slide, number), _spread(order, slide, number)


def gallery(
    source: EmbeddingSet,
    rows: CohortRows,
    scores: DirectionScores,
    files: Mapping[str, Path],
    number: int,
) -> tuple[Figure | None, Figure | None]:
    """Tiles at both ends of both directions; None where a slide's file is not at hand for any of them.

    Of a region with several tiles the one that lies furthest along the direction is shown.
    """
    figures: list[Figure | None] = []
    for mpp, along, score, letter in (
        (scores.candidate.mpps[0], scores.candidate.first, scores.first, "u"),
        (scores.candidate.mpps[1], scores.candidate.second, scores.second, "v"),
    ):
        high, low = ends(score, scores.slide, number)
        direction = rows.mapping[mpp][:, : scores.candidate.components] @ along
        strips = {
            f"{title} of {letter}": _tiles(source, rows, mpp, direction * sign, regions, scores.slide, files)
            for title, sign, regions in (("high end", 1.0, high), ("low end", -1.0, low))
        }
        strips = {label: tiles for label, tiles in strips.items() if tiles}
        caption = (
            f"Tiles at {format_mpp(mpp)} um per pixel at both ends of {letter}: the regions with the highest and the "
            "lowest score in the cohort, at most one of a slide as far as there are enough."
        )
        figures.append(tile_gallery(strips, caption) if strips else None)
    return figures[0], figures[1]


def slides_to_map(
    scores: DirectionScores, values: Float64[np.ndarray, " slide"], number: int, available: Sequence[bool]
) -> list[int]:
    """Slides that show the effect best: the highest scores above the median label, the lowest ones below."""
    of_slide = scores.of_slides()
    usable = np.array(available, dtype=bool)
    above = values > np.median(values) if (values > np.median(values)).any() else values >= np.median(values)
    high = [int(one) for one in np.argsort(-of_slide) if above[one] and usable[one]]
    low = [int(one) for one in np.argsort(of_slide) if not above[one] and usable[one]]
    return high[: (number + 1) // 2] + low[: number // 2]


def map_figure(
    source: EmbeddingSet,
    rows: CohortRows,
    scores: DirectionScores,
    slide: int,
    file: Path,
    caption: str,
) -> Figure:
    """One slide with u^T x, v^T x and their product laid over it."""
    name = rows.slides[slide]
    tokens = source.read(name)
    here = slice(int(rows.start[slide]), int(rows.start[slide + 1]))
    with open_as_embedded(source, tokens, file) as opened:
        width_um, height_um = opened.width_px * opened.mpp, opened.height_px * opened.mpp
        mpp = max(width_um, height_um) / _MAP_PX
        thumbnail = read_tile(opened, Box(0.0, 0.0, width_um, height_um), mpp=mpp)
    first, second = (format_mpp(mpp) for mpp in scores.candidate.mpps)
    return slide_map_figure(
        thumbnail,
        mpp,
        tokens.region_xy_um,
        tokens.region_um,
        {
            f"u at {first}": scores.first[here],
            f"v at {second}": scores.second[here],
            "product": scores.first[here] * scores.second[here],
        },
        caption,
        slide=name,
    )


def slide_files(source: EmbeddingSet, slides: Sequence[str], given: Sequence[SlideSource]) -> dict[str, Path]:
    """Where each slide's file is: as given, else where it was when it was embedded; only files that exist."""
    asked = {one.slide: one.path for one in given}
    found = {}
    for slide in slides:
        known = source.attributes(slide).get("slide_path")
        path = asked.get(slide) or (Path(str(known)) if known else None)
        if path is not None and path.exists():
            found[slide] = path
    return found


def open_as_embedded(source: EmbeddingSet, tokens: SlideTokens, file: Path) -> Slide:
    """A slide's file as it was embedded: with its resolution, and of several scans the one that was read."""
    named = {tokens.slide: SlideSource(tokens.slide, file)}
    known = stored_file(tokens.slide, source.attributes(tokens.slide), named)
    assert known is not None  # it is named
    return open_slide(known.path, slide_mpp=known.slide_mpp, scan=known.scan)


def _spread(order: np.ndarray, slide: np.ndarray, number: int) -> list[int]:
    """The first regions of the order with one of each slide before a second of any."""
    seen: dict[int, int] = {}
    turns = []
    for place, region in enumerate(order[: 50 * number]):
        turn = seen.get(int(slide[region]), 0)
        seen[int(slide[region])] = turn + 1
        turns.append((turn, place, int(region)))
    return [region for _, _, region in sorted(turns)[:number]]


def _tiles(
    source: EmbeddingSet,
    rows: CohortRows,
    mpp: float,
    direction: Float64[np.ndarray, " dim"],
    regions: Sequence[int],
    slide_of: Int64[np.ndarray, " region"],
    files: Mapping[str, Path],
) -> list[UInt8[np.ndarray, "y x 3"]]:
    tiles = []
    for region in regions:
        number = int(slide_of[region])
        name = rows.slides[number]
        if name not in files:
            continue
        tokens = source.read(name)
        own = np.flatnonzero(tokens.region[mpp] == region - int(rows.start[number]))
        along = tokens.features[mpp][own].astype(np.float64) @ direction
        with open_as_embedded(source, tokens, files[name]) as opened:
            tiles.append(_tile(opened, source, tokens, mpp, int(own[along.argmax()])))
    return tiles


def _tile(slide: Slide, source: EmbeddingSet, tokens: SlideTokens, mpp: float, row: int) -> UInt8[np.ndarray, "y x 3"]:
    """The pixels of one tile, by its row."""
    side = (source.tile_px or 224) * mpp
    corner = tokens.region_xy_um[tokens.region[mpp][row]] + tokens.region_um / 2 + tokens.center_um[mpp][row] - side / 2
    return read_tile(slide, Box(float(corner[0]), float(corner[1]), side, side), mpp=mpp)
