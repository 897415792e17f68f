"""`run.jsonl`: a line for each slide of every run, for programs that watch or add up what nights have done.

The table of failures and the store itself say what is missing; nothing depends on these lines, so that one which is
damaged, or could not be written, costs no slide.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from parfocal.files import writer_name
from parfocal.run.failures import NOT_TRIED, FailedSlide
from parfocal.slides import SlideSource
from parfocal.version import __version__

RUN_FILE = "run.jsonl"
"""The file in a store."""

# Smaller than what any system writes at once where several processes append to one file (POSIX: PIPE_BUF).
_MOST_BYTES = 4096

SlideStatus = Literal["given", "done", "kept", "failed", "not tried"]


@dataclass(frozen=True)
class SlideRecord:
    """What a run says of one slide.

    Attributes:
        slide: its id.
        file: its file, or the set that it was read from.
        status: `given` when the run began and the slide was still to do; then `done`, `kept` (done before), `failed` or
            `not tried`.
        reason: why it failed.
        seconds: wall-clock time of its job; None where that is not known, as of a process that died.
        tiles: how many it has, or were read of it.
        bytes: what its files hold.
        command: which one ran.
        sets: what is written: the names of sets, or of a table.
        settings: the digest of the settings of that.
        version: of parfocal.
        shard: the part of all slides that the run had, such as `0/4`; None where it had all.
        run: a name that all lines of a run share, and no other run has.
        host: the machine.
        pid: the process of the run; its workers have others.
        start: when the job began, as ISO 8601 in UTC.
        end: when it ended.
    """

    slide: str
    file: str
    status: SlideStatus
    reason: str = ""
    seconds: float | None = None
    tiles: int | None = None
    bytes: int | None = None
    command: str = ""
    sets: tuple[str, ...] = ()
    settings: str = ""
    version: str = ""
    shard: str | None = None
    run: str = ""
    host: str = ""
    pid: int = 0
    start: str | None = None
    end: str | None = None


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("slide", "file", "status", "reason", "command", "settings", "version"), (str,)),
    **dict.fromkeys(("run", "host"), (str,)),
    **dict.fromkeys(("shard", "start", "end"), (str, type(None))),
    "seconds": (int, float, type(None)),
    **dict.fromkeys(("tiles", "bytes"), (int, type(None))),
    "sets": (list,),
    "pid": (int,),
}


class RunRecords:
    """The lines of one run; each is on disk when the call ends. A file that cannot be written ends no run.

    Attributes:
        path: the file.
        problem: why it is not complete; None where it is.
    """

    def __init__(
        self, path: Path, *, command: str, sets: Iterable[str], settings: str, shard: str | None = None
    ) -> None:
        """Open the file to append to it, made where it is absent."""
        self.path = path
        self.problem: str | None = None
        now = datetime.now(UTC)
        self._about: dict[str, Any] = {
            "command": command,
            "sets": tuple(sets),
            "settings": settings,
            "version": __version__,
            "shard": shard,
            "run": f"{now:%Y-%m-%dT%H-%M-%S.%fZ}-{writer_name()}",
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._file: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            self._note(error)

    def given(self, sources: Iterable[SlideSource]) -> None:
        """Note slides that the run is to do, so that those it never comes to are known to be missing."""
        now = _text(datetime.now(UTC))
        for source in sources:
            self._append(SlideRecord(source.slide, str(source.path), "given", start=now, **self._about))

    def ended(
        self,
        source: SlideSource,
        status: SlideStatus,
        *,
        seconds: float | None = None,
        reason: str = "",
        tiles: int | None = None,
        n_bytes: int | None = None,
    ) -> None:
        """Note what came of a slide, now."""
        now = datetime.now(UTC)
        start = None if seconds is None else _text(now - timedelta(seconds=seconds))
        took = None if seconds is None else round(seconds, 3)
        self._append(
            SlideRecord(
                source.slide,
                str(source.path),
                status,
                " ".join(reason.split()),
                took,
                tiles,
                n_bytes,
                start=start,
                end=_text(now),
                **self._about,
            )
        )

    def failed(self, failed: FailedSlide) -> None:
        """Note that a slide failed, or was not come to."""
        source = SlideSource(failed.slide, failed.path)
        reason = f"{failed.error}: {failed.message}"
        status: SlideStatus = "not tried" if failed.error == NOT_TRIED else "failed"
        self.ended(source, status, seconds=failed.seconds, reason=reason)

    def _append(self, record: SlideRecord) -> None:
        if self._file is None:
            return
        try:
            line = _line(record)
            # What another process could not write whole, as on a full disk, must not swallow this line.
            size = os.fstat(self._file).st_size
            is_torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
            os.write(self._file, (b"\n" if is_torn else b"") + line)
        except OSError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        self.problem = f"{self.path} is not complete: {error.strerror or error}"

    def __enter__(self) -> "RunRecords":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


def read_records(path: Path) -> tuple[list[SlideRecord], int]:
    """The records of a file in their order, and how many lines are damaged; none where there is no file."""
    found, damaged = list[SlideRecord](), 0
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found, damaged
    names = {field.name for field in fields(SlideRecord)}
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            known = {name: value for name, value in row.items() if name in names}
            if not all(isinstance(value, _TYPES[name]) for name, value in known.items()):
                raise TypeError
            known["sets"] = tuple(map(str, known.get("sets", ())))
            found.append(SlideRecord(**known))
        except (ValueError, TypeError, AttributeError, RecursionError):
            damaged += 1
    return found, damaged


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def _line(record: SlideRecord) -> bytes:
    """The record as a line that is written at once; a reason, and then a path, that are too long for it are cut."""
    row = asdict(record)
    shorten: list[Callable[[], None]] = [
        lambda: row.update(reason=_cut(row["reason"], 1000)),
        lambda: row.update(file=_cut(row["file"], 1000)),
        lambda: row.update(reason=_cut(row["reason"], 80)),
    ]
    while len(line := f"{json.dumps(row, separators=(',', ':'))}\n".encode()) >= _MOST_BYTES and shorten:
        shorten.pop(0)()
    return line


def _cut(text: str, most: int) -> str:
    """The end of a path and the beginning of a sentence say most; both stay."""
    return text if len(json.dumps(text)) <= most else f"{text[: most // 12]} ... {text[-most // 12 :]}"
