"""The boundary of a job: whatever goes wrong in it becomes its recorded failure, and the others go on.

A library may raise anything on a damaged file, and a solver or a device on odd numbers. So this is the one place where
every exception is caught; all who go on after a failure do it by these functions. Ctrl-C passes through.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from parfocal.errors import ParfocalWarning
from parfocal.run.failures import Failed, FailedSlide, failure
from parfocal.slides import SlideSource

__all__ = ["attempt", "attempt_slide", "own_warnings"]

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
    try:
        return job()
    except Exception as error:
        return failure(source, error, writes_to)


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
