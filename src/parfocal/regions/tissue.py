"""Where a slide holds tissue: a small black-and-white raster in micrometres.

A pixel is tissue when it is both darker than the glass and more coloured than it. Shadows, dust and the edge of the
cover slip are dark but grey; blank tiles and white padding are neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from parfocal.geometry import Box
from parfocal.slides import Slide, resample

__all__ = ["TissueMask", "find_tissue"]

# About one raster pixel per nucleus: fine enough for the share of a 112 um tile (14 x 14 pixels).
_RASTER_MPP = 8.0
# The raster is bounded, so that memory does not grow with the slide: beyond 16 mm its pixels become larger.
_MAX_RASTER_SIDE = 2048
# Pixels of a level that are read at once to make the raster, along each side.
_BLOCK_PX = 2048
# Otsu's threshold is kept between these: without glass or without tissue on the slide it would split noise.
# Absorbance is the mean over colours of -ln(pixel / glass); 0.035 is a grey level of 234 on glass of 243.
_ABSORBANCE = (0.035, 0.06)
_CHROMA = (6.0, 10.0)
_DARKNESS_SCALE = 600.0
_STRIP_ROWS = 256
_CLOSE_UM = 24.0
_MIN_OBJECT_UM2 = 10_000.0
_MAX_HOLE_UM2 = 40_000.0


@dataclass(frozen=True, eq=False)
class TissueMask:
    """A raster over the whole slide, its first pixel at the top left of level 0."""

    is_tissue: Bool[np.ndarray, "y x"]
    x_mpp: float
    """Micrometres per raster pixel along x."""
    y_mpp: float
    """Micrometres per raster pixel along y."""

    @property
    def tissue_share(self) -> float:
        """The share of the slide that is tissue."""
        return float(self.is_tissue.mean())

    def share(self, boxes: list[Box]) -> Float[np.ndarray, "box"]:
        """The share of each box that is tissue, 0 to 1; what lies outside the slide counts as none."""
        edges = np.array([[box.x, box.y, box.right, box.bottom] for box in boxes], np.float64).reshape(-1, 4)
        return self.shares(edges)

    def shares(self, edges_um: Float[np.ndarray, "box 4"]) -> Float[np.ndarray, "box"]:
        """The same for boxes given as left, top, right, bottom in micrometres.

        Raster pixels that a box cuts count by the part inside it.
        """
        height, width = self.is_tissue.shape
        sums = cv2.integral(self.is_tissue.astype(np.uint8))  # (y + 1, x + 1), of everything above and to the left
        left, right = (np.clip(edges_um[:, side] / self.x_mpp, 0, width) for side in (0, 2))
        top, bottom = (np.clip(edges_um[:, side] / self.y_mpp, 0, height) for side in (1, 3))
        tissue = _sum_to(sums, bottom, right) - _sum_to(sums, top, right)
        tissue += _sum_to(sums, top, left) - _sum_to(sums, bottom, left)
        area = (edges_um[:, 2] - edges_um[:, 0]) * (edges_um[:, 3] - edges_um[:, 1]) / (self.x_mpp * self.y_mpp)
        return np.asarray(np.clip(tissue / area, 0.0, 1.0))


def find_tissue(slide: Slide) -> TissueMask:
    """Find the tissue of a slide from its coarsest level that is sharp enough, or from level 0 piece by piece.

    Raises:
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: the file's data are broken.
    """
    thumbnail, downsample = _read_raster(slide)
    mpp = downsample * slide.mpp
    return TissueMask(_clean(_looks_like_tissue(thumbnail), mpp), mpp, mpp)


def read_thumbnail(slide: Slide) -> UInt8[np.ndarray, "y x 3"]:
    """The whole slide as a small picture of about 8 microns per pixel, at most 2048 px along a side.

    Its pixels are those of the tissue mask. The last row and column may reach over the edge, into white.
    """
    return _read_raster(slide)[0]


def _read_raster(slide: Slide) -> tuple[UInt8[np.ndarray, "y x 3"], float]:
    """The thumbnail, and how many level-0 pixels one of its pixels has along each side."""
    longest = max(slide.width_px, slide.height_px)
    wanted = max(_RASTER_MPP / slide.mpp, longest / _MAX_RASTER_SIDE, 1.0)
    sharp = [n for n, level in enumerate(slide.levels) if level.downsample <= wanted]
    number = max(sharp, key=lambda n: slide.levels[n].downsample, default=0)
    level = slide.levels[number]
    # A whole number of the level's pixels each: exact averages, and four times as fast as a fraction.
    factor = max(round(wanted / level.downsample), 1)
    if longest > _MAX_RASTER_SIDE * factor * level.downsample:
        factor += 1
    width, height = -(-level.width_px // factor), -(-level.height_px // factor)
    raster = np.empty((height, width, 3), np.uint8)
    step = max(_BLOCK_PX // factor, 1)
    # Bands of four blocks, for the reason that regions come in bands: few tiles stay decoded for the next row.
    for band in range(0, width, 4 * step):
        for top in range(0, height, step):
            for left in range(band, min(band + 4 * step, width), step):
                rows, columns = min(step, height - top), min(step, width - left)
                block = slide.read_level(number, left * factor, top * factor, columns * factor, rows * factor)
                raster[top : top + rows, left : left + columns] = resample(block, columns, rows)
    return raster, factor * level.downsample


def _looks_like_tissue(rgb: UInt8[np.ndarray, "y x 3"]) -> Bool[np.ndarray, "y x"]:
    """Darker than the glass and more coloured than it, pixel by pixel."""
    smooth = cv2.GaussianBlur(rgb, (3, 3), 0)
    chroma = np.asarray(smooth.max(axis=2) - smooth.min(axis=2))
    glass = _glass(smooth, chroma)
    # In strips, each kept as 8 bits: the numbers in between would be the largest arrays of a run.
    darkness = np.concatenate([_darkness(strip, glass) for strip in _strips(smooth)])
    is_dark = _above_otsu(darkness, *(bound * _DARKNESS_SCALE for bound in _ABSORBANCE))
    if not chroma.any():
        return is_dark  # a greyscale slide has only its darkness
    return np.asarray(is_dark & _above_otsu(chroma, *_CHROMA))


def _strips(pixels: UInt8[np.ndarray, "_y _x 3"]) -> Iterator[UInt8[np.ndarray, "_strip _x 3"]]:
    for top in range(0, len(pixels), _STRIP_ROWS):
        yield pixels[top : top + _STRIP_ROWS]


def _darkness(rgb: UInt8[np.ndarray, "y x 3"], glass: Float[np.ndarray, "3"]) -> UInt8[np.ndarray, "y x"]:
    """The absorbance over the glass's, in units of 1 / 600, up to .42: beyond that everything is tissue."""
    table = (-np.log((np.arange(256)[:, None] + 1) / (glass + 1)) / 3 * _DARKNESS_SCALE).astype(np.float32)
    total = table[:, 0][rgb[..., 0]] + table[:, 1][rgb[..., 1]] + table[:, 2][rgb[..., 2]]
    return np.asarray(np.rint(np.clip(total, 0, 255)).astype(np.uint8))


