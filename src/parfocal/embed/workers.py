"""Slides one after the other, or several at a time in processes: one that dies takes only its slide with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from parfocal.embed.settings import EmbedSettings, load_encoders
from parfocal.encoders import TileEncoder
from parfocal.errors import EncoderError
from parfocal.run.failures import FailedSlide
from parfocal.run.processes import CannotStartError, Death, Tell, run_crew, share_cores
from parfocal.slides import SlideSource

Result = TypeVar("Result")

SlideWork = Callable[[Mapping[float, TileEncoder]], Callable[[SlideSource, Tell], Result]]
"""Given the encoders of a process, gives what is done there with each slide; it can be pickled."""


def each_slide(
    sources: Sequence[SlideSource],
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    work: SlideWork[Result],
    on_told: Callable[[SlideSource, Any], None] | None = None,
) -> Iterator[tuple[SlideSource, Result | FailedSlide]]:
    """Do a work on every slide, here or in `settings.workers` processes, and hand out each result as it comes.

    A slide whose process dies is tried once more, alone; where that dies too it is a failure, and the run goes on.

    Args:
        sources: the slides.
        encoders: those of this process; the others load their own.
        settings: the settings of the run.
        work: what to do.
        on_told: given a slide and what its work told; of other processes about twice a second.

    Raises:
        ConfigError: the script that calls this has no main guard, so that processes cannot be started.
        EncoderError: no process can load the encoders.
    """
    if not settings.workers:
        do = work(encoders)
        for source in sources:
            yield source, do(source, partial(on_told or _unheard, source))
        return
    prepare = partial(_prepare, settings, work)
    try:
        for source, result in run_crew(sources, prepare, range(min(settings.workers, len(sources))), on_told):
            yield source, _died(source, result) if isinstance(result, Death) else result
    except CannotStartError as error:
        raise EncoderError(
            f"a worker process cannot load the encoder {settings.encoder}: {error}. "
            "--workers 0 loads it in this process and shows more; fewer workers need less memory."
        ) from error


def _died(source: SlideSource, death: Death) -> FailedSlide:
    message = (
        f"the process that embedded {source.slide} died twice without a message ({death}). The other slides went on. "
        f"Check {source.path} with another program, or try it alone with a smaller --batch."
    )
    return FailedSlide(source.slide, source.path, "WorkerDied", message)


def _unheard(source: SlideSource, value: Any) -> None:
    pass


def _prepare(settings: EmbedSettings, work: SlideWork[Result], place: int) -> Callable[[SlideSource, Tell], Result]:
    with share_cores(settings.workers):
        encoders = load_encoders(settings)
    return work(encoders)
