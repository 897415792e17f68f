"""Where a slide holds tissue: a small black-and-white raster in micrometres.

A pixel is tissue when it is both darker than the glass and more coloured than it; tinted glass counts as colourless.
Shadows, dust and the edge of the cover slip are dark but grey; blank tiles and white padding are neither. Where the
coloured part is not the most of what is dark and textured, the stain is a grey one (silver), and texture decides.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from parfocal.config import WAYS_TO_TISSUE
from parfocal.errors import SlideError, UnreadableSlideError
from parfocal.files import file_digest8
from parfocal.geometry import Box
from parfocal.regions.colours import strongest, weakest
from parfocal.regions.glass import Glass, find_glass
from parfocal.regions.masks import find_mask_file, read_mask
from parfocal.regions.raster import Raster, read_raster
from parfocal.slides import Slide, slide_name

# Otsu's threshold is kept between these: without glass or without tissue on the slide it would split noise.
# Absorbance is the mean over colours of -ln(pixel / glass); 0.035 is a grey level of 234 on glass of 243.
_ABSORBANCE = (0.035, 0.06)
_CHROMA = (6.0, 10.0)
_DARKNESS_SCALE = 600.0
_STRIP_ROWS = 256
_CLOSE_UM = 24.0
_MIN_OBJECT_UM2 = 10_000.0
_MAX_HOLE_UM2 = 40_000.0
# Dim pictures are lifted to this, so that their colours count as they would under a good lamp.
_GOOD_LIGHT = 240.0
# What cannot be decoded is taken for glass where glass lies all around it and it is no wider than this.
_UNKNOWN_UM = 512.0
# Grey tissue: grey levels per raster pixel by which brightness changes in the direction in which it changes least, in a
# window of so many pixels (median over tissue 1.6 to 9 on twenty real slides and fields, glass 0 to .4), and for how
# much of a dark part that has to hold.
_TEXTURE = 1.0
_TEXTURE_PX = 9
_TEXTURED_SHARE = 0.8
_THIN_UM = 48.0
# Absorbance that no shadow on glass has.
_DEEP = 0.3
_MIN_GREY_UM2 = 40_000.0
_BLACK = 20
# Where less than this part of the textured tissue is coloured, the stain is grey and the colour ink or counterstain. On
# twenty real H&E slides and fields the two are the same to 2 %.
_MIN_COLOURED = 0.9


@dataclass(frozen=True, eq=False)
class TissueMask:
    """A raster over the whole slide, its first pixel at the top left of level 0."""

    is_tissue: Bool[np.ndarray, "y x"]
    x_mpp: float
    """Micrometres per raster pixel along x."""
    y_mpp: float
    """Micrometres per raster pixel along y."""
    thumbnail: UInt8[np.ndarray, "_y _x 3"] | None = None
    """The slide as a small picture, where one was read to find the tissue."""
    mask_file: str | None = None
    """Name and digest of the file that says where the tissue is; None where it was found."""

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
        sums = self._sums
        left, right = (np.clip(edges_um[:, side] / self.x_mpp, 0, width) for side in (0, 2))
        top, bottom = (np.clip(edges_um[:, side] / self.y_mpp, 0, height) for side in (1, 3))
        tissue = _sum_to(sums, bottom, right) - _sum_to(sums, top, right)
        tissue += _sum_to(sums, top, left) - _sum_to(sums, bottom, left)
        area = (edges_um[:, 2] - edges_um[:, 0]) * (edges_um[:, 3] - edges_um[:, 1]) / (self.x_mpp * self.y_mpp)
        return np.asarray(np.clip(tissue / area, 0.0, 1.0))

    @cached_property
    def core(self) -> "TissueMask":
        """The same without its outermost pixels, whose border may lie anywhere inside them; edges of the slide stay."""
        padded = np.pad(self.is_tissue.astype(np.uint8), 1, mode="edge")
        core = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        return TissueMask(core > 0, self.x_mpp, self.y_mpp)

    @cached_property
    def _sums(self) -> Int[np.ndarray, "y_edge x_edge"]:
        """The tissue above and to the left of every corner of the raster; summed up once, asked for every region."""
        return np.asarray(cv2.integral(self.is_tissue.astype(np.uint8)))


def find_tissue(slide: Slide, tissue: str = "default", *, slide_id: str | None = None) -> TissueMask:
    """Find the tissue of a slide from its coarsest level that is sharp enough, or from level 0 piece by piece.

    Args:
        slide: an open slide with a trusted mpp.
        tissue: how; `default`, `otsu` (Otsu's threshold on the saturation, as other tools do), a mask picture or
            GeoJSON file, or a folder of them. `none` looks as `default` does and takes a slide of any kind: what is
            kept then is not decided here.
        slide_id: the slide's id, by which a folder of masks names it; its file's name without the suffix when None.

    Raises:
        CalibrationError: the slide's resolution is not known.
        UnreadableSlideError: nothing of the slide can be decoded.
        SlideError: its background is dark, as in fluorescence, so it is no brightfield slide; or its mask is absent,
            broken or another slide's.
    """
    raster = read_raster(slide)
    if tissue not in WAYS_TO_TISSUE:
        file = find_mask_file(Path(tissue), slide, slide_name(slide.path) if slide_id is None else slide_id)
        is_tissue = read_mask(file, slide, raster.downsample)
        height, width = is_tissue.shape
        if file.suffix.lower() == ".png":
            mpp = slide.mpp * slide.width_px / width, slide.mpp * slide.height_px / height
        else:
            mpp = raster.downsample * slide.mpp, raster.downsample * slide.mpp
        return TissueMask(is_tissue, *mpp, raster.pixels, f"{file.name} {file_digest8(file)}")
    is_tissue = _found(raster, slide, tissue)
    if not is_tissue.any() and raster.level:
        # A coarse level may be blank where level 0 is not: none is believed that there is nothing.
        raster = read_raster(slide, again_after=raster)
        is_tissue = _found(raster, slide, tissue)
    if not is_tissue.any() and raster.unknown.any():
        raise UnreadableSlideError(
            f"cannot find the tissue of {slide.name}: {raster.unknown.mean():.0%} of it cannot be decoded, and the "
            "rest shows none. Copy the file again or leave the slide out."
        )
    mpp_of_raster = raster.downsample * slide.mpp
    is_tissue = is_tissue | _may_be_tissue(raster.unknown, is_tissue, mpp_of_raster)
    return TissueMask(is_tissue, mpp_of_raster, mpp_of_raster, raster.pixels)


def _found(raster: Raster, slide: Slide, tissue: str) -> Bool[np.ndarray, "y x"]:
    smooth = np.asarray(cv2.GaussianBlur(raster.pixels, (3, 3), 0))
    glass = find_glass(smooth)
    mpp = raster.downsample * slide.mpp
    if glass.is_dark_field and tissue == "none":
        return np.ones(smooth.shape[:2], bool)
    if glass.is_dark_field:
        raise SlideError(
            f"cannot find the tissue of {slide.name}: its background is dark and what is on it is bright, as in "
            "fluorescence, and parfocal reads brightfield slides. Leave it out, or say where the tissue is with "
            "--tissue none or --tissue FILE if it is one after all."
        )
    if tissue == "otsu":
        saturation = cv2.medianBlur(np.ascontiguousarray(cv2.cvtColor(raster.pixels, cv2.COLOR_RGB2HSV)[..., 1]), 7)
        _, mask = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        return _clean(np.asarray(mask) > 0, mpp)
    return _looks_like_tissue(smooth, glass, mpp)


def _may_be_tissue(
    unknown: Bool[np.ndarray, "y x"], is_tissue: Bool[np.ndarray, "y x"], mpp: float
) -> Bool[np.ndarray, "y x"]:
    """Places that cannot be decoded and are not small ones with glass all around.

    Their tiles are planned and found absent, so that what is not known is counted and not passed over.
    """
    if not unknown.any():
        return unknown
    _, places = cv2.connectedComponents(unknown.astype(np.uint8))
    beside_tissue = unknown & (cv2.dilate((is_tissue & ~unknown).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    # What lies beyond the edge is as unknown, so a strip along it is as deep as it looks.
    depth_um = cv2.distanceTransform(unknown.astype(np.uint8), cv2.DIST_C, 3) * mpp
    found = np.unique(places[beside_tissue | (depth_um > _UNKNOWN_UM / 2)])
    return np.asarray(unknown & np.isin(places, found))


def read_thumbnail(slide: Slide) -> UInt8[np.ndarray, "y x 3"]:
    """The whole slide as a small picture of about 8 microns per pixel, at most 2048 px along a side.

    Its pixels are those of the tissue mask. The last row and column may reach over the edge.
    """
    return read_raster(slide).pixels


def _looks_like_tissue(smooth: UInt8[np.ndarray, "y x 3"], glass: Glass, mpp: float) -> Bool[np.ndarray, "y x"]:
    """Darker than the glass and either more coloured than it or, where hardly anything is, textured."""
    balanced = _balanced(smooth, glass)
    darkness = _darkness(balanced, glass)
    is_dark = _above_otsu(darkness, *(bound * _DARKNESS_SCALE for bound in _ABSORBANCE))
    chroma = strongest(balanced) - weakest(balanced)
    coloured = _clean(is_dark & _above_otsu(chroma, *_CHROMA), mpp)
    if not chroma.any():
        # A grey picture: losing tissue is worse than keeping dirt, so only what is as pale and smooth as a shadow goes,
        # and lines with the dust on them.
        grey = _grey_tissue(balanced, _clean(is_dark, mpp), mpp, or_dark=darkness >= _DEEP * _DARKNESS_SCALE)
        return _without_lines(grey, mpp)
    grey = _grey_tissue(balanced, _without_thin(_clean(is_dark, mpp), mpp), mpp)
    if grey.any() and coloured.sum() < _MIN_COLOURED * grey.sum():
        return np.asarray(coloured | grey)
    return coloured


def _balanced(rgb: UInt8[np.ndarray, "y x 3"], glass: Glass) -> UInt8[np.ndarray, "y x 3"]:
    """The picture as it would be on grey glass under a good lamp."""
    wanted = max(float(glass.colour.max()), _GOOD_LIGHT)
    table = np.arange(256)[:, None] * (wanted / np.maximum(glass.colour, 1.0))  # (level, colour)
    return np.asarray(cv2.LUT(rgb, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]))


def _darkness(balanced: UInt8[np.ndarray, "y x 3"], glass: Glass) -> UInt8[np.ndarray, "y x"]:
    """The absorbance over the glass's, in units of 1 / 600, up to .42: beyond that everything is tissue."""
    wanted = max(float(glass.colour.max()), _GOOD_LIGHT)
    table = -np.log((np.arange(256) + 1) / (wanted + 1)) / 3 * _DARKNESS_SCALE
    table = np.clip(table, -255, 255).astype(np.float32)
    dark = np.empty(balanced.shape[:2], np.uint8)
    # In strips: the numbers in between would be the largest arrays of a run.
    for top in range(0, len(balanced), _STRIP_ROWS):
        of_colour = cv2.LUT(balanced[top : top + _STRIP_ROWS], table)
        total = of_colour[..., 0] + of_colour[..., 1] + of_colour[..., 2]
        dark[top : top + _STRIP_ROWS] = np.rint(np.clip(total, 0, 255))
    return dark


def _grey_tissue(
    balanced: UInt8[np.ndarray, "y x 3"],
    is_dark: Bool[np.ndarray, "y x"],
    mpp: float,
    *,
    or_dark: Bool[np.ndarray, "y x"] | None = None,
) -> Bool[np.ndarray, "y x"]:
    """The dark parts that are mostly textured (or `or_dark`), and what is textured of the others.

    A shadow is smooth but for its edges, and so is ink; black is no tissue. Under an uneven lamp glass is dark as well,
    and tissue is a textured part of one large smooth one.
    """
    grey = np.asarray(cv2.cvtColor(balanced, cv2.COLOR_RGB2GRAY))
    shown = is_dark & (grey > _BLACK)
    counted = shown & _is_textured(grey)
    if or_dark is not None:
        counted |= shown & or_dark
    count, labels = cv2.connectedComponents(shown.astype(np.uint8), connectivity=4)
    areas = np.bincount(labels.ravel(), minlength=count)
    share = np.bincount(labels.ravel(), counted.ravel(), minlength=count) / np.maximum(areas, 1)
    least = (_MIN_GREY_UM2 if or_dark is None else _MIN_OBJECT_UM2) / mpp**2
    kept = share >= _TEXTURED_SHARE
    kept[0] = False
    whole = _without_small(kept[labels].astype(np.uint8), least)
    parts = _without_thin(_clean(counted & ~kept[labels], mpp), mpp)
    return np.asarray((whole | _without_small(parts.astype(np.uint8), _MIN_GREY_UM2 / mpp**2)) > 0)


def _is_textured(grey: UInt8[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Where brightness varies in every direction; along a straight edge it varies in one only."""
    textured = np.empty(grey.shape, bool)
    for top in range(0, len(grey), _STRIP_ROWS):
        first = max(top - _TEXTURE_PX, 0)
        strip = grey[first : top + _STRIP_ROWS + _TEXTURE_PX].astype(np.float32)
        smallest = cv2.cornerMinEigenVal(strip, _TEXTURE_PX, ksize=3)[top - first :][:_STRIP_ROWS]
        # OpenCV sums the squares of a derivative that it scales by 8 / (4 * window) over the window's pixels.
        textured[top : top + _STRIP_ROWS] = smallest >= (2 * _TEXTURE) ** 2
    return textured


def _without_thin(mask: Bool[np.ndarray, "y x"], mpp: float, radius_um: float = _THIN_UM) -> Bool[np.ndarray, "y x"]:
    """Drop what is thinner than twice the radius: hairs, the edge of the cover slip."""
    return np.asarray(_morphed(mask.astype(np.uint8), cv2.MORPH_OPEN, max(round(radius_um / mpp), 1)) > 0)


def _morphed(mask: UInt8[np.ndarray, "y x"], operation: int, radius: int) -> UInt8[np.ndarray, "y x"]:
    """Opened or closed by a disc; the slide goes on beyond its edges as it ends there."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    padded = cv2.copyMakeBorder(mask, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.morphologyEx(padded, operation, disc)[radius:-radius, radius:-radius])


def _without_lines(mask: Bool[np.ndarray, "y x"], mpp: float) -> Bool[np.ndarray, "y x"]:
    """Drop lines half as thin, but not the ragged edges of what is thick and large."""
    radius = max(round(_THIN_UM / 2 / mpp), 1)
    thick = _without_small(_without_thin(mask, mpp, _THIN_UM / 2).astype(np.uint8), _MIN_OBJECT_UM2 / mpp**2)
    return np.asarray(mask & (cv2.dilate(thick, np.ones((4 * radius + 1, 4 * radius + 1), np.uint8)) > 0))


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
        mask = _morphed(mask, cv2.MORPH_CLOSE, radius)
    mask = _without_small(mask, _MIN_OBJECT_UM2 / mpp**2)
    return np.asarray(_without_small(1 - mask, _MAX_HOLE_UM2 / mpp**2) == 0)


def _without_small(mask: UInt8[np.ndarray, "y x"], min_px: float) -> UInt8[np.ndarray, "y x"]:
    """Keep the connected parts of at least so many pixels; of a small raster a twentieth will do."""
    # Counted here: OpenCV's own statistics take four times as long as finding the parts.
    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask), connectivity=4)
    large = np.bincount(labels.ravel()) >= min(min_px, mask.size / 20)
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
