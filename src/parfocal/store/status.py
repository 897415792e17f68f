"""How far the slides of a store are, from what is on disk alone: nothing is written, and no slide is opened."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from parfocal.addresses import address_of, shown_path
from parfocal.errors import StoreError
from parfocal.run.failures import exit_status, read_failures
from parfocal.run.records import RUN_FILE, SlideRecord, read_records
from parfocal.slides import SlideIds, find_slides
from parfocal.store.layout import SETTINGS_FILE
from parfocal.store.mirror import bytes_away, on_disk
from parfocal.store.set import done_slides


@dataclass(frozen=True)
class RunRate:
    """How fast the last run was; of a run in shards the last one of each shard, together.

    Attributes:
        command: which one ran.
        shards: the shards that have begun, in order; empty where the run was not in shards.
        slides: how many were done in it.
        failed: how many failed.
        tiles: of those that were done.
        seconds: wall-clock time during which at least one of the shards, or the run, was at work.
        end: when the last slide ended, as ISO 8601.
    """

    command: str
    shards: tuple[str, ...]
    slides: int
    failed: int
    tiles: int
    seconds: float
    end: str

    @property
    def slides_per_hour(self) -> float | None:
        """None where no time has passed."""
        return self.slides / self.seconds * 3600 if self.seconds else None

    @property
    def tiles_per_second(self) -> float | None:
        """None where no time has passed."""
        return self.tiles / self.seconds if self.seconds else None


@dataclass(frozen=True)
class SetStatus:
    """How far one set is.

    Attributes:
        name: its folder, or the file name of a table of predictions.
        done: slides that are there.
        failed: for each reason, the slides that failed, by the last run that tried.
        missing: slides that were asked for and are neither.
        bytes: what its files hold.
        rate: of the last run; None where no run has finished a slide in it.
    """

    name: str
    done: tuple[str, ...]
    failed: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    bytes: int
    rate: RunRate | None

    @property
    def n_failed(self) -> int:
        """Slides that failed, whatever the reason."""
        return sum(map(len, self.failed.values()))


@dataclass(frozen=True)
class StoreStatus:
    """How far a store is.

    Attributes:
        path: the store, or the table of predictions.
        sets: how far each of its sets is, sorted by name.
        damaged: lines of `run.jsonl` that cannot be read, and were passed over.
    """

    path: Path
    sets: tuple[SetStatus, ...]
    damaged: int

    @property
    def exit_status(self) -> int:
        """0 when nothing failed and nothing is missing in any set, 1 when nothing is done, else 3."""
        open_ones = sum(one.n_failed + len(one.missing) for one in self.sets)
        return exit_status(open_ones, open_ones + sum(len(one.done) for one in self.sets))

    def describe(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "path": shown_path(self.path),
            "damaged_lines": self.damaged,
            "sets": [
                {
                    **asdict(replace(one, rate=None)),
                    "rate": one.rate
                    and {
                        **asdict(one.rate),
                        "slides_per_hour": one.rate.slides_per_hour,
                        "tiles_per_second": one.rate.tiles_per_second,
                    },
                }
                for one in self.sets
            ],
        }


def read_status(store: Path | str, slides: Sequence[Path | str] = (), *, ids: SlideIds = "path") -> StoreStatus:
    """How far the slides of a store are: done, failed and why, missing, bytes, and how fast the last run was.

    What is done is read from the sets, and what failed from `failures.csv`. `run.jsonl` says what was asked for and how
    long it took; a line of it that is lost or damaged changes neither of the two.

    Args:
        store: a store, or a table that `predict` writes, of which only its records are looked at.
        slides: what should be in it: files, folders and manifests, as `embed_slides` takes them. Where nothing is
            named it is what runs were given and have not done.
        ids: as for `embed_slides`.

    Raises:
        StoreError: there is no such store, or `failures.csv` is no table of failures.
        ConfigError: no slide is found, or two have one id.
    """
    path = Path(store)
    asked = [one.slide for one in find_slides(slides, ids=ids)] if slides else None
    path = on_disk(path)
    if not path.is_dir():
        return _status_of_table(path, asked)
    names = sorted(file.parent.name for file in path.glob(f"*/{SETTINGS_FILE}") if file.is_file())
    if (path / SETTINGS_FILE).is_file():
        path, names = path.parent, [path.name]
    # Of a store in a bucket every machine has noted its own.
    read = [read_records(file) for file in (path / RUN_FILE, *sorted(path.glob("run.*.jsonl")))]
    records, damaged = [one for own, _ in read for one in own], sum(count for _, count in read)
    if not names:
        raise StoreError(
            f"{shown_path(store)} is no store: there is no {SETTINGS_FILE} in a folder of it. Name the store itself."
        )
    failures = read_failures(path)
    sets = []
    for name in names:
        done = done_slides(path / name)
        failed: dict[str, list[str]] = {}
        for one in failures:
            if one.set == name and one.slide not in {*done}:
                failed.setdefault(one.error, []).append(one.slide)
        own = [one for one in records if name in one.sets]
        sets.append(_status(name, done, failed, own, asked, _bytes_of(path / name, done)))
    return StoreStatus(Path(store) if address_of(store) else path, tuple(sets), damaged)


def _status_of_table(table: Path, asked: Sequence[str] | None) -> StoreStatus:
    """Of a table of predictions, by its records: the last of each slide counts."""
    file = table.with_name(f"{table.stem}.{RUN_FILE}")
    if not file.is_file():
        raise StoreError(f"cannot tell how far {table} is: there is no such store, and no {file.name} beside it.")
    records, damaged = read_records(file)
    last = {one.slide: one for one in records if one.status != "given"}
    done = [slide for slide, one in last.items() if one.status in {"done", "kept"}]
    failed: dict[str, list[str]] = {}
    for slide, one in last.items():
        if one.status == "failed":
            failed.setdefault(one.reason.partition(":")[0], []).append(slide)
    n_bytes = table.stat().st_size if table.is_file() else 0
    return StoreStatus(table, (_status(table.name, done, failed, records, asked, n_bytes),), damaged)


def _status(
    name: str,
    done: Sequence[str],
    failed: Mapping[str, Sequence[str]],
    records: Sequence[SlideRecord],
    asked: Sequence[str] | None,
    n_bytes: int,
) -> SetStatus:
    known = {*done, *(slide for slides in failed.values() for slide in slides)}
    given = [one.slide for one in records] if asked is None else asked
    if asked is not None:  # of others nothing is asked
        done = [slide for slide in done if slide in {*asked}]
        own = {error: [slide for slide in slides if slide in {*asked}] for error, slides in failed.items()}
        failed = {error: slides for error, slides in own.items() if slides}
    return SetStatus(
        name,
        tuple(sorted(done)),
        {error: tuple(sorted(failed[error])) for error in sorted(failed)},
        tuple(sorted({*given} - known)),
        n_bytes,
        _rate(records),
    )


def _rate(records: Sequence[SlideRecord]) -> RunRate | None:
    worked = [one for one in records if one.status in {"done", "failed"} and _time(one.end) is not None]
    if not worked:
        return None
    latest = max(worked, key=lambda one: one.end or "")
    runs = {latest.run}
    if latest.shard is not None:
        count = latest.shard.partition("/")[2]
        alike = [
            one
            for one in worked
            if one.shard is not None
            and one.shard.partition("/")[2] == count
            and (one.command, one.settings) == (latest.command, latest.settings)
        ]
        runs = {max((one for one in alike if one.shard == shard), key=_end).run for shard in {o.shard for o in alike}}
    own = [one for one in worked if one.run in runs]
    done = [one for one in own if one.status == "done"]
    spans = [_span([one for one in own if one.run == run]) for run in runs]
    return RunRate(
        latest.command,
        tuple(sorted({one.shard for one in own if one.shard is not None}, key=_number)),
        len(done),
        sum(count for status, count in Counter(one.status for one in own).items() if status == "failed"),
        sum(one.tiles or 0 for one in done),
        round(_covered(spans), 3),
        latest.end or "",
    )


def _span(records: Sequence[SlideRecord]) -> tuple[float, float]:
    """From when to when a run was at work, in seconds."""
    times = [time.timestamp() for one in records for time in (_time(one.start), _time(one.end)) if time is not None]
    return min(times), max(times)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """How long at least one of several spans lasts: shards may run side by side, or days apart."""
    covered, until = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _end(record: SlideRecord) -> str:
    return record.end or ""


def _number(shard: str) -> int:
    first = shard.partition("/")[0]
    return int(first) if first.isdigit() else 0


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None


def _bytes_of(folder: Path, done: Sequence[str]) -> int:
    """What all files of a set hold; what another run removes meanwhile does not count."""
    n_bytes = sum(sum(bytes_away(folder, slide).values()) for slide in done)
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                n_bytes += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return n_bytes
