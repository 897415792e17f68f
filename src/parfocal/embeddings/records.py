"""What a run leaves beside its sets: the table of failures, and a log."""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from parfocal.embeddings.events import FailedSlide
from parfocal.errors import StoreError
from parfocal.provenance import writing
from parfocal.version import __version__

__all__ = ["Failure", "RunLog", "read_failures", "update_failures"]

FAILURES_FILE = "failures.csv"
LOG_FOLDER = "logs"


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


def read_failures(store: Path) -> list[Failure]:
    """The slides that are missing from the sets of a store; none where nothing has failed.

    Raises:
        StoreError: `failures.csv` has other columns.
    """
    file = store / FAILURES_FILE
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as text:
        rows = csv.DictReader(text)
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise StoreError(f"cannot read {file}: its columns are not {', '.join(_COLUMNS)}. Move it away.")
        return [Failure(**row) for row in rows]


def update_failures(store: Path, set_name: str, failed: Iterable[FailedSlide], mended: Iterable[str]) -> None:
    """Bring `failures.csv` up to date: slides that failed get a row, those that are done now lose theirs.

    The file is removed with its last row, so its absence means that nothing is missing.
    """
    new = {outcome.slide: outcome for outcome in failed}
    gone = {*mended, *new}
    before = read_failures(store)
    rows = [row for row in before if row.set != set_name or row.slide not in gone]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows += [
        Failure(one.slide, str(one.path), one.error, " ".join(one.message.split()), now, set_name)
        for one in new.values()
    ]
    file = store / FAILURES_FILE
    if rows == before:
        return
    if not rows:
        file.unlink(missing_ok=True)
        return
    with writing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(_COLUMNS)
        table.writerows([getattr(row, name) for name in _COLUMNS] for row in rows)


class RunLog:
    """The log file of one run: lines with their time, on disk as soon as they are written."""

    def __init__(self, store: Path) -> None:
        """Open a new file under `logs`; its name is the time, and the process for runs of the same second."""
        folder = store / LOG_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{os.getpid()}.log"
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self.line(f"parfocal {__version__}")

    def line(self, text: str) -> None:
        """Add one line, or several that belong together."""
        self._file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.line(f"ended by {kind.__name__}: {error}")
        self._file.close()
