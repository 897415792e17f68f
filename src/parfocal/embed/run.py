"""Many slides: which of them are missing, who embeds them, and what is told and written about it."""

import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from parfocal.embed.events import (
    EmbedSummary,
    Event,
    Notice,
    OnEvent,
    RunStarted,
    SlideFinished,
    TilesDone,
    absence,
    slide_status,
    summary_counts,
    tile_counts,
)
from parfocal.embed.kept import slides_with_other_ids
from parfocal.embed.settings import EmbedSettings, load_encoders, row_settings, set_name
from parfocal.embed.slide import EmbeddedSlide, JobResult, run_job
from parfocal.embed.workers import run_in_processes
from parfocal.encoders import TileEncoder, check_trained_mpps
from parfocal.errors import ParfocalWarning, StoreError
from parfocal.files import canonical_json, sweep_leftovers
from parfocal.run.failures import (
    DISK_FULL,
    FAILURES_FILE,
    NOT_TRIED,
    FailedSlide,
    RunLog,
    failure,
    read_failures,
    update_failures,
)
from parfocal.run.processes import check_workers
from parfocal.slides import SlideSource, check_slide_mpp, find_slides
from parfocal.store.create import create_set
from parfocal.store.layout import index_path

__all__ = ["create_embedding_set", "embed_slides"]


def embed_slides(
    inputs: Sequence[Path | str], store: Path, settings: EmbedSettings, *, on_event: OnEvent | None = None
) -> EmbedSummary:
    """Embed the tiles of slides into a store; what is done already is kept, what fails is recorded, the rest goes on.

    Beside the set, the store gets `failures.csv` (slides that are missing, and why; a slide that is done later leaves
    it) and `logs/<time>.log`. A run that was stopped or killed is continued by the same call.

    Args:
        inputs: slide files, folders of them, or manifests (CSV with slide,path[,mpp]).
        store: the folder to write to; made where it is absent.
        settings: how.
        on_event: told what happens (`RunStarted`, `TilesDone`, `SlideFinished`, `Notice`), in this thread. Without it
            notices are warnings.

    Raises:
        ConfigError: no slide is found, two have one id, no encoder is named, no slide has such a `slide_mpp`, or
            workers are asked for by a script that has no main guard.
        EncoderError: an encoder cannot be loaded.
        MismatchError: the store holds a set of this name with other settings.
        StoreError: `failures.csv` of the store is no table of failures.
    """
    started = time.monotonic()
    check_slide_mpp(settings.slide_mpp)
    if settings.workers:
        check_workers()
    sources = find_slides(inputs, ids=settings.ids)
    read_failures(store)  # a table that nobody can add to is told before the work, not after it
    encoders = load_encoders(settings)
    set_path = create_embedding_set(store, settings, encoders)
    tell = on_event or _warn
    with RunLog(store) as log, _no_leftovers(set_path):
        log.line(f"{len(sources)} slides into {set_path}")
        log.line(f"settings {canonical_json(settings.model_dump(mode='json'))}")
        tell(RunStarted(set_path, len(sources)))
        for text in _encoder_notices(encoders):
            log.line(f"warning: {text}")
            tell(Notice(text))
        if settings.workers:
            encoders = {}  # the workers load their own, and a device should not hold a network that nobody uses
        outcomes: dict[str, EmbeddedSlide | FailedSlide] = {}
        said: Counter[str] = Counter()
        unwritten: list[str] = []
        with closing(_results(sources, encoders, settings, set_path, tell)) as results:
            for result in results:
                outcome = result.outcome
                outcomes[outcome.slide] = outcome
                for kind, text in result.notices.items():
                    log.line(f"warning: {text}")
                    if said[kind] == 0:
                        tell(Notice(text))
                    said[kind] += 1
                log.line(_line(outcome))
                if isinstance(outcome, FailedSlide):
                    # At once, so that a run that is killed later has told of it.
                    unwritten += _update(store, set_path, [outcome], [])
                tell(SlideFinished(outcome))
                if isinstance(outcome, FailedSlide) and outcome.error == DISK_FULL:
                    break
        more = sum(count - 1 for count in said.values())
        if more:
            tell(Notice(f"{more} more warnings of the same kinds; {log.path} has them all."))
        left = [source for source in sources if source.slide not in outcomes]
        if left:
            text = f"the disk is full: {len(left)} slides were not tried. Make room, and give the same command again."
            log.line(text)
            tell(Notice(text))
            outcomes |= {one.slide: FailedSlide(one.slide, one.path, NOT_TRIED, "the disk is full.") for one in left}
        done = [slide for slide, outcome in outcomes.items() if isinstance(outcome, EmbeddedSlide)]
        unwritten += _update(store, set_path, [], done)
        summary = EmbedSummary(
            set_path, tuple(outcomes[source.slide] for source in sources), time.monotonic() - started, log.path
        )
        counts = ", ".join(f"{count} {name}" for name, count in summary_counts(summary).items())
        log.line(f"{counts}; {summary.seconds:.1f} s")
        for text in dict.fromkeys([*unwritten, *([log.problem] if log.problem else [])]):
            tell(Notice(text))
    return summary


