"""The boundary of a job: whatever goes wrong in it becomes its recorded failure, and the others go on.

A library may raise anything on a damaged file, and a solver or a device on odd numbers. So this is the one place where
every exception is caught; all who go on after a failure do it by these functions. Ctrl-C passes through. Beside them
what runs jobs: one after the other, in threads that read ahead or work side by side, or in processes.
"""

import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from parfocal.errors import ConfigError, ParfocalError, ParfocalWarning
from parfocal.run.executor import Processes
from parfocal.run.executors import RunsWhere, executor_for
from parfocal.run.failures import DISK_FULL, Failed, FailedSlide, failure, not_tried
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut
from parfocal.slides import SlideSource

Task = TypeVar("Task")
Result = TypeVar("Result")


def attempt(job: Callable[[], Result], *, passing: tuple[type[Exception], ...] = ()) -> Result | Failed:
    """What a job gives, or what it raised.

    Args:
        job: what to do.
        passing: exceptions that end more than this job, and are raised.
    """
    try:
        return job()
    except passing:
        raise
    except Exception as error:
        return Failed.of(error)


def attempt_slide(
    source: SlideSource, job: Callable[[], Result], *, writes_to: Path | None = None
) -> Result | FailedSlide:
    """What a slide's job gives, or why the slide failed.

    Args:
        source: the slide.
        job: what to do with it.
        writes_to: what is written, for errors that say that there is no space and not where.
    """
    started = time.monotonic()
    try:
        return job()
    except Exception as error:
        return replace(failure(source, error, writes_to), seconds=time.monotonic() - started)


def attempt_slides(
    sources: Sequence[SlideSource], job: Callable[[SlideSource], Result], *, writes_to: Path
) -> Iterator[Result | FailedSlide]:
    """What came of each slide, in order; once there is no space for one, the others are not tried.

    Args:
        sources: the slides.
        job: what to do with each.
        writes_to: what is written.
    """
    for number, source in enumerate(sources, start=1):
        outcome = attempt_slide(source, partial(job, source), writes_to=writes_to)
        yield outcome
        if isinstance(outcome, FailedSlide) and outcome.error == DISK_FULL:
            yield from map(not_tried, sources[number:])
            return


@contextmanager
def own_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Gather the warnings of ours that the block gives; those of libraries are given again after it."""
    ours: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ParfocalWarning)
        yield ours
    for warning in caught:
        if issubclass(warning.category, ParfocalWarning):
            ours.append(warning)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def each_in_thread(
    tasks: Sequence[Task], work: Callable[[Task], Result], *, threads: int
) -> Generator[tuple[Task, Result]]:
    """Do a work on every task, several at a time, and hand out each result as it comes; what it raises is raised.

    When the iterator is left early, as by Ctrl-C, no other task is begun, and nobody waits for those that have been:
    what they have kept is whole, and the threads end with the process.
    """
    waiting, results = deque(tasks), queue.SimpleQueue[tuple[Task, Future[Result]]]()

    def serve() -> None:
        with suppress(IndexError):  # nothing waits any more
            while True:
                task, result = waiting.popleft(), Future[Result]()
                try:
                    result.set_result(work(task))
                except BaseException as error:  # raised where the results are handed out, whatever it is
                    result.set_exception(error)
                results.put((task, result))

    try:
        for number in range(min(threads, len(tasks))):
            threading.Thread(target=serve, name=f"parfocal-job-{number}", daemon=True).start()
        for _ in tasks:
            task, result = results.get()
            yield task, result.result()
    finally:
        waiting.clear()


def each_in_process(
    tasks: Sequence[Task], work: Callable[[Task], Result], *, workers: int
) -> Iterator[tuple[Task, Result]]:
    """Do a work on every task, in as many processes as there are workers, and hand out each result as it comes.

    Args:
        tasks: what to do; tasks, work and results can be pickled.
        work: does one.
        workers: processes; 1 does everything here.

    Raises:
        ParfocalError: a task failed in its process, or took the process with it.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    for task, result in Processes(("cpu",) * workers).run(tasks, partial(_attempts, work)):
        if isinstance(result, Failed | Death | TimedOut):
            raise ParfocalError(f"a worker process failed: {result}. Use one worker to see more.")
        yield task, result


def each_where(
    tasks: Sequence[Task], work: Callable[[Task], Result], where: RunsWhere, *, at_a_time: int
) -> Generator[tuple[Task, Result | Failed | Death | TimedOut]]:
    """Do a work on every task where it is asked for, and hand out each result as it comes.

    In threads of this process, where nothing is asked for, what a task raises is raised; elsewhere it comes back.

    Args:
        tasks: what to do.
        work: does one; work, tasks and results can be pickled where there is an executor.
        where: the executor.
        at_a_time: how many tasks at a time.

    Raises:
        ConfigError: the executor cannot be started.
    """
    if where.executor is None:
        yield from each_in_thread(tasks, work, threads=at_a_time)
        return
    executor = executor_for(where, workers=at_a_time)
    executor.check()
    try:
        yield from executor.run(tasks, partial(_attempts, work))
    except CannotStartError as error:
        raise ConfigError(f"jobs cannot be done elsewhere: {error}. Leave --executor out.") from error


def _attempts(work: Callable[[Task], Result], device: str) -> Callable[[Task, Tell], Result | Failed]:
    return lambda task, tell: attempt(partial(work, task))


T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


@contextmanager
def prefetched(items: Iterable[T], *, depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate `items` in a thread that is at most `depth` items ahead.

    An exception of `items` is raised where its item would have come. When the block is left early, the thread stops
    after the item it is at, and is gone before the block is.
    """
    line: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def produce() -> None:
        end = _End(None)
        try:
            for item in () if stop.is_set() else items:
                line.put(item)
                if stop.is_set():
                    return
        except BaseException as error:  # passed over to the consumer, whatever it is
            end = _End(error)
        line.put(end)

    def consume() -> Iterator[T]:
        while True:
            item = line.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=produce, name="parfocal-prefetch", daemon=True)
    try:
        thread.start()  # in here: it waits for the thread to begin, and a signal may end that wait
        yield consume()
    finally:
        stop.set()
        while thread.is_alive():
            # Make room for a producer that waits to put; it looks at `stop` right after.
            try:
                line.get(timeout=0.01)
            except queue.Empty:
                continue
