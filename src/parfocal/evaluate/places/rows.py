"""What a slide's sets hold of a place: vectors of every magnification, of its context, and of region encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.spatial import KDTree

from parfocal.bags import readout_label
from parfocal.geometry import format_mpp
from parfocal.regions.places import STEP_UM
from parfocal.store import EmbeddingSet, SlideRegions, SlideTokens

# Stored centres are float32, and a tile that ends where a footprint ends lies in it.
_TOLERANCE = 1e-3


def around(mpp: float) -> str:
    """The name of the mean of the finest tiles over the footprint of a coarser tile: context without its pixels."""
    return f"finest tiles around, {format_mpp(mpp)}"


def elsewhere(mpp: float) -> str:
    """The name of a coarse tile of another place of the same slide."""
    return f"{format_mpp(mpp)} of another place"


def noise(mpp: float) -> str:
    """The name of random numbers of the width of a magnification."""
    return f"noise for {format_mpp(mpp)}"


def is_tiles(one: EmbeddingSet) -> bool:
    """Whether a set holds the embeddings of tiles themselves, and not what a region encoder made of them."""
    return one.kind == "tiles" and "model" not in one.settings


def model_name(one: EmbeddingSet) -> str:
    """How to call what a region encoder made: the model and what was read out of it."""
    return f"{one.settings.get('model', one.name)}/{readout_label(one) or 'region'}"


def model_blocks(one: EmbeddingSet) -> tuple[str, ...]:
    """The names of its blocks at a place: the vector of the region, or the contextual tokens of the tiles there."""
    if one.kind == "regions":
        return (model_name(one),)
    return tuple(f"{model_name(one)}, {format_mpp(mpp)}" for mpp in one.mpps)


def model_blocks_around(one: EmbeddingSet, tiles: EmbeddingSet) -> tuple[str, ...]:
    """The names of the means of its finest tokens over the footprints of coarser tiles; a region vector has none."""
    if one.kind == "regions":
        return ()
    return tuple(f"{model_name(one)}, {around(mpp)}" for mpp in tiles.mpps[:-1])


def all_model_blocks(one: EmbeddingSet, tiles: EmbeddingSet) -> tuple[str, ...]:
    """The names of all that is known of it at a place: `model_blocks` and `model_blocks_around`."""
    return model_blocks(one) + model_blocks_around(one, tiles)


def read_made(one: EmbeddingSet, slide: str) -> SlideTokens | SlideRegions:
    """What a region encoder made of a slide: contextual tokens, or a vector for each region."""
    return one.read(slide) if one.kind == "tiles" else one.read_regions(slide)


@dataclass(frozen=True, eq=False)
class PlaceRows:
    """What is known of places of one slide; entry i of everything is of place i.

    Attributes:
        there: whether a region holds it and has a tile of every magnification; of others the rest means nothing.
        offset_um: how far it lies from the middle of its region.
        blocks: vectors by name, without the controls.
    """

    there: Bool[np.ndarray, " place"]
    offset_um: Float64[np.ndarray, " place"]
    blocks: Mapping[str, Float32[np.ndarray, "place _dim"]]


def rows_at(
    tokens: SlideTokens,
    tile_um: Mapping[float, float],
    made: Sequence[tuple[Sequence[str], SlideTokens | SlideRegions]],
    xy_um: Float64[np.ndarray, "place 2"],
) -> PlaceRows:
    """The vectors of places, of the region whose middle is nearest to each.

    Args:
        tokens: of the slide.
        tile_um: side of its tiles, per magnification.
        made: what region encoders made of it, each after the names of the blocks that are wanted, of those of
            `all_model_blocks`.
        xy_um: the places.
    """
    footprints = tokens.mpps[:-1]
    region, offset = _nearest(tokens, xy_um)
    blocks, complete = _blocks_of(tokens, region, offset, tile_um, footprints)
    there = complete & _is_inside(tokens, offset)
    for names, known in made:
        region, off = _nearest(known, xy_um)
        there &= _is_inside(known, off)
        if isinstance(known, SlideTokens):
            rows, complete = _blocks_of(known, region, off, tile_um, footprints)
            there &= complete
            # The longest, as the name of what lies around ends with that of a magnification too.
            ends = {name: max((end for end in rows if name.endswith(f", {end}")), key=len) for name in names}
            blocks |= {name: rows[end] for name, end in ends.items()}
        else:
            [name] = names
            some = known.features if len(known.features) else np.zeros((1, known.features.shape[1]))
            blocks[name] = some[region].astype(np.float32)
    return PlaceRows(there, np.hypot(*offset.T), blocks)


def _nearest(
    known: SlideTokens | SlideRegions, xy_um: Float64[np.ndarray, "place 2"]
) -> tuple[Int64[np.ndarray, " place"], Float64[np.ndarray, "place 2"]]:
    """The region whose middle is nearest to each place, and the way from there; infinitely far where there is none."""
    if not len(known.region_xy_um):
        return np.zeros(len(xy_um), np.int64), np.full_like(xy_um, np.inf)
    middle = known.region_xy_um + known.region_um / 2
    region = KDTree(middle).query(xy_um, p=np.inf)[1].astype(np.int64)
    return region, xy_um - middle[region]


def _is_inside(
    known: SlideTokens | SlideRegions, offset_um: Float64[np.ndarray, "place 2"]
) -> Bool[np.ndarray, " place"]:
    return np.asarray(np.abs(offset_um).max(axis=1, initial=0.0) <= known.region_um / 2 + STEP_UM)


def _blocks_of(
    tokens: SlideTokens,
    region: Int64[np.ndarray, " place"],
    offset_um: Float64[np.ndarray, "place 2"],
    tile_um: Mapping[float, float],
    footprints: Sequence[float],
) -> tuple[dict[str, Float32[np.ndarray, "place _dim"]], Bool[np.ndarray, " place"]]:
    """The tile of every magnification at each place, and means of the finest ones over the footprints of coarser tiles.

    A footprint is that of the tile nearest to the place, or lies around the place where there is no such tile.
    """
    finest = tokens.mpps[-1]
    blocks = {
        format_mpp(mpp): np.zeros((len(region), rows.shape[1]), np.float32) for mpp, rows in tokens.features.items()
    }
    width = tokens.features[finest].shape[1]
    blocks |= {around(mpp): np.zeros((len(region), width), np.float32) for mpp in footprints}
    there = np.full(len(region), tokens.n_regions > 0)
    if not tokens.n_regions:
        return blocks, there
    bounds = {mpp: np.searchsorted(own, np.arange(tokens.n_regions + 1)) for mpp, own in tokens.region.items()}
    per_side = round(tokens.region_um / tile_um[finest])
    for place, number in enumerate(region.tolist()):
        nearest: dict[float, int] = {}
        for mpp in tokens.mpps:
            first, beyond = bounds[mpp][number : number + 2].tolist()
            if first == beyond:
                there[place] = False
                break
            away = np.abs(tokens.center_um[mpp][first:beyond] - offset_um[place]).max(axis=1)
            nearest[mpp] = first + int(away.argmin())
            blocks[format_mpp(mpp)][place] = tokens.features[mpp][nearest[mpp]]
        else:
            own = slice(*bounds[finest][number : number + 2].tolist())
            centers = tokens.center_um[finest][own].astype(np.float64)
            # Tiles of the region's lattice alone: one more in its middle would count what it shows twice.
            column = (centers / tokens.region_um + 0.5) * per_side - 0.5
            # Features of another tool may have a lattice that starts elsewhere.
            column -= np.median(column - np.rint(column), axis=0)
            on_lattice = (np.abs(column - np.rint(column)) < 0.25).all(axis=1)
            for mpp in footprints:
                middle = tokens.center_um[mpp][nearest[mpp]] if mpp in nearest else offset_um[place]
                reach = (tile_um[mpp] - tile_um[finest]) / 2 + _TOLERANCE * tile_um[finest]
                inside = (np.abs(centers - middle) <= reach).all(axis=1) & on_lattice
                picked = own.start + np.flatnonzero(inside) if inside.any() else [nearest[finest]]
                blocks[around(mpp)][place] = tokens.features[finest][picked].mean(axis=0, dtype=np.float64)
    return blocks, there
