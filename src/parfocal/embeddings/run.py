"""Many slides: which of them are missing, who embeds them, and what is told and written about it."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from parfocal.embeddings.embed import EmbeddedSlide
from parfocal.embeddings.events import (
    EmbedSummary,
    Event,
    FailedSlide,
    Notice,
    OnEvent,
    RunStarted,
    SlideFinished,
    TilesDone,
    absence,
    slide_status,
    tile_counts,
)
from parfocal.embeddings.job import JobResult, run_job
from parfocal.embeddings.layout import index_path
from parfocal.embeddings.records import RunLog, update_failures
from parfocal.embeddings.sets import create_set
from parfocal.embeddings.settings import EmbedSettings, load_encoders, row_settings, set_name
from parfocal.embeddings.workers import run_in_processes
from parfocal.encoders import TileEncoder, check_trained_mpps
from parfocal.errors import ParfocalWarning
from parfocal.provenance import canonical_json
from parfocal.slides import SlideSource, check_slide_mpp, find_slides

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
        ConfigError: no slide is found, two have one id, no encoder is named, or no slide has such a `slide_mpp`.
        EncoderError: an encoder cannot be loaded.
        MismatchError: the store holds a set of this name with other settings.
    """
    started = time.monotonic()
    check_slide_mpp(settings.slide_mpp)
    sources = find_slides(inputs, ids=settings.ids)
    encoders = load_encoders(settings)
    set_path = create_embedding_set(store, settings, encoders)
    tell = on_event or _warn
    with RunLog(store) as log:
        log.line(f"{len(sources)} slides into {set_path}")
        log.line(f"settings {canonical_json(settings.model_dump(mode='json'))}")
        tell(RunStarted(set_path, len(sources)))
        for text in _encoder_notices(encoders):
            log.line(f"warning: {text}")
            tell(Notice(text))
        if settings.workers > 1:
            encoders = {}  # the workers load their own, and a device should not hold a network that nobody uses
        outcomes: dict[str, EmbeddedSlide | FailedSlide] = {}
        said: Counter[str] = Counter()
        for result in _results(sources, encoders, settings, set_path, tell):
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
                update_failures(store, set_path.name, [outcome], [])
            tell(SlideFinished(outcome))
        more = sum(count - 1 for count in said.values())
        if more:
            tell(Notice(f"{more} more warnings of the same kinds; {log.path} has them all."))
        done = [slide for slide, outcome in outcomes.items() if isinstance(outcome, EmbeddedSlide)]
        update_failures(store, set_path.name, [], done)
        summary = EmbedSummary(
            set_path, tuple(outcomes[source.slide] for source in sources), time.monotonic() - started, log.path
        )
        log.line(f"{len(summary.done)} in the store, {len(summary.failed)} failed, {summary.seconds:.1f} s")
    return summary


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
) -> Iterator[JobResult]:
    """The result of every slide: first those that are there already, then the others as they come."""
    missing = []
    for source in sources:
        if index_path(set_path, source.slide).is_file():
            yield run_job(source, encoders, settings, set_path)
        else:
            missing.append(source)
    if settings.workers > 1:
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
