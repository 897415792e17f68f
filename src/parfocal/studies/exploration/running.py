"""Cells one after the other or several at a time, each in a process; one that fails or dies does not stop the rest."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from threadpoolctl import threadpool_limits

from parfocal.crew import CannotStartError, Death, Tell, run_crew
from parfocal.errors import ConfigError
from parfocal.studies.exploration.scoring import CellJob, Failure, attempt_job

__all__ = ["run_jobs"]


def run_jobs(
    jobs: Sequence[CellJob], *, devices: Sequence[str], workers: int
) -> Iterator[tuple[CellJob, Failure | None]]:
    """Run jobs and hand each out when it is done, with its failure if there is one.

    With one place on one device everything runs in this process. Else every place is a process of its own, and a cell
    goes to the next free place. A cell whose process dies is tried once more, alone, from its last checkpoint.

    Args:
        jobs: what to run, in order.
        devices: where; each takes `workers` cells at a time.
        workers: places on each device.

    Raises:
        ConfigError: no process can be started.
    """
    places = [device for device in devices for _ in range(workers)]
    if len(places) == 1:
        for job in jobs:
            placed = _on(job, places[0])
            yield placed, attempt_job(placed)
        return
    threads = max(1, (os.cpu_count() or 1) // len(places))
    try:
        for job, result in run_crew(jobs, partial(_prepare, threads), places):
            if isinstance(result, Death):
                message = f"its process died twice without a message ({result}). Use fewer workers."
                yield job, Failure(job.cell.name, job.settings.seed, "WorkerDied", message)
            else:
                yield result
    except CannotStartError as error:
        raise ConfigError(f"cannot run cells in processes of their own: {error}. Use --workers 1.") from error


def _prepare(threads: int, device: str) -> Callable[[CellJob, Tell], tuple[CellJob, Failure | None]]:
    """Make a process ready: its share of the cores, and its device."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries that are loaded from here on
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    return lambda job, tell: (_on(job, device), attempt_job(_on(job, device)))


def _on(job: CellJob, device: str) -> CellJob:
    return replace(job, device=device, settings=job.settings.model_copy(update={"device": device}))
