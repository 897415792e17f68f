"""Many slides: which of them are missing, who embeds them, and what is told and written about it."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from parfocal.addresses import address_of
from parfocal.embed.kept import check_one_reading, check_places, slides_with_other_ids
from parfocal.embed.onto import (
    added_mpps,
    added_rows,
    check_widths,
    encoder_settings,
    index_of,
    matched,
    set_facts,
    settings_onto,
    without_partner,
)
from parfocal.embed.pace import PaceWatch, TilesDone
from parfocal.embed.settings import EmbedSettings, load_encoders, row_settings, set_name
from parfocal.embed.slide import JobResult, run_job
from parfocal.embed.summary import TIMES, EmbeddedSlide, EmbedSummary, summary_counts, tile_counts
from parfocal.embed.total import shares_of_all
from parfocal.embed.workers import each_slide
from parfocal.embed.zoom import Zoom, is_read, own_slides, zoomable
from parfocal.encoders import TileEncoder, check_trained_mpps
from parfocal.errors import ConfigError, StoreError
from parfocal.files import canonical_json, sweep_leftovers
from parfocal.geometry import format_mpp
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.executor import Executor, Processes, Serial
from parfocal.run.executors import slide_executor
from parfocal.run.failures import (
    DISK_FULL,
    FailedSlide,
    RunLog,
    failure,
    not_tried,
    read_failures,
    try_update_failures,
)
from parfocal.run.processes import Tell
from parfocal.run.records import RUN_FILE, RunRecords
from parfocal.slides import SlideSource, check_slide_mpp, find_slides
from parfocal.store.layout import create_set, read_settings, settings_digest, stored_bytes
from parfocal.store.mirror import bytes_away, on_disk, publish_records, publish_set


def embed_slides(
    inputs: Sequence[Path | str],
    store: Path,
    settings: EmbedSettings,
    *,
    zoom: Zoom | None = None,
    on_event: OnEvent | None = None,
) -> EmbedSummary:
    """Embed the tiles of slides into a store; what is done already is kept, what fails is recorded, the rest goes on.

    Beside the set, the store gets `failures.csv` (slides that are missing, and why; a slide that is done later leaves
    it), `run.jsonl` (a record of each slide) and `logs/<time>.log`. A run that was stopped or killed is continued by
    the same call.

    With `settings.add_to` only the magnifications that a store does not have are encoded: a new set has regions on the
    lattice of the tiles that are there, and names their rows where they lie.

    Args:
        inputs: slide files, folders of them, or manifests (CSV with slide,path[,mpp]).
        store: the folder to write to, made where it is absent; or an address in a bucket (`s3://`, `gs://`). There a
            slide is uploaded when it is done, its index last, and leaves this machine but for its index.
        settings: how.
        zoom: which of the finest tiles are read, chosen for each slide when its coarser magnifications, read from the
            slide's own levels, have been encoded. Other tiles are absent from the store, and a later call with a larger
            budget reads what is missing. All are read where None. A budget of all slides together is of those that are
            given: all of them are read coarsely before a fine tile of any is, and one that cannot be is left out.
        on_event: told how many `slides` and `tiles` are done, in this thread, each slide with its outcome as the
            `result`; and of what looks wrong. Without it that is warned of.

    Raises:
        ConfigError: no slide is found, two have one id, no encoder is named, no slide has such a `slide_mpp`, places
            cannot be read or belong to two slides, there is nothing to zoom into, or workers are asked for by a script
            that has no main guard.
        EncoderError: an encoder cannot be loaded.
        MismatchError: the store holds a set of this name with other settings, or slides that have been read whole
            where these would be in part, or the other way about; or more has been read of these slides than a budget of
            all of them pays for; or the rows of the store that is added to are not as wide as the encoder's.
        StoreError: `failures.csv` of the store is no table of failures, or the store is on a web server, or
            in a bucket that cannot be reached.
    """
    started = time.monotonic()
    store = _work_folder(store, settings)
    check_slide_mpp(settings.slide_mpp)
    executor = slide_executor(settings, settings.device)
    executor.check()
    sources = find_slides(inputs, ids=settings.ids)
    check_places(sources, settings)
    if zoom is not None and settings.add_to is not None:
        raise ConfigError(
            "what is added to tiles that are there is read whole, so zoom would do nothing. Leave it out."
        )
    settings = settings_onto(settings)
    sources = own_slides(list(matched(sources, settings)), settings, zoom)
    if zoom is not None:
        settings = zoomable(settings, zoom)
    read_failures(store)  # a table that nobody can add to is told before the work, not after it
    encoders = load_encoders(encoder_settings(settings))
    check_widths(settings, encoders)
    set_path = create_embedding_set(store, settings, encoders)
    publish_set(set_path)
    check_one_reading(set_path, zoom, {source.slide for source in sources})
    tell = on_event or warn_of
    with (
        _records_published(store, tell),
        RunLog(store) as log,
        _no_leftovers(set_path),
        _records(set_path, settings) as records,
    ):
        is_one_pass = zoom is None or zoom.shares is None or zoom.reads_all
        # Of two passes each has a rate of its own.
        watch = PaceWatch(settings.expect if is_one_pass else None)
        told = _Told(tell, len(sources), watch, log, is_alone=_is_one_place(executor))
        log.line(f"{len(sources)} slides into {set_path}")
        log.line(f"settings {canonical_json(settings.model_dump(mode='json'))}")
        records.given(source for source in sources if not is_read(set_path, source.slide, zoom))
        told.slides()
        if settings.add_to is not None:
            log.line(_adding(settings))
            told.notice(_adding(settings))
        for text in _encoder_notices({mpp: encoders[mpp] for mpp in added_mpps(settings)}):
            log.line(f"warning: {text}")
            told.warning(text)
        if not settings.is_serial:
            encoders = {}  # the workers load their own, and a device should not hold a network that nobody uses
        outcomes: dict[str, EmbeddedSlide | FailedSlide] = {}
        said: Counter[str] = Counter()
        unwritten: list[str] = []
        with closing(_results(sources, encoders, settings, set_path, zoom, told)) as results:
            for result in results:
                outcome = result.outcome
                outcomes[outcome.slide] = outcome
                for kind, text in result.notices.items():
                    log.line(f"warning: {text}")
                    if said[kind] == 0:
                        told.warning(text)
                    said[kind] += 1
                log.line(_line(outcome))
                _record(records, set_path, outcome)
                if isinstance(outcome, FailedSlide):
                    # At once, so that a run that is killed later has told of it.
                    unwritten += try_update_failures(store, set_path.name, [outcome], [])
                told.finished(outcome)
                if isinstance(outcome, FailedSlide) and outcome.error == DISK_FULL:
                    break
        more = sum(count - 1 for count in said.values())
        if more:
            told.warning(f"{more} more warnings of the same kinds; {log.path} has them all.")
        left = [source for source in sources if source.slide not in outcomes]
        if left:
            text = f"the disk is full: {len(left)} slides were not tried. Make room, and give the same command again."
            log.line(text)
            told.warning(text)
            outcomes |= {one.slide: not_tried(one) for one in left}
            for one in left:
                records.failed(not_tried(one))
        done = [slide for slide, outcome in outcomes.items() if isinstance(outcome, EmbeddedSlide)]
        unwritten += try_update_failures(store, set_path.name, [], done)
        summary = EmbedSummary(
            set_path, tuple(outcomes[source.slide] for source in sources), time.monotonic() - started, log.path
        )
        counts = ", ".join(f"{count} {name}" for name, count in summary_counts(summary).items())
        log.line("; ".join(filter(None, (counts, f"{summary.seconds:.1f} s", summary.pace))))
        for text in dict.fromkeys([*unwritten, *filter(None, (log.problem, records.problem))]):
            told.warning(text)
    return summary


def _work_folder(store: Path, settings: EmbedSettings) -> Path:
    """Where a run writes: the store, or the mirror of one in a bucket.

    Raises:
        ConfigError: tiles are to be added to a store, and one of the two lies in a bucket.
        StoreError: the store is on a web server, or cannot be reached.
    """
    address = address_of(store) or (settings.add_to and address_of(settings.add_to))
    if settings.add_to is not None and address:
        raise ConfigError(
            f"magnifications are added from a disk to a disk, and {address} is in a bucket. Copy it first."
        )
    return on_disk(store)


@contextmanager
def _records_published(store: Path, tell: OnEvent) -> Iterator[None]:
    """Whatever ends the block, what it noted goes to the address of the store, where it has one."""
    try:
        yield
    finally:
        try:
            publish_records(store)
        except StoreError as error:  # slides are there, and their records are not worth a run
            tell(Notice(f"the records of this run are not in the bucket: {error}", is_warning=True))


def _is_one_place(executor: Executor) -> bool:
    return isinstance(executor, Serial) or (isinstance(executor, Processes) and len(executor.devices) == 1)


class _Told:
    """What a run tells: its slides, each when it is finished, its tiles, warnings, and that it is slow."""

    def __init__(self, on_event: OnEvent, n_slides: int, watch: PaceWatch, log: RunLog, *, is_alone: bool) -> None:
        self._on_event, self._n_slides = on_event, n_slides
        self._watch, self._log, self._is_alone = watch, log, is_alone
        self._finished = self._failed = 0
        self._tiles: dict[str, TilesDone] = {}

    def warning(self, text: str) -> None:
        self._on_event(Notice(text, is_warning=True))

    def notice(self, text: str) -> None:
        self._on_event(Notice(text))

    def next_pass(self) -> None:
        """Tiles are counted anew, and timed."""
        self._tiles.clear()
        self._watch = PaceWatch()

    def slides(self, line: str = "", outcome: EmbeddedSlide | FailedSlide | None = None) -> None:
        failed = f"{self._failed} failed" if self._failed else ""
        self._on_event(Progress("slides", self._finished, self._n_slides, failed, line, outcome))

    def tiles(self, source: SlideSource, told: TilesDone) -> None:
        """Of a slide; what is told of all of them takes slides that nobody has opened yet to be like the others."""
        self._tiles[source.slide] = told
        done, planned = (sum(getattr(one, name) for one in self._tiles.values()) for name in ("done", "total"))
        counted = sum(one.total > 0 for one in self._tiles.values())
        unknown = max(0, self._n_slides - len(self._tiles))
        expected = planned + (round(planned / counted * unknown) if counted else 0)
        self._on_event(Progress("tiles", done, expected or None))
        if len(self._tiles) == self._n_slides and not self._is_alone:
            self._watch.end()  # some workers have nothing left to do
        text = self._watch.look(time.monotonic(), self._tiles)
        if text is not None:
            self._log.line(f"warning: {text}")
            self.warning(text)

    def finished(self, outcome: EmbeddedSlide | FailedSlide) -> None:
        self._finished += 1
        if isinstance(outcome, FailedSlide):
            self._failed += 1
            # What it will never encode must not stay in the estimate.
            told = self._tiles.get(outcome.slide, TilesDone(0, 0))
            told = replace(told, total=told.done)
            line = f"{outcome.slide} failed: {outcome.error}: {outcome.message}"
        else:
            tiles, line = 0 if outcome.kept else sum(outcome.n_tiles.values()), outcome.line
            seconds, encode, wait = (getattr(outcome, name) for name in TIMES)
            told = TilesDone(tiles, tiles, encode, wait, seconds - encode - wait)
        self.slides(line, outcome)
        self.tiles(SlideSource(outcome.slide, outcome.path), told)


@contextmanager
def _no_leftovers(set_path: Path) -> Iterator[None]:
    """Whatever ends the block, what killed processes had begun to write is removed after it."""
    try:
        yield
    finally:
        sweep_leftovers(set_path)


def _records(set_path: Path, settings: EmbedSettings) -> RunRecords:
    return RunRecords(
        set_path.parent / RUN_FILE,
        command="embed",
        sets=[set_path.name],
        settings=settings_digest(read_settings(set_path)["settings"]),
        shard=settings.shard,
    )


def _record(records: RunRecords, set_path: Path, outcome: EmbeddedSlide | FailedSlide) -> None:
    if isinstance(outcome, FailedSlide):
        records.failed(outcome)
        return
    records.ended(
        SlideSource(outcome.slide, outcome.path),
        "kept" if outcome.kept else "done",
        seconds=outcome.seconds,
        tiles=sum(outcome.n_tiles.values()),
        n_bytes=stored_bytes(set_path, outcome.slide) + sum(bytes_away(set_path, outcome.slide).values()),
    )


def create_embedding_set(store: Path, settings: EmbedSettings, encoders: Mapping[float, TileEncoder]) -> Path:
    """Make the set that these settings and encoders write to, or find it.

    Raises:
        MismatchError: it is there with other settings.
    """
    rows = {**row_settings(settings, encoders), **added_rows(settings)}
    dims, digests = set_facts(settings, encoders)
    return create_set(
        store,
        set_name(rows),
        "tiles",
        region_um=settings.grid.region_um,
        dims=dims,
        settings=rows,
        encoder_digests=digests,
        tile_px=settings.grid.tile_px,
        dtype=settings.dtype,
    )


def _results(
    sources: Sequence[SlideSource],
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    zoom: Zoom | None,
    told: _Told,
) -> Generator[JobResult]:
    """The result of every slide; where a budget is of all slides, all are read coarsely before one is read further."""
    if zoom is None or zoom.shares is None or zoom.reads_all:
        yield from _results_of_pass(sources, encoders, settings, set_path, zoom, told)
        return
    coarse, first = dict[str, JobResult](), replace(zoom, shares={})
    with closing(_results_of_pass(sources, encoders, settings, set_path, first, told)) as results:
        for result in results:
            if isinstance(result.outcome, FailedSlide):
                yield result
            else:
                coarse[result.outcome.slide] = result
    left = [source for source in sources if source.slide in coarse]
    if 0 < len(left) < len(sources):
        told.warning(
            f"{len(sources) - len(left)} of {len(sources)} slides failed; the budget is a share of the fine tiles of "
            "the others."
        )
    told.next_pass()
    second = replace(zoom, shares=shares_of_all(set_path, coarse, min(settings.grid.mpps), zoom.budget))
    with closing(_results_of_pass(left, encoders, settings, set_path, second, told)) as results:
        for result in results:
            yield _of_both_passes(coarse[result.outcome.slide], result)


def _of_both_passes(first: JobResult, last: JobResult) -> JobResult:
    outcome, before = last.outcome, first.outcome
    if isinstance(outcome, EmbeddedSlide) and isinstance(before, EmbeddedSlide) and not before.kept:
        both = {name: getattr(before, name) + getattr(outcome, name) for name in TIMES}
        outcome = before if outcome.kept else replace(outcome, **both)
    return JobResult(outcome, {**first.notices, **last.notices})


def _results_of_pass(
    sources: Sequence[SlideSource],
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    zoom: Zoom | None,
    told: _Told,
) -> Generator[JobResult]:
    """The result of every slide: first those that are there already, then the others as they come."""
    missing = []
    refused = {**slides_with_other_ids(sources, settings, set_path), **without_partner(sources, settings)}
    for source in sources:
        if source.slide in refused:
            yield JobResult(failure(source, refused[source.slide]))
        elif is_read(set_path, source.slide, zoom):
            yield run_job(source, encoders, settings, set_path, zoom)
        else:
            missing.append(source)
    loading = encoder_settings(settings)
    for _, result in each_slide(
        missing, encoders, loading, partial(embedding_job, settings, set_path, zoom), told.tiles
    ):
        yield JobResult(result) if isinstance(result, FailedSlide) else result


def embedding_job(
    settings: EmbedSettings, set_path: Path, zoom: Zoom | None, encoders: Mapping[float, TileEncoder]
) -> Callable[[SlideSource, Tell], JobResult]:
    """What is done with each slide by the encoders of a process."""
    return lambda source, tell: run_job(source, encoders, settings, set_path, zoom, tell)


def _adding(settings: EmbedSettings) -> str:
    """What a run does that adds magnifications."""
    index, new = index_of(settings.add_to or Path()), added_mpps(settings)
    there, added = (" and ".join(map(format_mpp, mpps)) for mpps in (index.mpps, new))
    whose = (
        f"{settings.verify} of each slide are encoded again, and the rows count as the same encoder's where they agree"
        if settings.verify
        else "nobody looks whether they are the same encoder's"
    )
    return (
        f"{added} mpp on the lattice of the tiles at {there} mpp in {index}, in regions of "
        f"{settings.grid.region_um:g} um; {whose}."
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
    line = f"{outcome.status} {outcome.slide}: {outcome.n_regions} regions, {counts}, {outcome.seconds:.2f} s"
    return "; ".join(filter(None, (line, outcome.absence, outcome.remark)))
