"""Pictures made of pixels: strips of tiles, and thumbnails of slides with a value for each region laid over them."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from parfocal.report.page import Figure, Panel
from parfocal.stats.interval import Number

# Blue through nothing to orange: signs differ for every kind of colour vision. The middle is transparent, so that
# tissue stays visible where a region says nothing.
_LOW, _HIGH = np.array([20, 90, 200]), np.array([225, 95, 10])


def png(pixels: UInt8[np.ndarray, "y x channel"]) -> bytes:
    """RGB or RGBA pixels as a PNG, which keeps every grey level: textures of one pixel are what a tile may be about."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def tile_strip(tiles: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, gap_px: int = 6) -> bytes:
    """Tiles of one height side by side with transparent gaps, as a PNG.

    Raises:
        ValueError: no tile, or tiles of different heights.
    """
    if not tiles or len({len(tile) for tile in tiles}) != 1:
        raise ValueError(f"a strip needs tiles of one height, got {[tile.shape for tile in tiles]}")
    width = sum(tile.shape[1] for tile in tiles) + gap_px * (len(tiles) - 1)
    strip = np.zeros((len(tiles[0]), width, 4), dtype=np.uint8)
    left = 0
    for tile in tiles:
        strip[:, left : left + tile.shape[1], :3] = tile
        strip[:, left : left + tile.shape[1], 3] = 255
        left += tile.shape[1] + gap_px
    return png(strip)


def tile_gallery(rows: Mapping[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]], caption: str) -> Figure:
    """One strip of tiles for each label, under each other."""
    panels = tuple(Panel(tile_strip(tiles), f"{len(tiles)} tiles: {label}", label) for label, tiles in rows.items())
    return Figure(panels, caption, "stack")


def slide_map_figure(
    thumbnail: UInt8[np.ndarray, "y x 3"],
    thumbnail_mpp: Number,
    region_xy_um: Float[np.ndarray, "region 2"],
    region_um: Number,
    maps: Mapping[str, Shaped[np.ndarray, "region"]],
    caption: str,
    *,
    slide: str,
) -> Figure:
    """The slide, and beside it each map: orange where a region's value is high, blue where it is low, clear at zero.

    Each map has its own scale, the 98th percentile of its absolute values; regions without a finite value stay clear.

    Args:
        thumbnail: the slide from its top left corner.
        thumbnail_mpp: microns per pixel of the thumbnail.
        region_xy_um: top left corner of each region.
        region_um: side of a region.
        maps: label -> one value for each region.
        caption: what is shown.
        slide: the slide's name, for the label.
    """
    panels = [Panel(png(thumbnail), f"Thumbnail of slide {slide}", slide)]
    for label, values in maps.items():
        overlaid = _overlay(thumbnail, thumbnail_mpp, region_xy_um, region_um, np.asarray(values, dtype=float))
        panels.append(Panel(png(overlaid), f"Map of {label} over slide {slide}", label))
    return Figure(tuple(panels), caption)


def _overlay(
    thumbnail: UInt8[np.ndarray, "y x 3"],
    thumbnail_mpp: Number,
    region_xy_um: Float[np.ndarray, "region 2"],
    region_um: Number,
    values: Float[np.ndarray, "region"],
) -> UInt8[np.ndarray, "y x 3"]:
    finite = np.abs(values[np.isfinite(values)])
    scale = float(np.percentile(finite, 98)) if len(finite) else 0.0
    # Grey tissue under the colours: pink and purple would be read as part of the map.
    grey = thumbnail.mean(axis=2, keepdims=True)
    picture = np.repeat(128 + grey / 2, 3, axis=2)
    for (x_um, y_um), value in zip(region_xy_um, values, strict=True):
        if not np.isfinite(value) or scale == 0:
            continue
        left, right = (max(0, round(edge / thumbnail_mpp)) for edge in (x_um, x_um + region_um))
        top, bottom = (max(0, round(edge / thumbnail_mpp)) for edge in (y_um, y_um + region_um))
        strength = 0.85 * min(abs(value) / scale, 1.0)
        colour = _HIGH if value > 0 else _LOW
        picture[top:bottom, left:right] = (1 - strength) * picture[top:bottom, left:right] + strength * colour
    return np.asarray(np.rint(picture), dtype=np.uint8)
