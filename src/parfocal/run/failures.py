"""What a run leaves beside its sets: the table of failures, and a log."""

import csv
import errno
import json
import os
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from parfocal.errors import StoreError, as_problem
from parfocal.files import no_space, read_csv, write_csv, writer_name
from parfocal.slides import SlideSource
from parfocal.terminal import printable
from parfocal.version import __version__

FAILURES_FILE = "failures.csv"
"""The table for people: every slide that is missing; absent where none is."""

_REPORTS = "failures"
"""The folder beside it, with a file for each process that had something to report: `failures.csv` is made of these."""

LOG_FOLDER = "logs"

# Each further try answers a report of another process that came in the meantime.
_MOST_TRIES = 1000


DISK_FULL = "DiskFull"
"""The `error` of a slide for which there was no space."""

NOT_TRIED = "NotTried"
"""The `error` of the slides that a run did not come to, because the disk was full."""


@dataclass(frozen=True)
class FailedSlide:
    """A slide that could not be embedded: which, and why in one line.

    Attributes:
        slide: the slide's id.
        path: its file.
        error: the name of the exception.
        message: its text, with the notes that it gathered.
        traceback: where it came from, for the log.
        seconds: wall-clock time until it failed; None where that is not known.
    """

    slide: str
    path: Path
    error: str
    message: str
    traceback: str = ""
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Failed:
    """What a job raised, in one line.

    Attributes:
        error: the name of the exception.
        message: its text, with the notes that it gathered on its way; empty where it has none.
        traceback: where it came from, for a log.
        problem: it as a line for a person: ours by its text alone, a library's with the name of its kind.
    """

    error: str
    message: str
    traceback: str = ""
    problem: str = ""

    @classmethod
    def of(cls, error: Exception, writes_to: Path | None = None) -> "Failed":
        """An exception as a failure.

        Args:
            error: what was raised.
            writes_to: what was written to, for the errors that say that there is no space and not where.
        """
        trace = "".join(traceback.format_exception(error))
        full = no_space(error, writes_to) if writes_to else None
        if full is not None:
            kind = DISK_FULL if full.errno != errno.EFBIG else "OSError"
            message = f"cannot write {full.filename}: {full.strerror}. Make room, and give the same command again."
            return cls(kind, message, trace, message)
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return cls(type(error).__name__, " ".join(f"{error}{notes}".split()), trace, as_problem(error))

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.error, self.message))).rstrip(".")


def failure(source: SlideSource, error: Exception, writes_to: Path | None = None) -> FailedSlide:
    """An exception as a slide's failure; see `Failed.of`."""
    failed = Failed.of(error, writes_to)
    return FailedSlide(source.slide, source.path, failed.error, failed.message or "no message", failed.traceback)


def not_tried(source: SlideSource) -> FailedSlide:
    """The outcome of a slide that a run did not come to."""
    return FailedSlide(source.slide, source.path, NOT_TRIED, "the disk is full.")


def exit_status(failed: int, total: int) -> int:
    """What a command over many slides ends with: 0 when none failed, 1 when all did, 3 when some did."""
    return 0 if not failed else 1 if failed == total else 3


Done = TypeVar("Done")


class SlideOutcomes(Generic[Done]):
    """What the results of runs over slides have in common: what came of each slide, in order, failures in between."""

    slides: tuple[Done | FailedSlide, ...]

    @property
    def done(self) -> tuple[Done, ...]:
        """The slides that did not fail."""
        return tuple(one for one in self.slides if not isinstance(one, FailedSlide))

    @property
    def failed(self) -> tuple[FailedSlide, ...]:
        """The slides that failed."""
        return tuple(one for one in self.slides if isinstance(one, FailedSlide))

    @property
    def exit_status(self) -> int:
        """0 when no slide failed, 1 when all did, 3 when some did."""
        return exit_status(len(self.failed), len(self.slides))


@dataclass(frozen=True)
class Failure:
    """A row of `failures.csv`: a slide that is missing from a set, and why."""

    slide: str
    path: str
    error: str
    message: str
    time: str
    set: str


_COLUMNS = tuple(field.name for field in fields(Failure))


@dataclass(frozen=True)
class _Report:
    """A line of a process's file: a slide failed, or it is done now."""

    failure: Failure
    is_mended: bool

    @property
    def when(self) -> tuple[datetime, bool]:
        """What decides which of two reports about one slide counts."""
        try:
            time = datetime.fromisoformat(self.failure.time)
        except ValueError:
            time = datetime.min
        return (time if time.tzinfo else time.replace(tzinfo=UTC)), self.is_mended


def read_failures(store: Path) -> list[Failure]:
    """The slides that are missing from the sets of a store, in the order they failed in; none where nothing has failed.

    Raises:
        StoreError: `failures.csv` has other columns.
    """
    return _missing(_read_table(store / FAILURES_FILE), _read_reports(store, _sizes(store)))


