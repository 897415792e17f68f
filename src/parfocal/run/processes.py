"""Tasks that run in processes of their own: a process that dies takes only its task with it.

A library that reads foreign files may crash, and a crash ends its process. Here every process has a pipe of its own, so
it is known which task it had; nothing is shared, so nothing can stay locked.
"""

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
from threadpoolctl import threadpool_limits

from parfocal.errors import ConfigError
from parfocal.signals import raised

Task = TypeVar("Task")
Place = TypeVar("Place")
Result = TypeVar("Result")

Tell = Callable[[Any], None]
"""What a task calls now and then: it passes a value to the caller, and ends the task when the run has ended."""

_NAME = "parfocal-worker"
# The exit status of a process that would start the whole script again instead of serving.
_UNGUARDED = 86
_TERMINATED = 128 + signal.SIGTERM
# How often a process is looked at whose pipe says nothing, and how often a task's values are passed on.
_LOOK_SECONDS = 0.5
# How long a process may take to end its present step. What it has not finished is of no use to anybody.
_GRACE_SECONDS = 10.0
# Processes that die before they have done anything, one after the other, until it is believed that all would.
_MOST_STARTS = 3


class CannotStartError(Exception):
    """No process can be made ready; the text says why."""


@dataclass(frozen=True)
class Death:
    """The process of a task died, twice.

    Attributes:
        code: its exit status; minus the number of the signal that killed it; None where nobody has seen it end.
    """

    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return "it crashed or was killed; the log of its node may say more"
        if self.code >= 0:
            return f"it ended with status {self.code}"
        name = signal.Signals(-self.code).name if -self.code in signal.valid_signals() else f"signal {-self.code}"
        why = {
            "SIGKILL": "it was killed, or ran out of memory",
            "SIGTERM": "it was told to end",
        }.get(name, "a library crashed")
        return f"{why}; {name}"


@dataclass(frozen=True)
class TimedOut:
    """A task took longer than it may, and its process was killed; it is not tried again.

    Attributes:
        seconds: how long it may take.
    """

    seconds: float

    def __str__(self) -> str:
        return f"it took longer than {self.seconds:g} s and was ended"


class _Stopped(BaseException):
    """The run has ended; raised in the process of a task."""


def check_workers() -> None:
    """Refuse to start processes that could not begin: they import the script that starts them.

    Raises:
        ConfigError: the script has no main guard, or is no file.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        # This is a process that is just being started, and the script that it imports starts processes itself.
        if process.name == _NAME:
            raise SystemExit(_UNGUARDED)
        raise ConfigError(_ADVICE)
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    folder = getattr(multiprocessing.process, "ORIGINAL_DIR", None) or "."
    if getattr(main, "__spec__", None) is None and file and not Path(folder, file).is_file():
        raise ConfigError(
            f"worker processes cannot be started: they import the script that starts them, and {file} is no file. "
            "Save the script, or use workers=0."
        )


_ADVICE = (
    "worker processes cannot be started: they import the script that starts them, and this one would start all over. "
    'Call the function under `if __name__ == "__main__":`, or use workers=0.'
)


def run_crew(
    tasks: Sequence[Task],
    prepare: Callable[[Place], Callable[[Task, Tell], Result]],
    places: Sequence[Place],
    on_told: Callable[[Task, Any], None] | None = None,
    *,
    timeout: float | None = None,
) -> Iterator[tuple[Task, Result | Death | TimedOut]]:
    """Run every task in a process, as many at a time as there are places, and hand out each result as it comes.

    A task whose process dies is tried once more, alone, when all others are done: it may have been killed because
    there were several. When the iterator is left early, the processes stop at the next value that they tell; those
    that do not are killed.

    Args:
        tasks: what to do; each is pickled, as are the results.
        prepare: called once in every process with its place; what it gives back does the tasks. A function of a
            module, or a `functools.partial` of one.
        places: what tells the processes apart, such as a device or nothing.
        on_told: given a task and what it told, about twice a second.
        timeout: seconds that a task may take. One that takes longer has its process killed, whatever it is at, and is
            not tried again; another process takes the place. What a process needs to become ready does not count.

    Raises:
        ConfigError: see `check_workers`.
        CannotStartError: `prepare` fails, or processes die before they have done anything.
    """
    check_workers()
    crew = _Crew(tasks, prepare, places, timeout)
    try:
        yield from crew.results(on_told)
    finally:
        crew.dismiss()


@dataclass(frozen=True)
class _Job(Generic[Task]):
    task: Task
    is_second: bool = False


class _Member(Generic[Task, Place]):
    """A process, as its run sees it."""

    def __init__(self, prepare: Callable[[Place], Any], place: Place) -> None:
        self.place = place
        self.job: _Job[Task] | None = None
        self.given = 0.0
        self.is_ready = False
        # Not fork: the run has threads, and a forked child may inherit their locks.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, place), name=_NAME)
        with _interrupts_held(), theirs:
            self.process.start()

    def give(self, job: _Job[Task]) -> bool:
        """Hand over a task; False where there is nobody to take it."""
        try:
            self.pipe.send(job.task)
        except OSError:
            return False
        self.job, self.given = job, time.monotonic()
        return True

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What it has said; the last is its death, where it has died."""
        try:
            # In this order: what it said before it died counts.
            is_alive = self.process.is_alive()
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            is_alive = False
        if not is_alive:
            self.process.join(_LOOK_SECONDS)
            if self.process.exitcode is None:  # its pipe is gone, and it is of no use
                self.process.kill()
                self.process.join(_GRACE_SECONDS)
            yield "dead", self.process.exitcode