@contextmanager
def _no_leftovers(set_path: Path) -> Iterator[None]:
    """Whatever ends the block, what killed processes had begun to write is removed after it."""
    try:
        yield
    finally:
        sweep_leftovers(set_path)


def _update(store: Path, set_path: Path, failed: Sequence[FailedSlide], mended: Sequence[str]) -> list[str]:
    """Bring the table of failures up to date; what comes back says why that could not be done."""
    try:
        update_failures(store, set_path.name, failed, mended)
    except (OSError, StoreError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return [f"{store / FAILURES_FILE} is not up to date: {why}"]
    return []


def create_embedding_set(store: Path, settings: EmbedSettings, encoders: Mapping[float, TileEncoder]) -> Path:
    """Make the set that these settings and encoders write to, or find it.

    Raises:
        MismatchError: it is there with other settings.
    """
    rows = row_settings(settings, encoders)
    return create_set(
        store,
        set_name(rows),
        "tiles",
        region_um=settings.grid.region_um,
        dims={mpp: encoder.dim for mpp, encoder in encoders.items()},
        settings=rows,
        encoder_digests={mpp: encoder.digest for mpp, encoder in encoders.items()},
        tile_px=settings.grid.tile_px,
        dtype=settings.dtype,
    )


def _results(
    sources: Sequence[SlideSource],
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    tell: OnEvent,
) -> Generator[JobResult]:
    """The result of every slide: first those that are there already, then the others as they come."""
    missing = []
    other_ids = slides_with_other_ids(sources, settings, set_path)
    for source in sources:
        if source.slide in other_ids:
            yield JobResult(failure(source, other_ids[source.slide]))
        elif index_path(set_path, source.slide).is_file():
            yield run_job(source, encoders, settings, set_path)
        else:
            missing.append(source)
    if settings.workers:
        yield from run_in_processes(
            missing, settings, set_path, lambda source, done, total: tell(TilesDone(source.slide, done, total))
        )
        return
    for source in missing:
        slide = source.slide
        yield run_job(
            source,
            encoders,
            settings,
            set_path,
            lambda done, total, slide=slide: tell(TilesDone(slide, done, total)),  # type: ignore[misc]
        )


def _encoder_notices(encoders: Mapping[float, TileEncoder]) -> list[str]:
    """One line for each encoder that is used at a magnification it was not trained at."""
    mpps: dict[str, list[float]] = {}
    by_spec = {encoder.spec: encoder for encoder in encoders.values()}
    for mpp, encoder in encoders.items():
        mpps.setdefault(encoder.spec, []).append(mpp)
    notices = [check_trained_mpps(by_spec[spec], used) for spec, used in mpps.items()]
    return [text for text in notices if text is not None]


def _line(outcome: EmbeddedSlide | FailedSlide) -> str:
    if isinstance(outcome, FailedSlide):
        return f"failed {outcome.slide}: {outcome.error}: {outcome.message}\n{outcome.traceback}".rstrip()
    counts = ", ".join(f"{count} tiles at {mpp}" for mpp, count in tile_counts(outcome.n_tiles).items())
    line = f"{slide_status(outcome)} {outcome.slide}: {outcome.n_regions} regions, {counts}, {outcome.seconds:.2f} s"
    return "; ".join(filter(None, (line, absence(outcome))))


def _warn(event: Event) -> None:
    if isinstance(event, Notice):
        warnings.warn(event.text, ParfocalWarning, stacklevel=3)
