"""Which executor runs the jobs of a command: its settings, and the one that they ask for.

Whoever needs many tasks done asks `executor_for` and does not care which executor it is.
"""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.run.executor import Executor, Processes, Serial
from parfocal.run.failures import FailedSlide
from parfocal.run.processes import Death, TimedOut
from parfocal.slides import SlideSource

ExecutorName = Literal["serial", "processes", "ray"]


# What does not fit is an error of ours and not one of values, which the command line would show in the words of its
# libraries.
class RunsWhere(Settings):
    """Where jobs run, for commands that say by themselves how many at a time."""

    executor: ExecutorName | None = Field(
        None,
        description="Where jobs run: serial (in this process), processes (of this machine) or ray (a Ray cluster); "
        "processes where workers are asked for.",
    )
    address: str | None = Field(
        None,
        description="With the executor ray: the cluster, such as auto or host:6379. One is started on this "
        "machine where it is left out.",
    )

    @model_validator(mode="after")
    def _address_is_of_ray(self) -> "RunsWhere":
        if self.address is not None and self.executor != "ray":
            raise ConfigError("address is of a Ray cluster. Add --executor ray (executor=ray), or leave it out.")
        return self


class RunsSlides(RunsWhere):
    """Where the jobs of slides run, how many at a time, and how long one may take."""

    workers: int = Field(
        0,
        ge=0,
        description="How many slides at a time, each in a process of its own, which a crash costs one slide; "
        "0 uses this process. With the executor ray: 0 and 1 take as many as the cluster has cores.",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds that a slide may take; with more, its process is ended and the slide fails. "
        "It needs workers.",
    )

    @field_validator("timeout")
    @classmethod
    def _is_some_time(cls, timeout: float | None) -> float | None:
        if timeout is not None and not math.isfinite(timeout):
            raise ConfigError("timeout is a number of seconds. Leave it out where a slide may take for ever.")
        return timeout

    @model_validator(mode="after")
    def _can_end_a_job(self) -> "RunsSlides":
        if self.executor == "processes" and not self.workers:
            raise ConfigError("executor=processes needs workers. Add --workers 2 (workers=2), or use serial.")
        if self.timeout is not None and self.is_serial:
            raise ConfigError(
                f"timeout={self.timeout:g} needs processes that can be ended, and this runs in one. Add --workers 1 "
                "(workers=1) or more, or leave it out."
            )
        return self

    @property
    def is_serial(self) -> bool:
        """Whether everything runs in this process."""
        return self.executor == "serial" or (self.executor is None and not self.workers)


def executor_for(
    where: RunsWhere, *, workers: int, devices: Sequence[str] = ("cpu",), timeout: float | None = None
) -> Executor:
    """The executor that is asked for.

    Args:
        where: which; where it does not say, processes when there are workers, and this process else.
        workers: how many tasks at a time.
        devices: where networks run. Processes take them in turn, and each has one at least.
        timeout: seconds that a task may take.

    Raises:
        ConfigError: it is not installed.
    """
    if where.executor == "ray":
        from parfocal.run.on_ray import OnRay

        return OnRay(where.address, workers if workers > 1 else None, tuple(devices), timeout)
    if where.executor == "serial" or (where.executor is None and not workers):
        if len(devices) > 1:
            raise ConfigError(f"{len(devices)} devices need a process each. Use --workers {len(devices)}, or name one.")
        return Serial(devices[0])
    count = max(1, workers, len(devices))
    return Processes(tuple(devices[place % len(devices)] for place in range(count)), timeout)


def slide_executor(runs: RunsSlides, devices: Sequence[str] = ("cpu",)) -> Executor:
    """The executor that these settings ask for.

    Raises:
        ConfigError: it is not installed, or several devices are named and there is one process.
    """
    return executor_for(runs, workers=runs.workers, devices=devices, timeout=runs.timeout)


def lost_slide(source: SlideSource, lost: Death | TimedOut, verb: str, advice: str = "") -> FailedSlide:
    """The failure of a slide whose process died or was ended.

    Args:
        source: the slide.
        lost: what became of the process.
        verb: what it did with the slide, such as `embedded`.
        advice: what else may help where a process died; ends with a full stop.
    """
    if isinstance(lost, TimedOut):
        message = (
            f"{source.slide} was not {verb} in {lost.seconds:g} s, and its process was ended. The other slides went "
            f"on. Give it longer (--timeout), or check {source.path} with another program."
        )
        return FailedSlide(source.slide, source.path, "TimedOut", message)
    message = (
        f"the process that {verb} {source.slide} died twice without a message ({lost}). The other slides went on. "
        f"Check {source.path} with another program{advice or '.'}"
    )
    return FailedSlide(source.slide, source.path, "WorkerDied", message)
