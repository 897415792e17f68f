"""Several slides at a time, each in a process of its own; a process that dies takes only its slide with it."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
from threadpoolctl import threadpool_limits

from parfocal.embed.settings import EmbedSettings, load_encoders
from parfocal.embed.slide import JobResult, run_job
from parfocal.encoders import TileEncoder
from parfocal.errors import EncoderError
from parfocal.run.failures import FailedSlide
from parfocal.run.processes import CannotStartError, Death, Tell, run_crew
from parfocal.slides import SlideSource

__all__ = ["cannot_load", "load_in_process", "run_in_processes"]


def run_in_processes(
    sources: Sequence[SlideSource],
    settings: EmbedSettings,
    set_path: Path,
    on_tiles: Callable[[SlideSource, int, int], None],
) -> Iterator[JobResult]:
    """Embed slides in `settings.workers` processes, and hand out each result as it comes.

    A slide whose process dies is tried once more, alone; where that dies too it is a failure, and the run goes on.

    Args:
        sources: the slides.
        settings: the settings of the run.
        set_path: the set to write to.
        on_tiles: told a slide's tiles done and planned, about twice a second.

    Raises:
        ConfigError: the script that calls this has no main guard, so that processes cannot be started.
        EncoderError: no process can load the encoders.
    """
    prepare = partial(_prepare, settings, set_path)
    places = range(min(settings.workers, len(sources)))
    try:
        for source, result in run_crew(sources, prepare, places, lambda source, tiles: on_tiles(source, *tiles)):
            yield _died(source, result) if isinstance(result, Death) else result
    except CannotStartError as error:
        raise cannot_load(settings, error) from error


def _died(source: SlideSource, death: Death) -> JobResult:
    message = (
        f"the process that embedded {source.slide} died twice without a message ({death}). The other slides went on. "
        f"Check {source.path} with another program, or try it alone with a smaller --batch."
    )
    return JobResult(FailedSlide(source.slide, source.path, "WorkerDied", message))


def load_in_process(settings: EmbedSettings) -> dict[float, TileEncoder]:
    """Make a worker process ready: its share of the cores, and its encoders."""
    threads = _threads(settings.workers)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by libraries that are loaded from here on
        cv2.setNumThreads(threads)
    encoders = load_encoders(settings)
    if threads is not None:
        threadpool_limits(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return encoders


def cannot_load(settings: EmbedSettings, error: CannotStartError) -> EncoderError:
    """What to raise where no worker process becomes ready."""
    return EncoderError(
        f"a worker process cannot load the encoder {settings.encoder}: {error}. "
        "--workers 0 loads it in this process and shows more; fewer workers need less memory."
    )


def _prepare(settings: EmbedSettings, set_path: Path, place: int) -> Callable[[SlideSource, Tell], JobResult]:
    encoders = load_in_process(settings)
    return lambda source, tell: run_job(source, encoders, settings, set_path, lambda done, total: tell((done, total)))


def _threads(workers: int) -> int | None:
    """How many threads a process may use; None leaves it to the libraries, as where everything is in one process."""
    if workers == 1:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(asked) if asked.isdigit() else cores))
