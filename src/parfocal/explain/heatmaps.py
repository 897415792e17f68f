"""Heatmaps of a slide: pyramids that lie over it in a viewer, and pictures for papers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from parfocal.evaluate.places.maps import empty_ground, find_thumbnail
from parfocal.explain.ome import write_ome_tiff
from parfocal.explain.result import SlideExplanation, named_score, region_part_names
from parfocal.files import writing
from parfocal.report import overlay, png, raster_of_regions, signed_colours, signed_scale, with_bars
from parfocal.store import EmbeddingSet

_REGION_PX = 16
_LARGEST_PX = 4096
_TILE_PX = 256
_PICTURE_PX = 800
_WHOLE = "What each region adds"
_REGION_GREY = 235  # a region that adds nothing is not a place without one


@dataclass(frozen=True, eq=False)
class PartMap:
    """One part of one score of a slide's regions.

    Attributes:
        key: for the names of files and channels.
        label: for people.
        values: of the regions.
        scale: what full colour stands for; one for all parts of a score, so that they can be compared.
    """

    key: str
    label: str
    values: Float64[np.ndarray, " region"]
    scale: float


def part_maps(one: SlideExplanation, scores: Sequence[str], mpps: Sequence[float]) -> list[PartMap]:
    """All parts of all scores; none where a score is no sum over regions."""
    if one.regions is None:
        return []
    found = []
    for column, score in enumerate(scores):
        values = one.regions.of_column(column).T
        scale = signed_scale(list(values))
        before = "" if len(scores) == 1 else f"score_{column + 1}_"
        for (key, label), own in zip(region_part_names(mpps).items(), values, strict=True):
            said = _WHOLE if key == "contribution" else label
            found.append(PartMap(f"{before}{key}", named_score(said, score, scores), own, scale))
    return found


def pictures(one: SlideExplanation, maps: Sequence[PartMap], tiles: EmbeddingSet) -> list[bytes]:
    """Each map as a PNG over the slide, or on white where the slide is gone, with a scale bar and a colour bar."""
    thumbnail = find_thumbnail(tiles, one.parts.slide, longest_px=_PICTURE_PX)
    ground, mpp = thumbnail or empty_ground(tiles, one.parts.slide, one.xy_um.max(axis=0) + one.side_um)
    return [
        png(
            with_bars(
                overlay(ground, mpp, one.xy_um, one.side_um, each.values, each.scale), mpp, each.scale, each.label
            )
        )
        for each in maps
    ]


def write_heatmaps(
    one: SlideExplanation, maps: Sequence[PartMap], drawn: Sequence[bytes], tiles: EmbeddingSet, folder: Path
) -> None:
    """Write `values.ome.tif`, and of each map a pyramid in colours and its picture.

    Args:
        one: the slide.
        maps: its parts.
        drawn: the picture of each.
        tiles: the set that the slide is read from.
        folder: where they go.
    """
    mpp, sizes = _levels(one, tiles)
    values, slide = np.stack([each.values for each in maps], axis=1), one.parts.slide
    levels = [
        raster_of_regions(one.xy_um, one.side_um, values, mpp=mpp * 2**number, width=width, height=height)
        for number, (width, height) in enumerate(sizes)
    ]
    what = "What each region adds to the score before calibration, and its parts; no number where no region lies."
    channels = [each.key for each in maps]
    own = [level.transpose(2, 0, 1) for level in levels]
    write_ome_tiff(folder / "values.ome.tif", own, mpp=mpp, name=slide, description=what, channels=channels)
    for number, (each, picture) in enumerate(zip(maps, drawn, strict=True)):
        said = (
            f"{each.label}: full orange from {each.scale:.6g} on, full blue from {-each.scale:.6g} down, grey at 0, "
            "white where no region lies. The values are in values.ome.tif."
        )
        coloured = [_in_colours(level[..., number], each.scale) for level in levels]
        write_ome_tiff(folder / f"{each.key}.ome.tif", coloured, mpp=mpp, name=slide, description=said)
        with writing(folder / f"{each.key}.png") as temporary:
            temporary.write_bytes(picture)


def _levels(one: SlideExplanation, tiles: EmbeddingSet) -> tuple[float, list[tuple[int, int]]]:
    """Micrometres per pixel of level 0, and the width and height of each level.

    Level 0 begins where the slide does and ends with it, or up to a region later, so that every level is exactly half
    of the one before. In the smallest level a region has a pixel still.
    """
    known = tiles.attributes(one.parts.slide)
    size_um = np.array([known.get("level0_width", 0), known.get("level0_height", 0)]) * one.slide_mpp
    if not (size_um > 0).all():  # neither where the resolution is not known
        size_um = one.xy_um.max(axis=0) + one.side_um
    mpp = max(one.side_um / _REGION_PX, float(size_um.max()) / _LARGEST_PX)
    width, height = np.maximum(np.ceil(size_um / mpp - 1e-6), 1).astype(int).tolist()
    n_levels = 1
    while max(width, height) > _TILE_PX << (n_levels - 1) and one.side_um >= mpp * (1 << n_levels):
        n_levels += 1
    step = 1 << (n_levels - 1)
    width, height = (-(-side // step) * step for side in (width, height))
    return mpp, [(width >> number, height >> number) for number in range(n_levels)]


def _in_colours(values: Float32[np.ndarray, "y x"], scale: float) -> UInt8[np.ndarray, "y x 3"]:
    ground = np.where(np.isnan(values), 255.0, _REGION_GREY)[..., None].repeat(3, axis=2)
    return signed_colours(values, scale, ground)
