"""How far something is: bars on a terminal, plain lines in a log or a pipe."""

import threading
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

from parfocal.run import events
from parfocal.terminal import printable

# In a log: a line at each tenth, and at least this often while something happens.
_SECONDS = 30.0
# And about this often while nothing does.
_ALIVE_SECONDS = 60.0
# A time that is left below this is not told.
_WORTH_SAYING = 60.0


class Bars:
    """Shows the events of long work on stderr: one bar for each stage on a terminal, and lines elsewhere.

    A log gets a line at each tenth of a stage and twice a minute, and one now and then while nothing happens, so that
    it is seen to be alive. Use it in a `with` statement and pass it as `on_event`. A log that nobody reads any more
    ends nothing.
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
            TextColumn("{task.fields[item]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.is_live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _Stage] = {}
        self._latest: events.Progress | None = None
        self._silent_since = 0.0
        self._ended = threading.Event()
        self._alive = threading.Thread(target=self._say_alive, name="parfocal-progress", daemon=True)

    def __enter__(self) -> "Bars":
        self._bars.start()
        if not self.is_live:
            self._alive.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._bars.stop()

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        if isinstance(event, events.Notice):
            self.line(f"warning: {event.text}" if event.is_warning else event.text)
            return
        stage, item = printable(event.stage), printable(event.item)
        if self.is_live:
            if event.line:
                self.line(event.line)
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=event.total, item=item)
            self._bars.update(self._tasks[stage], completed=event.done, total=event.total, item=item)
            return
        self._latest = event
        if event.line:
            self.line(f"[{event.done}/{event.total}{', ' if item else ''}{item}] {event.line}")
        elif event.total is not None:
            if stage not in self._stages:
                self._stages[stage] = _Stage(event.done)
            left = self._stages[stage].time_left(event.done, event.total)
            if left is not None:
                self.line("  ".join(filter(None, (f"{stage}: {event.done}/{event.total}", item, left))))

    def line(self, text: str) -> None:
        """A line of its own, above the bars."""
        if self.is_live:
            self.console.print(Text(printable(text)), soft_wrap=True, highlight=False)
            return
        self._silent_since = 0.0
        with suppress(BrokenPipeError):
            print(printable(text), file=self.console.file, flush=True)

    def _say_alive(self) -> None:
        while not self._ended.wait(_ALIVE_SECONDS):
            self._silent_since += _ALIVE_SECONDS
            silent, latest = self._silent_since, self._latest
            if silent > _ALIVE_SECONDS and latest is not None:
                total = "" if latest.total is None else f"/{latest.total}"
                self.line(f"{latest.stage}: {latest.done}{total}, at work on the next for {_duration(silent)}")
                self._silent_since = silent


class _Stage:
    """When a stage was last told of in a log."""

    def __init__(self, done: int) -> None:
        self.began, self.done_before = time.monotonic(), done
        self.tenth, self.said = -1, self.began

    def time_left(self, done: int, total: int) -> str | None:
        """What a line says of the time that is left, nothing where it is short; None where no line is due."""
        tenth, now = (10 * done // total if total else 10), time.monotonic()
        if tenth <= self.tenth and now - self.said < _SECONDS:
            return None
        self.tenth, self.said = tenth, now
        left = (now - self.began) / max(1, done - self.done_before) * (total - done)
        return f"about {_duration(left)} left" if done > self.done_before and left >= _WORTH_SAYING else ""


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The speed of the last moments; empty while it is not known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")
