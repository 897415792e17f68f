"""How far something is: bars on a terminal, plain lines in a log or a pipe."""

import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from parfocal.terminal import printable

__all__ = ["Bars"]

# In a log: a line at each tenth, and at least this often while something happens.
_SECONDS = 30.0


class Bars:
    """One bar for each stage, on stderr; without a terminal a line at each tenth of a stage and twice a minute.

    Use it in a `with` statement, and call it with the name of a stage, how much of it is done, how much there is, and
    what is to be said beside it. A log that nobody reads any more ends nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`; by default stderr, so that stdout stays for data."""
        self.console = console or Console(stderr=True)
        self.is_live = self.console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[what]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.is_live,
        )
        self._stages: dict[str, TaskID] = {}
        self._said: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None, what: str = "") -> None:
        """Show how far a stage is; a total of None is not known yet."""
        stage, what = printable(stage), printable(what)
        if self.is_live:
            if stage not in self._stages:
                self._stages[stage] = self._bars.add_task(stage, total=total, what=what)
            self._bars.update(self._stages[stage], completed=done, total=total, what=what)
        elif total is not None and self._is_due(stage, done, total):
            self.line(f"{stage}: {done}/{total}{'  ' if what else ''}{what}")

    def line(self, text: str) -> None:
        """A line of its own, above the bars."""
        if self.is_live:
            self.console.print(Text(printable(text)), soft_wrap=True, highlight=False)
            return
        with suppress(BrokenPipeError):
            print(printable(text), file=self.console.file, flush=True)

    def _is_due(self, stage: str, done: int, total: int) -> bool:
        tenth, now = (10 * done // total if total else 10), time.monotonic()
        last, when = self._said.get(stage, (-1, now))
        if tenth <= last and now - when < _SECONDS:
            return False
        self._said[stage] = tenth, now
        return True


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The speed of the last moments; empty while it is not known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")
