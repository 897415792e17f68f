"""Cells one after the other or several at a time, each in a process; one that fails or dies does not stop the rest."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace

import torch
from threadpoolctl import threadpool_limits

from parfocal.embeddings.parent import end_with_parent
from parfocal.studies.exploration.scoring import CellJob, Failure, attempt_job

__all__ = ["run_jobs"]


def run_jobs(
    jobs: Sequence[CellJob], *, devices: Sequence[str], workers: int
) -> Iterator[tuple[CellJob, Failure | None]]:
    """Run jobs and hand each out when it is done, with its failure if there is one.

    With one place on one device everything runs in this process. Else every place is a process of its own, and a cell
    goes to the next free place. When a process dies, nothing tells which cell killed it: those that were under way are
    tried once more, each alone, and go on from their last checkpoint.

    Args:
        jobs: what to run, in order.
        devices: where; each takes `workers` cells at a time.
        workers: places on each device.
    """
    places = [device for device in devices for _ in range(workers)]
    if len(places) == 1:
        for job in jobs:
            placed = _on(job, places[0])
            yield placed, attempt_job(placed)
        return
    waiting = deque(jobs)
    while waiting:
        suspects: list[CellJob] = []
        free = deque(places)
        with _pool(len(places)) as pool:
            running: dict[Future[Failure | None], CellJob] = {}
            while (waiting or running) and not suspects:
                # No more than there are places: what is handed over cannot be told from what is under way.
                while waiting and free:
                    job = _on(waiting.popleft(), free.popleft())
                    running[pool.submit(attempt_job, job)] = job
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    try:
                        failure = future.result()
                    except BrokenProcessPool:
                        suspects.append(job)
                        continue
                    free.append(job.device)
                    yield job, failure
            suspects += running.values()
        for job in suspects:
            yield job, _run_alone(job)


def _on(job: CellJob, device: str) -> CellJob:
    return replace(job, device=device, settings=job.settings.model_copy(update={"device": device}))


def _run_alone(job: CellJob) -> Failure | None:
    with _pool(1) as pool:
        try:
            return pool.submit(attempt_job, job).result()
        except BrokenProcessPool:
            message = (
                "its process died without a message, twice: it was killed, or ran out of memory. Use fewer workers."
            )
            return Failure(job.cell.name, job.settings.seed, "WorkerDied", message)


@contextmanager
def _pool(places: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(
        places,
        # Not fork: a forked child inherits the locks of threads that it does not have.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(max(1, (os.cpu_count() or 1) // places),),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(threads: int) -> None:
    """Prepare a process: its share of the cores, and an end that follows the run's."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries that are loaded from here on
    threadpool_limits(threads)
    torch.set_num_threads(threads)
