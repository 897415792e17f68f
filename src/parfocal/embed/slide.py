"""One slide, one job: from the slide's file to its files in the store.

Its boundary is here too: whatever goes wrong in the job becomes that slide's recorded failure.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from parfocal.addresses import shown_path
from parfocal.embed.adding import embed_onto
from parfocal.embed.kept import kept_slide, known_places
from parfocal.embed.reading import OnTiles, TileRows
from parfocal.embed.rounds import append_zoomed, warn_of_missing_levels
from parfocal.embed.settings import EmbedSettings, asked_mpp, asked_scan
from parfocal.embed.stored_part import stored_rows_of
from parfocal.embed.summary import EmbeddedSlide
from parfocal.embed.zoom import Zoom, is_read
from parfocal.encoders import TileEncoder
from parfocal.errors import StoreError
from parfocal.regions import RegionPlan, plan_places, plan_regions, qc_path, write_qc
from parfocal.regions.places import places_digest
from parfocal.run.failures import FailedSlide
from parfocal.run.jobs import attempt_slide, own_warnings
from parfocal.slides import Slide, SlideSource, open_slide
from parfocal.store.files import SlideOrigin
from parfocal.store.fingerprint import fingerprinting
from parfocal.store.layout import index_path
from parfocal.store.mirror import publish
from parfocal.store.tokens import SlidePlaces
from parfocal.store.write import SlideWriter

Outcome = TypeVar("Outcome")


def embed_slide(
    source: SlideSource,
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    *,
    zoom: Zoom | None = None,
    on_tiles: OnTiles | None = None,
) -> EmbeddedSlide:
    """Embed the tiles of one slide at every magnification and write its files, whole or not at all.

    A slide that is done is not touched. Memory does not grow with the slide: tiles live for one batch, rows go to the
    file as they come.

    Args:
        source: the slide and its id.
        encoders: the encoder of each magnification.
        settings: the settings that the set was made with.
        set_path: the set's folder.
        zoom: which of the finest tiles are read; all where None. A slide that a smaller budget has read gets the rest.
        on_tiles: told of the progress after every batch; what it raises ends the job with nothing written.

    Raises:
        SlideError: the slide cannot be read, more of its tiles than `settings.max_absent` are absent, or its resolution
            is not known.
        MismatchError: it is done, and its file or its resolution has changed since.
        StoreError: a row cannot be stored; or it is done, and its files in the store are lost or damaged.
    """
    kept = kept_slide(source, settings, set_path, zoom)
    if kept is not None:
        return kept
    if settings.add_to is not None:
        return embed_onto(source, encoders, settings, set_path, on_tiles=on_tiles)
    started = time.monotonic()
    # A slide that has been read in part, by a smaller budget.
    is_grown = index_path(set_path, source.slide).is_file()
    with open_source(source, settings) as slide, fingerprinting(source.path) as fingerprint:
        plan = plan_slide(slide, source, settings)
        draw = partial(write_qc, qc_path(set_path.parent, source.slide), slide, plan, slide_id=source.slide)
        placed = {mpp: plan.tiles(mpp) for mpp in settings.grid.mpps}
        planned = {mpp: tiles.only_read() for mpp, tiles in placed.items()}
        finest = min(placed)
        writer = SlideWriter(
            set_path,
            SlidePlaces(
                source.slide,
                settings.grid.region_um,
                slide.mpp,
                plan.region_xy_um(),
                {mpp: tiles.region for mpp, tiles in placed.items()},
                {mpp: tiles.center_um for mpp, tiles in placed.items()},
                {finest: plan.tissue_of_tiles(finest)},
            ),
            row=plan.row or None,
            coords_l0px={mpp: tiles.coords_l0px for mpp, tiles in planned.items()},
            origin=_origin(slide, source, plan, settings),
            replaces=is_grown,
        )
        rows, budget = TileRows(slide, plan, encoders, settings, on_tiles), 1.0
        with writer:
            if zoom is None:
                rows.expect({mpp: len(tiles) for mpp, tiles in planned.items()})
                unread: Mapping[float, Int64[np.ndarray, " _tile"]] = {}
                for mpp, own in rows.read(meanwhile=draw if settings.qc else None):
                    writer.append(mpp, own)
            else:
                warn_of_missing_levels(slide, plan)
                before = stored_rows_of(set_path, source.slide, planned) if is_grown else None
                reached = append_zoomed(writer, rows, zoom, before, source.slide)
                unread, budget = reached.unread, reached.budget
                writer.set_reading(zoom.attributes(budget, is_settled=reached.is_settled), reached.worth)
                if settings.qc:
                    draw(read={mpp: ~np.isin(np.arange(plan.n_tiles(mpp)), left) for mpp, left in unread.items()})
            if any(rows.absent.values()) or any(map(len, unread.values())):
                writer.leave_out(rows.absent, unread)
            writer.set_fingerprint(*fingerprint())
            if not is_grown and index_path(set_path, source.slide).is_file():
                # Its files stay as they are: those of two writers must not stand beside each other.
                raise StoreError(f"{source.slide} has been embedded by another run in the meantime.")
            if is_grown and is_read(set_path, source.slide, zoom):
                raise StoreError(f"{source.slide} has been read further by another run in the meantime.")
    return EmbeddedSlide(
        source.slide,
        source.path,
        False,
        writer.n_regions,
        {mpp: len(tiles) - len(rows.absent.get(mpp, ())) - len(unread.get(mpp, ())) for mpp, tiles in planned.items()},
        time.monotonic() - started,
        {mpp: len(found) for mpp, found in rows.absent.items()},
        next((reason for found in rows.absent.values() for reason in found.values()), None),
        budget,
        () if zoom is None else zoom.coarser,
        encode_seconds=rows.encode_seconds,
        wait_seconds=rows.wait_seconds,
    )


def open_source(source: SlideSource, settings: EmbedSettings) -> Slide:
    """Open a slide with its own resolution and scan from the manifest, else those given for all, else its file's.

    Raises:
        SlideError: see `parfocal.slides.open_slide`.
    """
    return open_slide(
        source.path,
        slide_mpp=asked_mpp(source, settings),
        mpp_from_objective=settings.mpp_from_objective,
        scan=asked_scan(source, settings),
    )


def plan_slide(slide: Slide, source: SlideSource, settings: EmbedSettings) -> RegionPlan:
    """Where the regions of a slide lie: on a lattice, or on its places.

    Raises:
        SlideError: see `parfocal.regions.plan_regions` and `plan_places`.
        ConfigError: the file of places cannot be read.
    """
    if settings.places is None:
        return plan_regions(slide, settings.grid, slide_id=source.slide)
    places_um = known_places(settings.places).on_slide(source.slide, slide.mpp)
    return plan_places(slide, settings.grid, places_um, slide_id=source.slide)


def _origin(slide: Slide, source: SlideSource, plan: RegionPlan, settings: EmbedSettings) -> SlideOrigin:
    calibration = slide.calibration
    digest = settings.places and places_digest(known_places(settings.places).on_slide(source.slide, slide.mpp))
    return SlideOrigin(
        # Names of files may be no UTF-8, and attributes of HDF5 are.
        path=shown_path(source.path).encode("utf-8", "backslashreplace").decode(),
        size_l0px=(slide.width_px, slide.height_px),
        objective_power=slide.objective_power,
        mpp_source=calibration.source if calibration else None,
        scan=slide.scan if slide.n_scans > 1 else None,
        tissue_mask=plan.tissue.mask_file,
        places=digest or None,
    )


@dataclass(frozen=True)
class JobResult:
    """What came of a slide, and the warnings of ours that its job gave.

    Attributes:
        outcome: the slide, embedded or failed.
        notices: the warnings' texts, by the place in the code that gave them, so that a run says each kind once.
    """

    outcome: EmbeddedSlide | FailedSlide
    notices: Mapping[str, str] = field(default_factory=dict)


def run_job(
    source: SlideSource,
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    zoom: Zoom | None = None,
    on_tiles: OnTiles | None = None,
) -> JobResult:
    """Embed one slide; an error of any kind is its failure and not the run's.

    Another run may do the same slide at the same time. What comes of it counts like this job's own.
    """
    was_done = index_path(set_path, source.slide).is_file()
    with own_warnings() as notices:
        work = partial(embed_slide, source, encoders, settings, set_path, zoom=zoom, on_tiles=on_tiles)
        outcome = attempt_slide(source, partial(_published, work, set_path, source.slide), writes_to=set_path)
        if isinstance(outcome, FailedSlide) and not was_done:
            kept = partial(kept_slide, source, settings, set_path, zoom)
            elsewhere = attempt_slide(source, partial(_published, kept, set_path, source.slide))
            # Where that fails too, this job's own failure says more.
            outcome = elsewhere if isinstance(elsewhere, EmbeddedSlide) else outcome
    return JobResult(outcome, {f"{one.filename}:{one.lineno}": str(one.message) for one in notices})


def _published(work: Callable[[], Outcome], set_path: Path, slide: str) -> Outcome:
    """What a work on a slide gives; where it is done, and its store lies in a bucket, it is uploaded."""
    outcome = work()
    if outcome is not None:
        publish(set_path, slide, [qc_path(set_path.parent, slide)])
    return outcome
