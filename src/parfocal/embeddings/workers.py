"""Several slides at a time, each in a process of its own; a process that dies takes only its slide with it."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from threadpoolctl import threadpool_limits

from parfocal.embeddings.events import FailedSlide
from parfocal.embeddings.job import JobResult, run_job
from parfocal.embeddings.parent import end_with_parent
from parfocal.embeddings.settings import EmbedSettings, load_encoders
from parfocal.encoders import TileEncoder
from parfocal.slides import SlideSource

__all__ = ["run_in_processes"]

# How often progress is shown while slides are computed.
LOOK_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class _Board:
    """Memory that the run and its workers share: tiles done and planned for each slide, and the order to stop.

    It has no lock on purpose. A worker that is killed while it holds one would leave all others waiting for ever;
    a number that is read while it is written only makes the progress bar wrong for half a second.
    """

    done: Any
    total: Any
    stop: Any


def _new_board(n_slides: int) -> _Board:
    context = multiprocessing.get_context("spawn")
    return _Board(context.RawArray("q", n_slides), context.RawArray("q", n_slides), context.RawValue("b", 0))


class _Worker:
    """What a worker process keeps between its slides."""

    def __init__(self, settings: EmbedSettings, set_path: Path, board: _Board) -> None:
        self.settings = settings
        self.set_path = set_path
        self.board = board
        self.encoders: Mapping[float, TileEncoder] = load_encoders(settings)

    def run(self, number: int, source: SlideSource) -> JobResult:
        def on_tiles(done: int, total: int) -> None:
            if self.board.stop.value:
                raise KeyboardInterrupt
            self.board.done[number], self.board.total[number] = done, total

        return run_job(source, self.encoders, self.settings, self.set_path, on_tiles)


_worker: _Worker | None = None


def run_in_processes(
    sources: Sequence[SlideSource],
    settings: EmbedSettings,
    set_path: Path,
    on_tiles: Callable[[SlideSource, int, int], None],
) -> Iterator[JobResult]:
    """Embed slides, `settings.workers` at a time, and hand out each result as it comes.

    When a worker process dies, nothing tells which slide it had. So every slide that was under way is tried once more,
    alone; the one that kills its process again is a failure, and the run goes on.

    Args:
        sources: the slides.
        settings: the settings of the run.
        set_path: the set to write to.
        on_tiles: told a slide's tiles done and planned, about twice a second.
    """
    board = _new_board(len(sources))
    waiting = deque(enumerate(sources))
    while waiting:
        suspects: list[tuple[int, SlideSource]] = []
        with _pool(settings, set_path, board, settings.workers) as pool:
            running: dict[Future[JobResult], tuple[int, SlideSource]] = {}
            while (waiting or running) and not suspects:
                # No more than there are workers: what is handed over cannot be told from what is under way.
                while waiting and len(running) < settings.workers:
                    number, source = waiting.popleft()
                    running[pool.submit(_run, number, source)] = (number, source)
                ended, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for number, source in running.values():
                    on_tiles(source, board.done[number], board.total[number])
                for future in ended:
                    job = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        suspects.append(job)
                        continue
                    yield result
            suspects += running.values()
        for number, source in sorted(suspects, key=lambda job: job[0]):
            yield _run_alone(number, source, settings, set_path, board)


def _run_alone(number: int, source: SlideSource, settings: EmbedSettings, set_path: Path, board: _Board) -> JobResult:
    with _pool(settings, set_path, board, 1) as pool:
        try:
            return pool.submit(_run, number, source).result()
        except BrokenProcessPool:
            message = (
                f"the process that embedded {source.slide} died without a message, twice: it was killed, ran out of "
                "memory, or a library crashed on the file. Try it alone with --workers 1 and a smaller --batch."
            )
            return JobResult(FailedSlide(source.slide, source.path, "WorkerDied", message))


@contextmanager
def _pool(settings: EmbedSettings, set_path: Path, board: _Board, workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers stop after their present batch when the block is left by an error or by Ctrl-C."""
    pool = ProcessPoolExecutor(
        workers,
        # Not fork: the run has threads, and a forked child may inherit their locks.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(settings, set_path, board),
    )
    try:
        yield pool
    except BaseException:
        board.stop.value = 1
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(settings: EmbedSettings, set_path: Path, board: _Board) -> None:
    """Prepare a worker process: its share of the cores, its encoders, and an end that follows the run's."""
    global _worker
    # The terminal sends Ctrl-C to every process; the run alone answers it and tells the workers to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    threads = max(1, (os.cpu_count() or 1) // max(1, settings.workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries that are loaded from here on
    cv2.setNumThreads(threads)
    _worker = _Worker(settings, set_path, board)
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _run(number: int, source: SlideSource) -> JobResult:
    if _worker is None:
        raise RuntimeError("a worker was used before it was started")
    return _worker.run(number, source)
