"""A set with larger regions, made of a set that is there: neighbouring regions become one."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.errors import ConfigError
from parfocal.geometry import whole_ratio
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, settings_digest, write_tokens


def regions_per_side(tiles: EmbeddingSet, region_um: float) -> int:
    """How many regions of the set lie along the side of a larger one.

    Raises:
        ConfigError: it is no whole number.
    """
    ratio = whole_ratio(region_um, tiles.region_um)
    if ratio is None:
        raise ConfigError(
            f"region_um={region_um:g} is not a whole multiple of the {tiles.region_um:g} um of {tiles.name}. "
            "Choose one that is, or embed with that side and make it an axis of tiles."
        )
    return ratio


def regroup_set(tiles: EmbeddingSet, region_um: float, root: Path) -> EmbeddingSet:
    """The same tiles in regions of `region_um`; slides that are there already are kept.

    Raises:
        ConfigError: `region_um` is no whole multiple of the set's, or a slide's regions lie on no lattice.
    """
    n = regions_per_side(tiles, region_um)
    if n == 1:
        return tiles
    described = {**tiles.settings, "regrouped": {"from": settings_digest(tiles.settings), "region_um": region_um}}
    path = create_set(
        root,
        f"{tiles.name.rsplit('-', 1)[0]}-{settings_digest(described)}",
        "tiles",
        region_um=region_um,
        dims=tiles.dims,
        settings=described,
        encoder_digests=tiles.encoder_digests,
        tile_px=tiles.tile_px,
        dtype=tiles.content["dtype"],
    )
    there = set(open_set(path).slides)
    for slide in tiles.slides:
        if slide not in there:
            write_tokens(path, regroup_tokens(tiles.read(slide), n))
    return open_set(path)


def regroup_tokens(tokens: SlideTokens, n: int) -> SlideTokens:
    """Each n x n block of regions as one region; tiles stay where they are on the slide.

    Raises:
        ConfigError: the regions lie on no lattice.
    """
    side_um = tokens.region_um
    lattice = _lattice(tokens.region_xy_um, side_um, tokens.slide)
    offset = tokens.region_xy_um[:1] - lattice[:1] * side_um if len(lattice) else np.zeros((1, 2))
    # Regions are sorted by row and then by column, as (row, column) pairs.
    blocks, block = np.unique(lattice[:, ::-1] // n, axis=0, return_inverse=True)
    block = block.reshape(-1)
    xy_um = blocks[:, ::-1] * (n * side_um) + offset
    moved = (tokens.region_xy_um + side_um / 2) - (xy_um[block] + n * side_um / 2)
    features, region, center_um = {}, {}, {}
    for mpp in tokens.mpps:
        own = tokens.region[mpp]
        center = tokens.center_um[mpp] + moved[own]
        order = np.lexsort((np.rint(center[:, 0]), np.rint(center[:, 1]), block[own]))
        features[mpp] = tokens.features[mpp][order]
        region[mpp] = block[own][order].astype(np.int32)
        center_um[mpp] = center[order].astype(np.float32)
    return SlideTokens(
        tokens.slide, n * side_um, tokens.slide_mpp, xy_um.astype(np.float64), features, region, center_um
    )


def _lattice(xy_um: Float64[np.ndarray, "region 2"], side_um: float, slide: str) -> Int64[np.ndarray, "region 2"]:
    """Column and row of each region."""
    if not len(xy_um):
        return np.zeros((0, 2), dtype=np.int64)
    # A lattice that starts anywhere: its first region tells where.
    place = (xy_um - xy_um[0] % side_um) / side_um
    nearest = np.rint(place).astype(np.int64)
    worst = float(np.abs(place - nearest).max()) * side_um
    if worst > 1e-3 * side_um:
        raise ConfigError(
            f"the regions of {slide} lie on no lattice (one is {worst:.1f} um off), so they cannot be joined to larger "
            "ones. Embed with the larger region instead."
        )
    lattice: Int64[np.ndarray, "region 2"] = nearest
    return lattice
