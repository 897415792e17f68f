"""A picture of a slide's tissue and regions, to see at a glance whether they are right."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from parfocal.files import writing
from parfocal.geometry import format_mpp
from parfocal.regions.plan import RegionPlan
from parfocal.regions.tissue import read_thumbnail
from parfocal.slides import Slide
from parfocal.terminal import printable

_LONGEST_PX = 1400
_SHORTEST_PX = 240
_TISSUE = (0, 150, 60)
_REGION = (30, 60, 200)
_READ, _SHADE = (255, 190, 0), 0.45
_TEXT = (20, 20, 20)
_LINE_PX = 20
_QUALITY = 85


def qc_path(store: Path, slide_id: str) -> Path:
    """Where the picture of a slide lies beside a store."""
    return store / "qc" / f"{slide_id}.jpg"


def draw_qc(
    slide: Slide,
    plan: RegionPlan,
    *,
    slide_id: str | None = None,
    read: Mapping[float, Bool[np.ndarray, " _tile"]] | None = None,
) -> UInt8[np.ndarray, "y x 3"]:
    """Draw a slide small, with the outline of its tissue, its kept regions, and a few words above.

    The picture that the tissue was found on is used, so nothing is read twice.

    Args:
        slide: the open slide.
        plan: its plan.
        slide_id: how the picture calls the slide; the name of its file when None.
        read: which tiles were read of the magnifications of which not all were; these are shaded, once for each.

    Returns:
        RGB, at most about 1,500 pixels along a side.
    """
    thumbnail = plan.tissue.thumbnail
    if thumbnail is None:
        thumbnail = read_thumbnail(slide)
    height, width = thumbnail.shape[:2]
    scale = min(_LONGEST_PX / max(width, height), max(_SHORTEST_PX / max(min(width, height), 1), 1.0))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    # A small slide lies in the middle of a region that is larger than itself: that is shown, too.
    um_per_px = slide.width_px * slide.mpp / size[0], slide.height_px * slide.mpp / size[1]
    left, top = (round(-origin / um) for origin, um in zip(plan.origin_um, um_per_px, strict=True))
    right, bottom = (
        max(round((origin + plan.grid.region_um) / um) - own, 0) if own * um < plan.grid.region_um else 0
        for origin, um, own in zip(plan.origin_um, um_per_px, size, strict=True)
    )
    canvas = np.full((top + size[1] + bottom, left + size[0] + right, 3), 225, np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(thumbnail, size, interpolation=method)
    longest = max(canvas.shape[:2])
    if longest > _LONGEST_PX:
        shrink = _LONGEST_PX / longest
        smaller = max(round(canvas.shape[1] * shrink), 1), max(round(canvas.shape[0] * shrink), 1)
        canvas = np.asarray(cv2.resize(canvas, smaller, interpolation=cv2.INTER_AREA))
        um_per_px = um_per_px[0] / shrink, um_per_px[1] / shrink
    for mpp, own in (read or {}).items():
        _shade(canvas, plan, um_per_px, mpp, own)
    _outline(canvas, plan, slide, um_per_px)
    _regions(canvas, plan, um_per_px)
    return np.concatenate([_words(canvas.shape[1], slide, plan, slide_id or slide.name, read or {}), canvas])


def write_qc(
    path: Path,
    slide: Slide,
    plan: RegionPlan,
    *,
    slide_id: str | None = None,
    read: Mapping[float, Bool[np.ndarray, " _tile"]] | None = None,
) -> None:
    """Write the picture as a JPEG, whole or not at all; arguments as in `draw_qc`."""
    picture = cv2.cvtColor(draw_qc(slide, plan, slide_id=slide_id, read=read), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    with writing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _outline(
    canvas: UInt8[np.ndarray, "y x 3"], plan: RegionPlan, slide: Slide, um_per_px: tuple[float, float]
) -> None:
    mask = plan.tissue.is_tissue
    size_um = slide.width_px * slide.mpp, slide.height_px * slide.mpp
    size = max(round(size_um[0] / um_per_px[0]), 1), max(round(size_um[1] / um_per_px[1]), 1)
    # The last raster pixel may reach over the edge of the slide.
    reach = mask.shape[1] * plan.tissue.x_mpp / size_um[0], mask.shape[0] * plan.tissue.y_mpp / size_um[1]
    drawn = cv2.resize(
        mask.astype(np.uint8),
        (max(round(size[0] * reach[0]), 1), max(round(size[1] * reach[1]), 1)),
        interpolation=cv2.INTER_NEAREST,
    )
    contours, _ = cv2.findContours(drawn, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    offset = tuple(round(-origin / um) for origin, um in zip(plan.origin_um, um_per_px, strict=True))
    cv2.drawContours(canvas, contours, -1, _TISSUE, 1, offset=offset)


def _regions(canvas: UInt8[np.ndarray, "y x 3"], plan: RegionPlan, um_per_px: tuple[float, float]) -> None:
    for x, y in (plan.region_xy_um() - plan.origin_um).tolist():
        corner = round(x / um_per_px[0]), round(y / um_per_px[1])
        far = round((x + plan.grid.region_um) / um_per_px[0]), round((y + plan.grid.region_um) / um_per_px[1])
        cv2.rectangle(canvas, corner, far, _REGION, 1)


def _shade(
    canvas: UInt8[np.ndarray, "y x 3"],
    plan: RegionPlan,
    um_per_px: tuple[float, float],
    mpp: float,
    read: Bool[np.ndarray, " tile"],
) -> None:
    corner_um = plan.tiles(mpp).xy_um[read] - plan.origin_um
    edges = np.concatenate([corner_um, corner_um + plan.grid.tile_um(mpp)], axis=1)
    for left, top, right, bottom in np.rint(edges / np.tile(um_per_px, 2)).astype(int).tolist():
        tile = canvas[top:bottom, left:right]
        tile[...] = (tile * (1 - _SHADE) + np.array(_READ) * _SHADE).astype(np.uint8)


def _words(
    width: int, slide: Slide, plan: RegionPlan, name: str, read: Mapping[float, Bool[np.ndarray, " _tile"]]
) -> UInt8[np.ndarray, "y x 3"]:
    tiles = ", ".join(
        f"{plan.n_tiles(mpp):,} at {format_mpp(mpp)}"
        + (f", of which {int(read[mpp].sum()):,} were read (shaded)" if mpp in read else "")
        for mpp in plan.grid.mpps
    )
    how = plan.tissue.mask_file or plan.grid.tissue
    lines = [
        printable(name),
        f"{slide.width_px:,} x {slide.height_px:,} px at {slide.mpp:.4g} um/px, "
        f"tissue {plan.tissue.tissue_share:.1%} ({how})",
        f"{plan.n_regions:,} {plan.grid.words}; tiles: {tiles}"
        if plan.n_regions
        else "no tissue found: nothing is embedded",
    ]
    # Text is made to fit, so that a narrow slide has its words, too.
    strip = np.full((len(lines) * _LINE_PX + 8, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        text = line.encode("ascii", "replace").decode()  # OpenCV draws no other letters
        needed = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]
        size = min(0.5, 0.5 * (width - 8) / max(needed, 1))
        place = (4, (number + 1) * _LINE_PX - 4)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, _TEXT, 1, cv2.LINE_AA)
    return strip
