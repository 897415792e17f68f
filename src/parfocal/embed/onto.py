"""What a store has of tiles to which others are added: on what lattice they lie, and which regions that makes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.config import GridConfig
from parfocal.embed.settings import EmbedSettings
from parfocal.encoders import TileEncoder
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.geometry import format_mpp, whole_ratio
from parfocal.slides import SlideSource
from parfocal.store.formats.format import FeatureFile, FeatureSource
from parfocal.store.grid import TileGrid, lay_grid
from parfocal.store.join import JoinedTiles, join_tiles
from parfocal.store.layout import index_path
from parfocal.store.resolution import source_of
from parfocal.store.row_source import RowSource
from parfocal.store.set import EmbeddingSet, open_set, open_sets
from parfocal.store.tokens import SlidePlaces

# Tools cut places to whole pixels of level 0; what is off by more does not nest.
_LARGEST_SHARE_OFF = 0.02
_BAND_COLUMNS = 16
# Two numbers for the resolution of one slide that differ by more cannot both be right.
SAME_MPP = 0.01
_DEFAULT = GridConfig()


@lru_cache(maxsize=1)
def index_of(path: Path) -> EmbeddingSet:
    """The set to which magnifications are added; a process opens it once for all slides of a run.

    Of a store that is the one of which others were made, so that the same command goes on and another may add more.

    Raises:
        StoreError: there is none, or more than one.
    """
    own = [one for one in open_sets(path) if "added_to" not in one.settings]
    return own[0] if len(own) == 1 else open_set(path)


def added_mpps(settings: EmbedSettings) -> tuple[float, ...]:
    """The magnifications of the grid that the rows of the index do not have; all where nothing is added to."""
    if settings.add_to is None:
        return settings.grid.mpps
    return tuple(mpp for mpp in settings.grid.mpps if mpp not in index_of(settings.add_to).mpps)


def settings_onto(settings: EmbedSettings) -> EmbedSettings:
    """The settings with the grid that the tiles of the index give: their side, and all magnifications.

    A region is one of the coarsest tiles where its side is not given.

    Raises:
        ConfigError: no magnification is new, or the new tiles and those that are there are no whole parts of a region.
        MismatchError: the index has tiles that overlap, of several sides, or is a set of regions.
        StoreError: there is no index.
    """
    if settings.add_to is None:
        return settings
    index_of.cache_clear()
    index, grid = index_of(settings.add_to), settings.grid
    there, names = index.tile_um, ", ".join(map(format_mpp, index.mpps))
    index.refuse_several_sides()
    if index.step_um < max(there.values()) * (1 - _LARGEST_SHARE_OFF):
        raise MismatchError(
            f"cannot add to {index}: its tiles overlap (one every {index.step_um:g} um), so that coarser ones cannot "
            "be laid around them side by side. Extract the slides without overlap, or embed them with parfocal."
        )
    tile_px = int(index.content["tile_px"])
    if grid.tile_px not in {_DEFAULT.tile_px, tile_px}:
        raise ConfigError(f"the tiles of {index} have {tile_px} px, not {grid.tile_px}. Leave --tile-px out.")
    new = [mpp for mpp in grid.mpps if not any(math.isclose(mpp, own, rel_tol=1e-6) for own in index.mpps)]
    if not new:
        raise ConfigError(f"{index} has all of these magnifications ({names} mpp). Name others with --mpps.")
    mpps = sorted([*new, *index.mpps], reverse=True)
    coarsest_um = mpps[0] * tile_px
    region_um = coarsest_um if grid.region_um == _DEFAULT.region_um else grid.region_um
    odd = [mpp for mpp in mpps if whole_ratio(region_um, mpp * tile_px) is None]
    if odd:
        raise ConfigError(
            f"tiles of {format_mpp(odd[0])} mpp ({odd[0] * tile_px:g} um) do not fill a region of {region_um:g} um; "
            f"the tiles that are there have {names} mpp. Add whole multiples or whole parts of that, or name a side of "
            "regions that holds whole numbers of all (--region-um)."
        )
    whole = GridConfig(**{**grid.model_dump(), "region_um": region_um, "mpps": tuple(mpps), "tile_px": tile_px})
    return settings.model_copy(update={"grid": whole})


def encoder_settings(settings: EmbedSettings) -> EmbedSettings:
    """The settings by which encoders are loaded: without the magnifications that nobody encodes."""
    if settings.add_to is None or settings.verify:
        return settings
    grid = settings.grid.model_copy(update={"mpps": added_mpps(settings)})
    return settings.model_copy(update={"grid": grid})


def check_widths(settings: EmbedSettings, encoders: Mapping[float, TileEncoder]) -> None:
    """Refuse an encoder whose rows cannot be those that are there, before a slide is read.

    Raises:
        MismatchError: they have another width.
    """
    if settings.add_to is None or not settings.verify:
        return
    index = index_of(settings.add_to)
    for mpp, dim in index.dims.items():
        if encoders[mpp].dim != dim:
            raise MismatchError(
                f"the rows of {index} at {format_mpp(mpp)} mpp have {dim} numbers, and {encoders[mpp].spec} gives "
                f"{encoders[mpp].dim}: another encoder made them. Name theirs (--encoder), or --verify 0 to put rows "
                "of another encoder beside them."
            )


def set_facts(
    settings: EmbedSettings, encoders: Mapping[float, TileEncoder]
) -> tuple[dict[float, int], dict[float, str]]:
    """The width of a row and the digest of its encoder, per magnification; rows that are there keep theirs.

    Rows that are encoded again on every slide have the digest of the encoder that gives them.
    """
    dims = {mpp: encoder.dim for mpp, encoder in encoders.items()}
    digests = {mpp: encoder.digest for mpp, encoder in encoders.items()}
    if settings.add_to is not None:
        index = index_of(settings.add_to)
        dims, digests = {**index.dims, **dims}, {**index.encoder_digests, **digests}
    return dims, digests


def added_rows(settings: EmbedSettings) -> dict[str, Any]:
    """What of the settings of a set is of the rows that were there."""
    if settings.add_to is None:
        return {}
    index = index_of(settings.add_to)
    return {
        "added_to": {
            "set": index.name,
            "mpps": list(index.mpps),
            "encoder": index.settings.get("encoder", ""),
            "source": index.settings.get("source", "parfocal embed"),
            "encoder_digests": {format_mpp(mpp): digest for mpp, digest in index.encoder_digests.items()},
            "verified": settings.verify > 0,
        }
    }


def matched(sources: Sequence[SlideSource], settings: EmbedSettings) -> tuple[SlideSource, ...]:
    """The slides by the ids of the index; then those that have no features, and features that have no slide."""
    if settings.add_to is None:
        return tuple(sources)
    index, known = index_of(settings.add_to), {source.slide: source for source in sources}
    found = {slide: source_of(slide, known) for slide in index.slides}
    used = {source.slide for source in found.values() if source is not None}
    return (
        *(replace(source, slide=slide) for slide, source in found.items() if source is not None),
        *(source for source in sources if source.slide not in used),
        *(SlideSource(slide, index_path(index.path, slide)) for slide, source in found.items() if source is None),
    )


def without_partner(sources: Sequence[SlideSource], settings: EmbedSettings) -> dict[str, StoreError]:
    """Of what `matched` gives, what cannot be added to, each with the refusal."""
    if settings.add_to is None:
        return {}
    index, refused = index_of(settings.add_to), dict[str, StoreError]()
    for source in sources:
        if source.slide not in index.slides:
            refused[source.slide] = StoreError(
                f"{source.path} has no features in {index}. Index its features, or leave it out."
            )
        elif source.path == index_path(index.path, source.slide):
            refused[source.slide] = StoreError(
                f"{source.slide} has features in {index}, and its slide file is not among those that are given. Name "
                "it, or a manifest (slide,path) where its file has another name."
            )
    return refused


@dataclass(frozen=True, eq=False)
class TilesThere:
    """The tiles that a slide has, in the regions of the lattice on which they lie.

    Attributes:
        slide_mpp: micrometres per pixel of level 0 as the features have it; NaN where they do not say.
        size_l0px: width and height of level 0 as the features have it; zeros where they do not say.
        joined: the regions and the tiles in them; lengths are the slide's true micrometres.
        side_um: per magnification, the true side of a tile.
        xy_um: per magnification, the top left of the tile of each row that `joined` names.
        rows: per magnification, where the rows are, in the order of `joined`.
        number: per magnification, the place of each of these rows among the tiles of the index.
        is_there: of each region, at which of the slots of its coarsest stored magnification a tile is.
    """

    slide_mpp: float
    size_l0px: tuple[int, int]
    joined: JoinedTiles
    side_um: Mapping[float, float]
    xy_um: Mapping[float, Float64[np.ndarray, "_tile 2"]]
    rows: Mapping[float, RowSource]
    number: Mapping[float, np.ndarray]
    is_there: Bool[np.ndarray, "region side side"]


def tiles_there(index: EmbeddingSet, slide: str, grid: GridConfig) -> TilesThere:
    """Lay the regions of a grid on the lattice of the tiles that a slide has.

    Raises:
        MismatchError: its tiles lie on no one lattice, or nothing says that all of it was read.
        StoreError: the slide is not in the index, or its index is damaged.
    """
    if index.reading(slide) is not None:
        raise MismatchError(
            f"cannot add to {slide}: {index} has read it in part. Embed it whole, or use another store."
        )
    places, sources, known = index.places(slide), index.row_sources(slide), index.attributes(slide)
    realised = json.loads(known["realised_mpp"]) if "realised_mpp" in known else {}
    grids, number, file_rows = {}, {}, {}
    for mpp, source in sources.items():
        side_um = index.tile_um_of(places)[mpp]
        if format_mpp(mpp) in realised:
            side_um = float(realised[format_mpp(mpp)]) * index.tile_um[mpp] / mpp
        rows = np.arange(source.count) if source.row is None else np.asarray(source.row, np.int64)
        number[mpp] = np.unique(rows, return_index=True)[1]
        file_rows[mpp] = rows[number[mpp]]
        grids[mpp] = _grid(source, places, mpp, number[mpp], side_um)
    joined = _nested(slide, grids, whole_ratio(grid.region_um, max(index.tile_um.values())) or 1)
    n = whole_ratio(grid.region_um, grid.tile_um(max(index.mpps))) or 1
    is_there = np.zeros((len(joined.region_xy_um), n, n), bool)
    coarsest = max(index.mpps)
    slot = np.floor((joined.center_um[coarsest] / joined.region_um + 0.5) * n).astype(int).clip(0, n - 1)
    is_there[joined.region[coarsest], slot[:, 1], slot[:, 0]] = True
    return TilesThere(
        places.slide_mpp,
        (int(known.get("level0_width", 0)), int(known.get("level0_height", 0))),
        joined,
        {mpp: own.side_um for mpp, own in grids.items()},
        {mpp: grids[mpp].xy_um[joined.row[mpp]] for mpp in grids},
        {
            mpp: replace(source, count=len(joined.row[mpp]), row=file_rows[mpp][joined.row[mpp]])
            for mpp, source in sources.items()
        },
        {mpp: number[mpp][joined.row[mpp]] for mpp in grids},
        is_there,
    )


def _grid(source: RowSource, places: SlidePlaces, mpp: float, number: np.ndarray, side_um: float) -> TileGrid:
    """Where the tiles of one magnification lie, each once."""
    centers_um = places.region_xy_um[places.region[mpp][number]] + places.region_um / 2
    centers_um = centers_um + places.center_um[mpp][number].astype(np.float64)
    named = FeatureFile(FeatureSource(source.path), centers_um - side_um / 2, 1, side_um, 1, unit="um")
    return lay_grid(named, 1.0)


def _nested(slide: str, grids: Mapping[float, TileGrid], per_side: int) -> JoinedTiles:
    """The regions, in bands as slides are read; the lattice has the step of the tiles where their side does not fit it.

    Tools that cut the step to whole pixels, and not the side, have such tiles.
    """
    stepped = {
        mpp: replace(grid, xy_um=grid.xy_um + (grid.side_um - grid.stride_um) / 2, side_um=grid.stride_um)
        for mpp, grid in grids.items()
    }
    worst = ""
    for laid in (grids, stepped):
        if any(grid.overlaps for grid in laid.values()):
            raise MismatchError(
                f"cannot add to {slide}: its tiles overlap, so that coarser ones cannot be laid around them side by "
                "side. Extract it without overlap, or embed it with parfocal."
            )
        joined = join_tiles(laid, per_side, math.inf)
        off = {mpp: um / laid[mpp].side_um for mpp, um in joined.misalignment_um.items()}
        mpp = max(off, key=lambda mpp: off[mpp])
        if off[mpp] <= _LARGEST_SHARE_OFF:
            return _in_bands(joined)
        why = joined.reasons.get(mpp) or "they lie on lattices of several origins"
        worst = worst or f"a tile of {format_mpp(mpp)} mpp lies {joined.misalignment_um[mpp]:.1f} um off; {why}"
    raise MismatchError(
        f"cannot add to {slide}: its tiles lie on no one lattice, so that others cannot nest ({worst}). Tools that "
        "begin anew in each piece of tissue leave such tiles. Embed the slide with parfocal."
    )


def _in_bands(joined: JoinedTiles) -> JoinedTiles:
    """The same with the regions in vertical bands, row by row, so that what is decoded is used by the next row too."""
    xy = np.rint(joined.region_xy_um / joined.region_um * 16)
    order = np.lexsort((xy[:, 0], xy[:, 1], np.floor(xy[:, 0] / 16 / _BAND_COLUMNS)))
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    moved = {mpp: place[region] for mpp, region in joined.region.items()}
    by = {mpp: np.argsort(region, kind="stable") for mpp, region in moved.items()}
    return replace(
        joined,
        region_xy_um=joined.region_xy_um[order],
        region={mpp: moved[mpp][by[mpp]] for mpp in by},
        center_um={mpp: joined.center_um[mpp][by[mpp]] for mpp in by},
        row={mpp: joined.row[mpp][by[mpp]] for mpp in by},
    )
