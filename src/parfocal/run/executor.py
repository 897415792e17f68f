"""What runs tasks, whatever it is: this process, or processes of this machine; Ray has a file of its own.

An executor takes tasks and hands out their results as they come. What a task makes it writes to files; the result that
comes back is small.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from parfocal.run.processes import Death, Tell, TimedOut, check_workers, run_crew, share_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

Work = Callable[[Task, Tell], Result]
"""Does one task; what it tells reaches whoever waits for the results."""

Prepare = Callable[[str], Work[Task, Result]]
"""Given a device, makes ready whatever tasks share there, such as a network; it can be pickled."""

OnTold = Callable[[Task, Any], None]


class Served(ABC):
    """A `Prepare` whose costly part, such as networks, may stand in a process of its own that holds the device.

    Where it does, jobs beside it on the same machine send it what they have read, and it answers. Elsewhere a process
    loads it for itself.
    """

    def __call__(self, device: str) -> Work[Any, Any]:
        """Make a process ready that has a device for itself."""
        return self.work(self.load(device))

    @abstractmethod
    def load(self, device: str) -> Any:
        """The costly part, on a device."""

    @abstractmethod
    def work(self, loaded: Any) -> Work[Any, Any]:
        """What is done with each task, with the costly part or with what stands in for it."""

    @abstractmethod
    def facts(self, loaded: Any) -> Any:
        """What the stand-in has to know; small, and can be pickled."""

    @abstractmethod
    def answer(self, loaded: Any, *asked: Any) -> Any:
        """What the costly part says; called where the device is."""

    @abstractmethod
    def stand_in(self, facts: Any, ask: Callable[..., Any]) -> Any:
        """What takes its place in a job: it gives what is asked to `ask`, which comes back with the answer."""


class Executor(ABC):
    """A way to run tasks. What is lost with a process comes back as what became of it, and the other tasks go on."""

    @abstractmethod
    def run(
        self, tasks: Sequence[Task], prepare: Prepare[Task, Result], on_told: OnTold[Task] | None = None
    ) -> Generator[tuple[Task, Result | Death | TimedOut]]:
        """Do every task, and hand out each result as it comes.

        Args:
            tasks: what to do; these and their results can be pickled.
            prepare: called with a device before the first task there, once for each process.
            on_told: given a task and what it told, where another process told it about twice a second.

        Raises:
            ConfigError: the executor cannot be started from here.
            CannotStartError: nothing can be made ready anywhere.
        """

    @abstractmethod
    def check(self) -> None:
        """Return if this can be started from here, before anything long is done.

        Raises:
            ConfigError: it cannot.
        """


@dataclass(frozen=True)
class Serial(Executor):
    """Everything in this process, one task after the other.

    Attributes:
        device: where networks run.
    """

    device: str = "cpu"

    def check(self) -> None:
        """Return always."""

    def run(
        self, tasks: Sequence[Task], prepare: Prepare[Task, Result], on_told: OnTold[Task] | None = None
    ) -> Generator[tuple[Task, Result | Death | TimedOut]]:
        """See `Executor.run`; what a task or `prepare` raises is raised."""
        if not tasks:
            return
        work = prepare(self.device)
        for task in tasks:
            yield task, work(task, partial(on_told or _unheard, task))


@dataclass(frozen=True)
class Processes(Executor):
    """A process of this machine for each place; one that dies or hangs takes only its task with it.

    Attributes:
        devices: where the networks of each process run.
        timeout: seconds that a task may take; for ever where None.
    """

    devices: tuple[str, ...] = ("cpu",)
    timeout: float | None = None

    def check(self) -> None:
        """See `check_workers`."""
        check_workers()

    def run(
        self, tasks: Sequence[Task], prepare: Prepare[Task, Result], on_told: OnTold[Task] | None = None
    ) -> Generator[tuple[Task, Result | Death | TimedOut]]:
        """See `run_crew`."""
        places = self.devices[: len(tasks)]
        yield from run_crew(
            tasks, partial(prepare_sharing, prepare, len(places)), places, on_told, timeout=self.timeout
        )


def prepare_sharing(prepare: Prepare[Task, Result], n_places: int, device: str) -> Work[Task, Result]:
    """Make a process ready that has the machine together with others."""
    with share_cores(n_places):
        return prepare(device)


def _unheard(task: Any, value: Any) -> None:
    pass
