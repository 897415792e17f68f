"""Tissue that a lab has outlined itself: a mask picture or the polygons of a GeoJSON file, one for each slide."""

import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from parfocal.errors import ParfocalWarning, SlideError
from parfocal.slides import Slide

_SUFFIXES = (".png", ".geojson")
_MAX_MASK_PX = 100_000_000
# A larger mask is averaged down: nothing asks for shares of less than a tile.
_MAX_SIDE = 4096
# How much the two ratios of a mask's sides to the slide's may differ, and how far polygons may reach over the edge.
_TOLERANCE = 0.02
# QuPath's own class for what shall not count.
_IGNORED = "Ignore*"


def find_mask_file(where: Path, slide: Slide, slide_id: str) -> Path:
    """The mask of a slide: the file itself, or in a folder the file that has the slide's id as its name.

    Raises:
        SlideError: there is none, or there are two.
    """
    if where.is_file():
        return where
    if not where.is_dir():
        raise SlideError(
            f"cannot find the tissue of {slide.name}: there is no mask {where}. "
            "--tissue takes default, otsu, none, a mask picture (PNG), a GeoJSON file, or a folder of such files."
        )
    names = dict.fromkeys((slide_id, slide_id.rsplit("/", 1)[-1]))
    for name in names:
        found = [file for suffix in _SUFFIXES if (file := where / f"{name}{suffix}").is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            raise SlideError(f"cannot tell which is the mask of {slide.name}: there are {found[0]} and {found[1]}.")
    raise SlideError(
        f"cannot find the tissue of {slide.name}: {where} has neither {slide_id}.png nor {slide_id}.geojson. "
        "Add the slide's mask, or leave the slide out."
    )


def read_mask(file: Path, slide: Slide, downsample: float) -> Bool[np.ndarray, "y x"]:
    """Where a mask file says that the tissue is, as a raster over the whole slide.

    Args:
        file: a PNG of the slide's shape, in which everything but 0 (and what is transparent) is tissue; or GeoJSON with
            polygons in level-0 pixels, as QuPath writes it. Its class `Ignore*` is cut out of the others; whatever
            other class a polygon has, or none, it is tissue.
        slide: the slide that it belongs to.
        downsample: for GeoJSON, how many level-0 pixels a pixel of the raster shall have; a picture keeps its own.

    Raises:
        SlideError: it cannot be read, or is not this slide's.
    """
    try:
        if file.suffix.lower() == ".png":
            return _of_picture(file, slide)
        return _of_polygons(file, slide, downsample)
    except _MaskError as error:
        raise SlideError(f"cannot use the mask {file} for {slide.name}: {error}") from error


class _MaskError(Exception):
    """What is wrong with a mask, as a sentence or two."""


def _of_picture(file: Path, slide: Slide) -> Bool[np.ndarray, "y x"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG",)) as picture:
                width, height = picture.size
                _check_shape(width, height, slide)
                has_alpha = picture.mode in {"P", "LA", "PA", "RGBA"}
                numbers = np.asarray(picture) if picture.mode == "P" else None
                pixels = np.asarray(picture.convert("RGBA") if has_alpha else picture)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _MaskError(f"it cannot be read ({error}). Write it again as a PNG.") from error
    colours = pixels[..., :3] if has_alpha else pixels
    marked = np.asarray(colours.any(axis=2) if colours.ndim == 3 else colours != 0)
    if has_alpha:
        marked &= pixels[..., 3] > 0
    if numbers is not None and ((numbers != 0) & (pixels[..., 3] > 0) != marked).any():
        raise _MaskError(
            "its palette has another colour than black for 0, or black for another number, so nobody can tell which of "
            "them is no tissue. Write it without a palette: 0 for what is no tissue, 255 for tissue."
        )
    if max(width, height) > _MAX_SIDE:
        scale = _MAX_SIDE / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        share = cv2.resize(marked.astype(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        marked = np.asarray(share) >= 128
    return np.asarray(marked)


def _check_shape(width: int, height: int, slide: Slide) -> None:
    if width * height > _MAX_MASK_PX:
        raise _MaskError(f"it has {width} x {height} px, far more than is needed. Shrink it to 8 um per pixel or so.")
    # One pixel more or less is rounding.
    across, down = (
        slide.width_px / np.array([width - 1, width, width + 1.0]).clip(1),
        slide.height_px / np.array([height - 1, height, height + 1.0]).clip(1),
    )
    closest = max(across.min(), down.min()) / min(across.max(), down.max())
    if closest > 1 + _TOLERANCE:
        raise _MaskError(
            f"it has {width} x {height} px and the slide {slide.width_px} x {slide.height_px}, which is another shape. "
            "A mask covers the whole slide; is it another slide's?"
        )


def _of_polygons(file: Path, slide: Slide, downsample: float) -> Bool[np.ndarray, "y x"]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _MaskError("it is no text, so no GeoJSON. A picture has to be a PNG: others blur or lose 0.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _MaskError(f"it is no GeoJSON ({error}).") from error
    found = list(_polygons(content))
    polygons, ignored = [rings for rings, _ in found], [is_ignored for _, is_ignored in found]
    if not polygons and not (isinstance(content, dict) and content.get("features") == []):
        raise _MaskError("it has no polygon. Export areas, not points or lines.")
    height, width = (max(int(np.ceil(side / downsample)), 1) for side in (slide.height_px, slide.width_px))
    raster = np.zeros((height, width), np.uint8)
    if not polygons:
        return raster > 0
    every = np.concatenate([ring for polygon in polygons for ring in polygon])
    low, high, size = every.min(axis=0), every.max(axis=0), np.array([slide.width_px, slide.height_px])
    if (low < -_TOLERANCE * size).any() or (high > (1 + _TOLERANCE) * size).any():
        raise _MaskError(
            f"its polygons reach from {low[0]:g}, {low[1]:g} to {high[0]:g}, {high[1]:g}, and the slide has "
            f"{slide.width_px} x {slide.height_px} px. They must be in pixels of level 0; is it another slide's?"
        )
    masks = {is_ignored: np.zeros_like(raster) for is_ignored in (False, True)}
    for polygon, is_ignored in zip(polygons, ignored, strict=True):
        # In sixteenths of a pixel whose centre is at whole numbers; rings inside rings are holes.
        rings = [np.rint((ring / downsample - 0.5) * 16).astype(np.int32) for ring in polygon]
        area = np.zeros_like(raster)
        cv2.fillPoly(area, rings, 1, shift=4)
        masks[is_ignored] |= area
    if any(ignored):
        warnings.warn(
            f"{slide.name}: {sum(ignored)} of {len(ignored)} polygons of {file.name} are of the class {_IGNORED}; what "
            "they cover is no tissue.",
            ParfocalWarning,
            stacklevel=2,
        )
    return np.asarray((masks[False] > 0) & (masks[True] == 0))


def _polygons(content: Any, is_ignored: bool = False) -> Iterator[tuple[list[Float[np.ndarray, "point 2"]], bool]]:
    """The rings of every polygon in GeoJSON of any nesting, and whether to ignore it; what is no area is left out."""
    if isinstance(content, list):
        for part in content:
            yield from _polygons(part, is_ignored)
        return
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise _MaskError("it is JSON, but no GeoJSON.")
    parts = {"FeatureCollection": "features", "Feature": "geometry", "GeometryCollection": "geometries"}
    if kind in parts:
        yield from _polygons(content.get(parts[kind]) or [], is_ignored or _IGNORED in _classes(content))
    elif kind == "Polygon":
        yield _rings(content.get("coordinates")), is_ignored
    elif kind == "MultiPolygon":
        coordinates = content.get("coordinates")
        if not isinstance(coordinates, list):
            raise _MaskError("a multipolygon of it has no coordinates.")
        for part in coordinates:
            yield _rings(part), is_ignored


def _classes(feature: dict[str, Any]) -> list[str]:
    """How QuPath classifies a feature: one name, or the names of a derived class."""
    properties = feature.get("properties")
    classification = properties.get("classification") if isinstance(properties, dict) else None
    if not isinstance(classification, dict):
        return [str(classification)]
    names = classification.get("names")
    return [str(name) for name in names] if isinstance(names, list) else str(classification.get("name")).split(": ")


def _rings(coordinates: Any) -> list[Float[np.ndarray, "point 2"]]:
    try:
        rings = [np.asarray([[float(x), float(y)] for x, y, *_ in ring], np.float64) for ring in coordinates]
    except (TypeError, ValueError) as error:
        raise _MaskError(f"a polygon of it has coordinates that are no pairs of numbers ({error}).") from error
    if not rings or any(len(ring) < 3 or not np.isfinite(ring).all() for ring in rings):
        raise _MaskError("a polygon of it has fewer than three points, or one that is not finite.")
    return rings