class _Crew(Generic[Task, Place, Result]):
    """The processes of a run and what is left to do."""

    def __init__(
        self,
        tasks: Sequence[Task],
        prepare: Callable[[Place], Callable[[Task, Tell], Result]],
        places: Sequence[Place],
        timeout: float | None,
    ) -> None:
        self.prepare, self.timeout = prepare, timeout
        self.waiting = deque(_Job(task) for task in tasks)
        self.again: deque[_Job[Task]] = deque()
        self.free = deque(places)
        self.members: list[_Member[Task, Place]] = []
        self.useless = 0

    def results(self, on_told: Callable[[Task, Any], None] | None) -> Iterator[tuple[Task, Result | Death | TimedOut]]:
        while self.waiting or self.again or self.busy:
            self._hand_out()
            wait([handle for one in self.members for handle in (one.pipe, one.process.sentinel)], _LOOK_SECONDS)
            for member in list(self.members):
                for kind, value in member.messages():
                    job = member.job
                    if kind == "ready":
                        member.is_ready = True
                    elif kind == "cannot":
                        self._leave(member)
                        self._shrink_or_raise(value)
                    elif kind == "told" and job is not None and on_told is not None:
                        on_told(job.task, value)
                    elif kind == "done" and job is not None:
                        member.job, self.useless = None, 0
                        yield job.task, value
                    elif kind == "dead" and member in self.members:
                        self._leave(member)
                        if job is None:
                            self._died_without_task(member, value)
                        elif job.is_second:
                            self.free.append(member.place)
                            yield job.task, Death(value)
                        else:
                            self.free.append(member.place)
                            self.again.append(_Job(job.task, is_second=True))
            yield from self._overdue()

    def _overdue(self) -> Iterator[tuple[Task, TimedOut]]:
        """End the processes whose tasks have taken too long."""
        seconds = math.inf if self.timeout is None else self.timeout
        for member in self.busy:
            if member.job is not None and time.monotonic() - member.given > seconds:
                task = member.job.task
                member.process.kill()
                member.process.join(_GRACE_SECONDS)
                self._leave(member)
                self.free.append(member.place)
                self.useless = 0
                yield task, TimedOut(seconds)

    @property
    def busy(self) -> list[_Member[Task, Place]]:
        return [one for one in self.members if one.job is not None]

    def dismiss(self) -> None:
        """End all processes: those with a task after their present step, or by force."""
        for member in self.members:
            member.pipe.close()
        deadline = time.monotonic() + _GRACE_SECONDS
        try:
            for member in self.members:
                member.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # at once where the user does not wait for the end of the grace
            for member in self.members:
                member.process.kill()
            for member in self.members:
                member.process.join(_GRACE_SECONDS)
                self.free.append(member.place)
            self.members.clear()

    def _hand_out(self) -> None:
        if not self.waiting and self.again and not self.busy:
            self.dismiss()  # what is tried again has the machine for itself
            self.waiting.append(self.again.popleft())
        idle = [one for one in self.members if one.job is None]
        for member in idle:
            if member.is_ready and self.waiting and member.give(self.waiting[0]):
                self.waiting.popleft()
        starting = sum(one.job is None for one in self.members)
        while self.free and starting < len(self.waiting):
            place = self.free.popleft()
            try:
                self.members.append(_Member(self.prepare, place))
            except OSError as error:  # no memory for another process, or it was killed at once
                self._shrink_or_raise(f"a process cannot be started: {error.strerror or error}")
            starting += 1

    def _leave(self, member: _Member[Task, Place]) -> None:
        self.members.remove(member)
        member.pipe.close()

    def _died_without_task(self, member: _Member[Task, Place], code: int | None) -> None:
        if code == _UNGUARDED:
            raise ConfigError(_ADVICE)
        self.useless += 1
        if self.useless < _MOST_STARTS:
            self.free.append(member.place)
        else:
            self._shrink_or_raise(f"processes die before they have done anything ({Death(code)})")

    def _shrink_or_raise(self, reason: str) -> None:
        """Go on with the processes that are there; raise where there is none."""
        if not self.members:
            raise CannotStartError(reason)