def update_failures(store: Path, set_name: str, failed: Iterable[FailedSlide], mended: Iterable[str]) -> None:
    """Bring `failures.csv` up to date: slides that failed get a row, those that are done now lose theirs.

    Several runs may write to one store, and no lock holds on every file system. So each process adds to a file of its
    own, and the table is made anew of all of them: whoever makes it looks afterwards whether another process has
    reported in the meantime, so the last one to report leaves the whole table. The table is removed with its last row:
    its absence means that nothing is missing.

    Raises:
        OSError: nothing can be written, as on a full disk.
    """
    known = {(row.set, row.slide) for row in read_failures(store)}
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    reports = [
        _Report(Failure(one.slide, str(one.path), one.error, " ".join(one.message.split()), now, set_name), False)
        for one in failed
    ]
    reports += [
        _Report(Failure(slide, "", "", "", now, set_name), True) for slide in mended if (set_name, slide) in known
    ]
    if reports:
        _append(store / _REPORTS / f"{writer_name()}.jsonl", reports)
        _make_table(store)


def try_update_failures(
    store: Path, set_name: str, failed: Iterable[FailedSlide], mended: Iterable[str]
) -> tuple[str, ...]:
    """Bring `failures.csv` up to date; what comes back says why that could not be done, as on a full disk."""
    try:
        update_failures(store, set_name, failed, mended)
    except (OSError, StoreError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return (f"{store / FAILURES_FILE} is not up to date: {why}",)
    return ()


def _make_table(store: Path) -> None:
    file = store / FAILURES_FILE
    for _ in range(_MOST_TRIES):
        sizes = _sizes(store)
        before = _read_table(file)
        rows = _missing(before, _read_reports(store, sizes))
        if not rows:
            file.unlink(missing_ok=True)
        elif rows != before:
            write_csv(file, _COLUMNS, [[getattr(row, name) for name in _COLUMNS] for row in rows])
        if _sizes(store) == sizes and _read_table(file) == rows:
            return


def _missing(table: Iterable[Failure], reports: Iterable[_Report]) -> list[Failure]:
    """What is missing by the last report about each slide; the rows of the table count as reports."""
    last: dict[tuple[str, str], _Report] = {}
    for report in [*(_Report(row, False) for row in table), *reports]:
        key = report.failure.set, report.failure.slide
        if key not in last or report.when >= last[key].when:
            last[key] = report
    left = [report for report in last.values() if not report.is_mended]
    return [report.failure for report in sorted(left, key=lambda report: report.when)]


def _read_table(file: Path) -> list[Failure]:
    try:
        columns, *rows = list(read_csv(file)) or [list(_COLUMNS)]
    except FileNotFoundError:
        return []
    except csv.Error as error:
        raise StoreError(f"cannot read {file}: {error}. Move it away.") from error
    if tuple(columns) != _COLUMNS:
        raise StoreError(f"cannot read {file}: its columns are not {', '.join(_COLUMNS)}. Move it away.")
    return [Failure(*row) for row in rows if len(row) == len(_COLUMNS)]


def _sizes(store: Path) -> dict[str, int]:
    """The files of all processes, and how much each has written."""
    try:
        with os.scandir(store / _REPORTS) as entries:
            return {entry.name: entry.stat().st_size for entry in sorted(entries, key=lambda one: one.name)}
    except FileNotFoundError:
        return {}


def _read_reports(store: Path, names: Iterable[str]) -> list[_Report]:
    """Every report of these files; a line that a killed process left unfinished is none."""
    found = []
    for name in names:
        try:
            lines = (store / _REPORTS / name).read_bytes().splitlines()
        except FileNotFoundError:  # somebody has tidied up
            continue
        for line in lines:
            try:
                row = json.loads(line)
                found.append(_Report(Failure(*(str(row[column]) for column in _COLUMNS)), row["status"] == "mended"))
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _append(file: Path, reports: Iterable[_Report]) -> None:
    """Add lines to the file of this process, at once: what is killed later has told of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # An empty line first: what could not be written whole the last time must not swallow the next report.
    lines = "".join(f"\n{json.dumps(_as_row(report))}\n" for report in reports)
    with file.open("ab") as opened:
        opened.write(lines.encode())


def _as_row(report: _Report) -> Mapping[str, str]:
    row = {name: getattr(report.failure, name) for name in _COLUMNS}
    return row | {"status": "mended" if report.is_mended else "failed"}


class RunLog:
    """The log file of one run: lines with their time, on disk as soon as they are written.

    Attributes:
        path: the file.
        problem: why it is not complete, as on a full disk; None where it is. A log that fails ends no run.
    """

    def __init__(self, store: Path) -> None:
        """Open a new file under `logs`; its name is the time, and the process for runs of the same second."""
        folder = store / LOG_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{writer_name()}.log"
        self.problem: str | None = None
        self._file = self.path.open("ab", buffering=0)
        self.line(f"parfocal {__version__}")

    def line(self, text: str) -> None:
        """Add one line, or several that belong together."""
        shown = printable(text, keep="\n")
        try:
            self._file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {shown}\n".encode())
        except OSError as error:
            self.problem = f"{self.path} is not complete: {error.strerror or error}"

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.line(f"ended by {kind.__name__}: {error}")
        self._file.close()
