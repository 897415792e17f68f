"""Values of regions as pixels: a raster of them, signed colours, and a picture with a scale bar and a colour bar.

Blue through nothing to orange: signs differ for every kind of colour vision.
"""

from collections.abc import Sequence
from math import floor, log10

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.stats.interval import Number

_LOW, _HIGH = np.array([20.0, 90.0, 200.0]), np.array([225.0, 95.0, 10.0])
_COVERED = 0.85  # of the slide, by full colour
_TEXT = (20, 20, 20)
_STRIP_PX, _BAR_PX, _FONT_PX, _MARGIN_PX = 46, 12, 12, 8
_NARROWEST_PX = 260  # the bars and their numbers need that much


def raster_of_regions(
    xy_um: Float[np.ndarray, "region 2"],
    side_um: Number,
    values: Float[np.ndarray, "region *map"],
    *,
    mpp: Number,
    width: int,
    height: int,
) -> Float32[np.ndarray, "y x *map"]:
    """The values of the region under the middle of each pixel; the mean of several that overlap, NaN where none is.

    A region with a value that is not finite is as one that is not there.

    Args:
        xy_um: top left corner of each region in the slide's frame; what lies beyond the raster is cut off.
        side_um: side of a region.
        values: of each region, for one map or several.
        mpp: micrometres per pixel; pixel (0, 0) begins at the slide's corner.
        width: in pixels.
        height: in pixels.
    """
    maps = values.shape[1:]
    total, count = np.zeros((height, width, *maps)), np.zeros((height, width), dtype=np.int32)
    # Neighbours share an edge; rounding of their corners must give no pixel to both or to none.
    edges = np.stack([xy_um, xy_um + side_um], axis=1) / mpp
    first = np.maximum(np.ceil(edges - 0.5 - 1e-6), 0).astype(np.int64)
    for number in np.flatnonzero(np.isfinite(values.reshape(len(values), -1)).all(axis=1)).tolist():
        (left, top), (right, bottom) = first[number].tolist()
        total[top:bottom, left:right] += values[number]
        count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count.reshape(height, width, *[1] * len(maps)), dtype=np.float32)


def signed_scale(values: Sequence[Float[np.ndarray, "..."]]) -> float:
    """What full colour stands for in some maps that are to be compared; 0 where all of them are 0.

    The 98th percentile of the absolute values of the map where it is largest, so that one region does not pale all.
    """
    sizes = [np.abs(one[np.isfinite(one)]) for one in values]
    return max((float(np.percentile(one, 98)) for one in sizes if len(one)), default=0.0)


def signed_colours(
    values: Float[np.ndarray, "y x"],
    scale: Number,
    ground: Float[np.ndarray, "y x 3"] | None = None,
    *,
    most: Number = 1.0,
) -> UInt8[np.ndarray, "y x 3"]:
    """Orange above zero and blue below, over a ground that shows where the value is zero or not there.

    Args:
        values: of pixels.
        scale: the value of full colour; larger ones look the same.
        ground: what lies below; white where None.
        most: how much of the ground full colour covers.
    """
    below = np.full((*values.shape, 3), 255.0) if ground is None else ground
    share = np.abs(np.nan_to_num(values)) / scale if scale > 0 else np.zeros(values.shape)
    strength = most * np.minimum(share, 1.0)[..., None]
    colour = np.where(values[..., None] > 0, _HIGH, _LOW)
    return np.asarray(np.rint((1 - strength) * below + strength * colour), dtype=np.uint8)


def overlay(
    thumbnail: UInt8[np.ndarray, "y x 3"],
    thumbnail_mpp: Number,
    xy_um: Float[np.ndarray, "region 2"],
    side_um: Number,
    values: Float[np.ndarray, "region"],
    scale: Number,
) -> UInt8[np.ndarray, "y x 3"]:
    """The values of regions over a slide, whose tissue is grey: pink and purple would be read as part of the map."""
    height, width = thumbnail.shape[:2]
    raster = raster_of_regions(xy_um, side_um, values, mpp=thumbnail_mpp, width=width, height=height)
    grey = np.repeat((255 + thumbnail.mean(axis=2, keepdims=True)) / 2, 3, axis=2)
    return signed_colours(raster, scale, grey, most=_COVERED)


def with_bars(
    picture: UInt8[np.ndarray, "y x 3"], mpp: Number, scale: Number, title: str
) -> UInt8[np.ndarray, "y2 x2 3"]:
    """A map with a strip below it: a scale bar in round micrometres, and what the colours stand for.

    Args:
        picture: an `overlay`.
        mpp: its micrometres per pixel.
        scale: its value of full colour.
        title: what the values are, drawn above the map.
    """
    height, width = picture.shape[:2]
    across = max(width, _NARROWEST_PX)
    canvas = Image.new("RGB", (across, height + 2 * _STRIP_PX - _BAR_PX), (255, 255, 255))
    top = _STRIP_PX - _BAR_PX
    canvas.paste(Image.fromarray(picture), (0, top))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_PX)
    draw.text((_MARGIN_PX, (top - _FONT_PX) // 2), title, _TEXT, font)
    bar, below = top + height + 8, top + height + 8 + _BAR_PX + 3
    length_um = scale_bar_um(mpp * across * 0.35)
    left, right = _MARGIN_PX, _MARGIN_PX + round(length_um / mpp)
    draw.rectangle((left, bar + _BAR_PX // 2 - 2, right - 1, bar + _BAR_PX // 2 + 1), fill=_TEXT)
    draw.text((left, below), _length(length_um), _TEXT, font)
    from_x, to_x = across // 2, across - 3 * _MARGIN_PX
    ramp = np.linspace(-scale, scale, to_x - from_x)[None].repeat(_BAR_PX, axis=0)
    canvas.paste(Image.fromarray(signed_colours(ramp, scale, most=_COVERED)), (from_x, bar))
    draw.rectangle((from_x - 1, bar - 1, to_x, bar + _BAR_PX), outline=_TEXT)
    for value in (-scale, 0.0, scale):
        middle = from_x + (to_x - from_x) * (0.5 + value / (2 * scale) if scale > 0 else 0.5)
        draw.text((middle, below), f"{value:+.2g}" if value else "0", _TEXT, font, anchor="ma")
    return np.asarray(canvas)


def scale_bar_um(most_um: Number) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above `most_um`."""
    power = 10.0 ** floor(log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)


def _length(um: float) -> str:
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} \u00b5m"