def _serve(pipe: Connection, prepare: Callable[[Place], Callable[[Task, Tell], Any]], place: Place) -> None:
    """The life of a process: prepare, then one task after the other until the run closes the pipe."""
    # The terminal sends Ctrl-C to every process; the run alone answers it. Whoever ends a batch of processes tells
    # each of them, and what this one has begun to write is removed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _allow_interrupts()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # data goes to stdout, and it is the run that writes it
    with (
        raised(lambda: SystemExit(_TERMINATED), (signal.SIGTERM,), once=True),
        contextlib.suppress(_Stopped, EOFError, BrokenPipeError, ConnectionResetError),
    ):
        threading.Thread(target=_end_with_parent, name="parfocal-parent", daemon=True).start()
        try:
            work = prepare(place)
        except Exception as error:  # whatever it is, the run tells it
            pipe.send(("cannot", f"{type(error).__name__}: {error}"))
            return
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", work(pipe.recv(), _Teller(pipe))))


class _Teller:
    """Passes on what a task tells, and ends the task when nobody listens any more."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._last = 0.0

    def __call__(self, value: Any) -> None:
        # While a task runs the other end says nothing, so all that can come is the end of the pipe.
        if self._pipe.poll():
            raise _Stopped
        now = time.monotonic()
        if now - self._last >= _LOOK_SECONDS:
            self._last = now
            try:
                self._pipe.send(("told", value))
            except OSError as error:
                raise _Stopped from error


def _end_with_parent() -> None:
    """End when the process is gone that started this one, so that a killed run leaves nobody who waits for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def share_cores(workers: int) -> Iterator[None]:
    """Give this process its share of the cores, in the libraries that the block loads as in those that are there.

    One process alone leaves it to the libraries, as where everything is in one process.
    """
    if workers <= 1:
        yield
        return
    cores = count_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, min(cores // workers, int(asked) if asked.isdigit() else cores))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries that are loaded from here on
    cv2.setNumThreads(threads)
    yield
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block is over, and does not reach a process that is started in it: it is born so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first process would start it, and that lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allow_interrupts() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