def _glass(rgb: UInt8[np.ndarray, "y x 3"], chroma: UInt8[np.ndarray, "y x"]) -> Float[np.ndarray, "3"]:
    """The colour of empty glass: the commonest bright grey, pure white (padding) only where there is nothing else."""
    grey = rgb.min(axis=2)
    bright = (grey >= 200) & (chroma <= 10)
    real = bright & (grey < 253)
    chosen = real if real.mean() >= 0.01 else bright
    if chosen.mean() < 0.01:
        return np.full(3, 250.0)
    counts = np.bincount(grey[chosen], minlength=256).astype(float)
    mode = int(np.convolve(counts, np.ones(5), "same").argmax())
    near = chosen & (np.abs(grey.astype(np.int16) - mode) <= 2)
    return np.asarray(rgb[near].mean(axis=0))


def _above_otsu(values: UInt8[np.ndarray, "y x"], lowest: float, highest: float) -> Bool[np.ndarray, "y x"]:
    """Where the values are above Otsu's threshold, which is held inside the bounds."""
    # A few black or glaring pixels must not stretch the scale.
    otsu, _ = cv2.threshold(np.minimum(values, np.uint8(4 * highest)), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(values > np.clip(otsu, lowest, highest))


def _clean(is_tissue: Bool[np.ndarray, "y x"], mpp: float) -> Bool[np.ndarray, "y x"]:
    """Close narrow gaps, fill small holes, drop small specks."""
    mask = is_tissue.astype(np.uint8)
    radius = round(_CLOSE_UM / mpp)
    if radius >= 1:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        padded = cv2.copyMakeBorder(mask, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
        mask = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)[radius:-radius, radius:-radius]
    mask = _without_small(mask, _MIN_OBJECT_UM2 / mpp**2)
    return np.asarray(_without_small(1 - mask, _MAX_HOLE_UM2 / mpp**2) == 0)


def _without_small(mask: UInt8[np.ndarray, "y x"], min_px: float) -> UInt8[np.ndarray, "y x"]:
    """Keep the connected parts of at least so many pixels, and those that are all there is of a tiny raster."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= min(min_px, mask.size / 2)
    large[0] = False
    return np.asarray(large.astype(np.uint8)[labels])


def _sum_to(
    sums: Int[np.ndarray, "_y _x"], y: Float[np.ndarray, "box"], x: Float[np.ndarray, "box"]
) -> Float[np.ndarray, "box"]:
    """The integral up to a point between raster corners, bilinear in both, which is exact for an integral."""
    row = np.minimum(np.floor(y).astype(int), sums.shape[0] - 2)
    column = np.minimum(np.floor(x).astype(int), sums.shape[1] - 2)
    v, u = y - row, x - column
    upper = sums[row, column] * (1 - u) + sums[row, column + 1] * u
    lower = sums[row + 1, column] * (1 - u) + sums[row + 1, column + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)
