"""One slide that has tiles of some magnifications gets those of others, on the lattice of the tiles that it has."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.addresses import shown_path
from parfocal.config import GridConfig
from parfocal.embed.onto import SAME_MPP, TilesThere, added_mpps, index_of, tiles_there
from parfocal.embed.reading import OnTiles, TileRows
from parfocal.embed.settings import EmbedSettings, asked_mpp, asked_scan
from parfocal.embed.summary import EmbeddedSlide
from parfocal.embed.verify import Agreement, agreement_text, verify_rows
from parfocal.encoders import TileEncoder
from parfocal.errors import CalibrationError, ConfigError, MismatchError, StoreError
from parfocal.geometry import format_mpp
from parfocal.regions import RegionPlan, qc_path, write_qc
from parfocal.regions.tissue import TissueMask, find_tissue
from parfocal.slides import Slide, SlideSource, open_slide
from parfocal.store.files import SlideOrigin
from parfocal.store.fingerprint import fingerprinting
from parfocal.store.layout import index_path
from parfocal.store.tokens import SlidePlaces
from parfocal.store.write import SlideWriter


def embed_onto(
    source: SlideSource,
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    *,
    on_tiles: OnTiles | None = None,
) -> EmbeddedSlide:
    """Encode the tiles of the added magnifications of one slide, and index those that it has beside them.

    The slide is read as if a pixel of it were as large as makes its tiles exactly as large as their magnification says:
    then regions nest in the tiles that are there and nothing drifts. What is stored is in its true micrometres.

    Args:
        source: the slide, by its id in the index.
        encoders: the encoder of each magnification that is encoded, added or again.
        settings: with the grid of `settings_onto`.
        set_path: the set's folder.
        on_tiles: told of the progress after every batch.

    Raises:
        MismatchError: its rows are not what the encoder gives, its tiles lie on no lattice, or it is another slide.
        SlideError: see `embed_slide`.
        StoreError: a file of its features has changed since it was indexed, or a row cannot be stored.
    """
    if settings.add_to is None:
        raise ConfigError("there is nothing to add to. Name a store of `parfocal index` (add_to=...).")
    started, grid, new = time.monotonic(), settings.grid, added_mpps(settings)
    index = index_of(settings.add_to)
    there = tiles_there(index, source.slide, grid)
    stored = index.read(source.slide).features  # which sees that the files are those that were indexed
    scale = there.joined.region_um / grid.region_um
    with _opened(source, settings, there, scale) as (slide, slide_mpp), fingerprinting(source.path) as fingerprint:
        found: dict[float, Agreement] = {}
        for mpp in index.mpps if settings.verify else ():
            one = verify_rows(
                slide,
                encoders[mpp],
                mpp,
                slide_id=source.slide,
                stored=stored[mpp][there.number[mpp]],
                xy_um=there.xy_um[mpp] / scale,
                side_um=there.side_um[mpp] / scale,
                n_tiles=settings.verify,
                batch=settings.batch,
            )
            if one is not None:
                found[mpp] = one
        del stored
        plan = _plan(slide, grid, there, scale, new, source.slide)
        if settings.qc:
            write_qc(qc_path(set_path.parent, source.slide), slide, plan, slide_id=source.slide)
        planned = {mpp: plan.tiles(mpp) for mpp in new}
        joined = there.joined
        writer = SlideWriter(
            set_path,
            SlidePlaces(
                source.slide,
                joined.region_um,
                slide_mpp,
                joined.region_xy_um,
                {**joined.region, **{mpp: tiles.region for mpp, tiles in planned.items()}},
                {
                    **joined.center_um,
                    **{mpp: (tiles.center_um * scale).astype(np.float32) for mpp, tiles in planned.items()},
                },
                _tissue(plan, there, scale),
            ),
            coords_l0px={mpp: tiles.coords_l0px for mpp, tiles in planned.items()},
            there=there.rows,
            origin=_origin(slide, source, plan, index.attributes(source.slide)),
            attributes={
                "realised_mpp": {
                    **{format_mpp(mpp): side_um / grid.tile_px for mpp, side_um in there.side_um.items()},
                    **{format_mpp(mpp): mpp * scale for mpp in new},
                },
                "misalignment_um": {format_mpp(mpp): off for mpp, off in joined.misalignment_um.items()},
                "verified": {format_mpp(mpp): asdict(one) for mpp, one in found.items()} or None,
            },
        )
        rows = TileRows(slide, plan, encoders, settings, on_tiles)
        with writer:
            rows.expect({mpp: len(tiles) for mpp, tiles in planned.items()})
            for mpp, own in rows.read():
                writer.append(mpp, own)
            if any(rows.absent.values()):
                writer.leave_out(rows.absent)
            writer.set_fingerprint(*fingerprint())
            if index_path(set_path, source.slide).is_file():
                raise StoreError(f"{source.slide} has been embedded by another run in the meantime.")
    return EmbeddedSlide(
        source.slide,
        source.path,
        False,
        writer.n_regions,
        {mpp: len(tiles) - len(rows.absent.get(mpp, ())) for mpp, tiles in planned.items()},
        time.monotonic() - started,
        {mpp: len(absent) for mpp, absent in rows.absent.items()},
        next((reason for absent in rows.absent.values() for reason in absent.values()), None),
        remark=agreement_text(found),
        encode_seconds=rows.encode_seconds,
        wait_seconds=rows.wait_seconds,
    )


@contextmanager
def _opened(
    source: SlideSource, settings: EmbedSettings, there: TilesThere, scale: float
) -> Iterator[tuple[Slide, float]]:
    """The slide with a pixel that is `scale` times smaller than its true one, and the true one.

    Raises:
        MismatchError: the features are of a slide of another resolution or size.
    """
    scan, asked, own = asked_scan(source, settings), asked_mpp(source, settings), None
    with (
        suppress(CalibrationError),
        open_slide(
            source.path, slide_mpp=asked, mpp_from_objective=settings.mpp_from_objective, scan=scan
        ) as as_it_says,
    ):
        own = as_it_says.mpp
    mpp = own if math.isnan(there.slide_mpp) else there.slide_mpp
    if mpp is None:
        raise CalibrationError(
            f"the microns per pixel of {source.slide} are not known: neither its features nor its file say them. Pass "
            "--slide-mpp if you know it."
        )
    if own is not None and abs(own / mpp - 1) > SAME_MPP:
        raise MismatchError(
            f"a pixel of {source.path} has {own:.5g} um, and in the index of {source.slide} it is {mpp:.5g}. One of "
            "the two is wrong, or it is another copy of the slide: index the features with this file (--slides)."
        )
    with open_slide(source.path, slide_mpp=mpp / scale, scan=scan) as slide:
        size, known = (slide.width_px, slide.height_px), there.size_l0px
        if 0 not in known and max(abs(one / other - 1) for one, other in zip(size, known, strict=True)) > SAME_MPP:
            raise MismatchError(
                f"{source.path} has {size[0]} x {size[1]} px, and the features of {source.slide} are of a slide of "
                f"{known[0]} x {known[1]} px. Name the slide that they were extracted from."
            )
        yield slide, mpp


def _plan(
    slide: Slide, grid: GridConfig, there: TilesThere, scale: float, new: tuple[float, ...], slide_id: str
) -> RegionPlan:
    """The regions of the tiles that are there; a new tile is kept where it shares a place with one of them.

    Of each new tile `grid.min_inside` must lie on the slide. None of the magnifications that are there is read.
    """
    tissue = find_tissue(slide, grid.tissue, slide_id=slide_id)
    lattice = there.joined.region_xy_um / scale / grid.region_um
    n_regions, n = there.is_there.shape[:2]
    kept = dict[float, np.ndarray]()
    for mpp in grid.mpps:
        side = grid.tiles_per_side(mpp)
        if mpp not in new:
            kept[mpp] = np.zeros((n_regions, side, side), bool)
            continue
        # In parts of which whole numbers make a tile of either kind.
        parts = math.lcm(side, n)
        fine = np.repeat(np.repeat(there.is_there, parts // n, axis=1), parts // n, axis=2)
        held = fine.reshape(n_regions, side, parts // side, side, parts // side).any(axis=(2, 4))
        is_inside = _inside(slide, grid, lattice, side) >= max(grid.min_inside - 1e-9, 1e-18)
        kept[mpp] = np.asarray(held & is_inside)
    edges = np.concatenate([lattice, lattice + 1], axis=1) * grid.region_um
    return RegionPlan(grid, slide.mpp, lattice, kept, tissue.shares(edges), tissue)


def _inside(
    slide: Slide, grid: GridConfig, lattice: Float64[np.ndarray, "region 2"], side: int
) -> Float64[np.ndarray, "region side side"]:
    """The share of each slot that lies on the slide."""
    parts = []
    for axis, size_px in enumerate((slide.width_px, slide.height_px)):
        start = (lattice[:, axis, None] * side + np.arange(side)) * grid.region_um / side
        end = np.minimum(start + grid.region_um / side, size_px * slide.mpp)
        parts.append(np.clip((end - np.maximum(start, 0.0)) * side / grid.region_um, 0.0, 1.0))
    across, down = parts
    return np.asarray(down[:, :, None] * across[:, None, :])


def _tissue(plan: RegionPlan, there: TilesThere, scale: float) -> dict[float, np.ndarray]:
    """How much of each finest tile is tissue, whoever encoded it."""
    finest = min(plan.grid.mpps)
    if finest not in there.xy_um:
        return {finest: plan.tissue_of_tiles(finest)}
    return {finest: _shares(plan.tissue, there.xy_um[finest] / scale, there.side_um[finest] / scale)}


def _shares(tissue: TissueMask, xy_um: Float64[np.ndarray, "tile 2"], side_um: float) -> np.ndarray:
    return tissue.shares(np.concatenate([xy_um, xy_um + side_um], axis=1)).astype(np.float32)


def _origin(slide: Slide, source: SlideSource, plan: RegionPlan, known: Mapping[str, object]) -> SlideOrigin:
    mpp_source = known.get("slide_mpp_source")
    return SlideOrigin(
        # Names of files may be no UTF-8, and attributes of HDF5 are.
        path=shown_path(source.path).encode("utf-8", "backslashreplace").decode(),
        size_l0px=(slide.width_px, slide.height_px),
        objective_power=slide.objective_power,
        mpp_source=None if mpp_source is None else str(mpp_source),
        scan=slide.scan if slide.n_scans > 1 else None,
        tissue_mask=plan.tissue.mask_file,
    )
