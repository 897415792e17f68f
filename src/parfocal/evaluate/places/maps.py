"""Values at places, drawn over a small picture of their slide."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from scipy.spatial import KDTree

from parfocal.addresses import address_of
from parfocal.regions import read_thumbnail
from parfocal.report import Figure, slide_map_figure
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.slides import SlideSource, open_slide
from parfocal.store import EmbeddingSet, stored_file

Thumbnail = tuple[UInt8[np.ndarray, "_y _x 3"], float]
"""A picture of a whole slide and its micrometres per pixel."""

_GROUND_MPP = 16.0
_THUMBNAIL_PX = 600


def find_thumbnail(tiles: EmbeddingSet, slide: str, *, longest_px: int = _THUMBNAIL_PX) -> Thumbnail | None:
    """A small picture of a slide of a set; None where its file is no longer where it was, or cannot be read."""
    file = stored_file(slide, tiles.attributes(slide), {})
    if file is None or (address_of(file.path) is None and not file.path.exists()):
        return None
    found = attempt(partial(_thumbnail, file, longest_px))
    return None if isinstance(found, Failed) else found


def _thumbnail(file: SlideSource, longest_px: int) -> Thumbnail:
    with open_slide(file.path, slide_mpp=file.slide_mpp, scan=file.scan) as slide:
        picture = Image.fromarray(read_thumbnail(slide))
        picture.thumbnail((longest_px, longest_px))
        return np.asarray(picture), slide.width_px * slide.mpp / picture.width


def empty_ground(tiles: EmbeddingSet, slide: str, far_um: Float64[np.ndarray, "2"]) -> Thumbnail:
    """A white picture as large as a slide that is gone; where its size is not known it ends at `far_um`."""
    known = tiles.attributes(slide)
    size_px = np.array([known.get("level0_width", 0), known.get("level0_height", 0)], dtype=np.float64)
    size_um = size_px * float(known["slide_mpp"])
    if not (size_um > 0).all():  # neither where the resolution is not known
        size_um = far_um
    mpp = float(size_um.max()) / _THUMBNAIL_PX
    width, height = np.ceil(size_um / mpp).astype(int).tolist()
    return np.full((max(height, 1), max(width, 1), 3), 255, np.uint8), mpp


def place_map(
    slide: str,
    xy_um: Float64[np.ndarray, "place 2"],
    values: Mapping[str, Float64[np.ndarray, " place"]],
    thumbnail: Thumbnail | None,
) -> Figure:
    """A map of each of some values, orange above the slide's mean and blue below; NaN stays clear.

    Args:
        slide: its name.
        xy_um: the places, at least two; each is a square as wide as the way to the next one mostly is.
        values: by the label of their map.
        thumbnail: what lies below; white where None.
    """
    side_um = float(np.median(KDTree(xy_um).query(xy_um, k=2)[0][:, 1])) or 1.0
    maps = {label: _standardised(own) for label, own in values.items()}
    if thumbnail is None:
        width, height = np.ceil((xy_um.max(axis=0) + side_um) / _GROUND_MPP).astype(int)
        thumbnail = np.full((height, width, 3), 255, np.uint8), _GROUND_MPP
    caption = f"{slide}: orange where a target is above the slide's mean, blue where it is below."
    return slide_map_figure(*thumbnail, xy_um - side_um / 2, side_um, maps, caption, slide=slide)


def _standardised(value: Float64[np.ndarray, " place"]) -> Float64[np.ndarray, " place"]:
    known = value[np.isfinite(value)]
    if not len(known):
        return value
    spread = known.std()
    return np.asarray((value - known.mean()) / (spread if spread > 0 else 1.0))
