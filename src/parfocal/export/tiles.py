"""What a set holds of a slide as tiles of one magnification each, every tile once, with its place in level 0."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.geometry import format_mpp, to_l0px
from parfocal.store import EmbeddingSet, check_level0_known
from parfocal.store.formats.format import FeaturesToWrite
from parfocal.store.formats.lattice import step_of

# Centres are stored as float32: what is nearer to half a pixel than this part of one is half a pixel, so that a tile
# that two regions share is rounded to one place.
_DECIMALS = 3
# Pixels of 1/1024 um stand for micrometres where a slide has no resolution; a place is then off by half of one at most.
_UM_IN_PX = 2.0**-10


@dataclass(frozen=True)
class TileSide:
    """What one magnification of a set is, as other tools name it.

    Attributes:
        mpp: of the set, which its tiles are read by; None where a row is a region.
        shown_mpp: micrometres in a pixel of a tile.
        tile_px: side of a tile in its own pixels.
        encoder: the name of the encoder.
    """

    mpp: float | None
    shown_mpp: float
    tile_px: int
    encoder: str


def sides_of(source: EmbeddingSet) -> tuple[TileSide, ...]:
    """The magnifications of a set, coarse to fine; of regions one, of which a region is a tile.

    A region counts as a tile of its own side, with the pixels that it has at the coarsest magnification.
    """
    if source.kind == "regions":
        tile_px = max(1, round(source.region_um / max(source.mpps)))
        return (TileSide(None, source.region_um / tile_px, tile_px, source.name),)
    return tuple(
        TileSide(mpp, mpp, round(side_um / mpp), _encoder(source, mpp)) for mpp, side_um in source.tile_um.items()
    )


def features_of(source: EmbeddingSet, slide: str, *, in_um: bool) -> Iterator[FeaturesToWrite]:
    """The rows of a slide, one magnification after the other, row by row from the top left, a shared tile once.

    Args:
        source: the set.
        slide: id.
        in_um: whether the layout counts in micrometres, which needs no resolution of the slide.

    Raises:
        CalibrationError: the slide's resolution is not known, and is needed.
        StoreError: see `EmbeddingSet.read`.
    """
    known = source.attributes(slide)
    size = (int(known.get("level0_width", 0)), int(known.get("level0_height", 0)))
    path = known.get("slide_path")
    slide_mpp = float(known["slide_mpp"])
    if not in_um:
        check_level0_known(slide, slide_mpp, ", or export it in STAMP's layout")
    elif not np.isfinite(slide_mpp):
        slide_mpp, size = _UM_IN_PX, (0, 0)
    if source.kind == "regions":
        regions = source.read_regions(slide)
        parts = [(side, regions.features, regions.region_xy_um, regions.region_um) for side in sides_of(source)]
    else:
        tokens = source.read(slide)
        tile_um, parts = source.tile_um_of(tokens), []
        for side in sides_of(source):
            assert side.mpp is not None  # of tiles
            center_um = tokens.center_um[side.mpp].astype(np.float64)
            region_xy_um = tokens.region_xy_um[tokens.region[side.mpp]]
            xy_um = region_xy_um + (tokens.region_um - tile_um[side.mpp]) / 2 + center_um
            parts.append((side, tokens.features[side.mpp], xy_um, tile_um[side.mpp]))
    for side, rows, xy_um, side_um in parts:
        xy_l0px = whole_px(xy_um, slide_mpp)
        kept = once_each(rows, xy_l0px)
        tile_l0px = max(1, round(side_um / slide_mpp))
        step = step_of(xy_l0px[kept].astype(np.float64))
        yield FeaturesToWrite(
            slide,
            rows[kept],
            xy_l0px[kept],
            side.tile_px,
            tile_l0px,
            # Steps that rounding made a pixel shorter are no overlap, and longer ones are gaps.
            round(step) if step is not None and step < tile_l0px - 1 else tile_l0px,
            side.shown_mpp,
            slide_mpp,
            size,
            side.encoder,
            slide_path=None if path is None else str(path),
        )


def whole_px(xy_um: Float64[np.ndarray, "tile 2"], slide_mpp: float) -> Int64[np.ndarray, "tile 2"]:
    """Places in micrometres as the nearest pixels of level 0, as `embed` rounds them."""
    return to_l0px(np.round(xy_um / slide_mpp, _DECIMALS), 1.0)


def once_each(rows: Float[np.ndarray, "tile dim"], xy: Int64[np.ndarray, "tile 2"]) -> Int64[np.ndarray, " kept"]:
    """The numbers of the tiles, row by row from the top left; of those of one place and one row, the first."""
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    there = (np.diff(xy[order], axis=0) == 0).all(axis=1)
    again = np.flatnonzero(there)
    # Few tiles are shared by many regions, so only those are compared.
    again = again[(rows[order[again]] == rows[order[again + 1]]).all(axis=1)]
    return np.asarray(np.delete(order, again + 1), np.int64)


def _encoder(source: EmbeddingSet, mpp: float) -> str:
    """The name of the encoder of a magnification; of rows that a region encoder made, that of the set."""
    settings = source.settings
    if "model" in settings:
        return source.name
    own = settings.get("encoders", {}).get(format_mpp(mpp), {})
    return str(own.get("name") or settings.get("encoder") or source.name)
