"""What runs on the nodes of a Ray cluster: jobs, the devices that they read for, and where they tell of themselves."""

import os
import pickle
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from parfocal.run.executor import Prepare, Served, Work, prepare_sharing

Task = TypeVar("Task")

# How often a task may tell.
_TELL_SECONDS = 0.5


class DeviceLostError(BaseException):
    """The actor is gone that holds the device; no failure of the task that reads for it."""


class Board:
    """Where tasks write what they tell, until the driver has read it; an actor."""

    def __init__(self) -> None:
        self._begun: list[int] = []
        self._told: dict[int, Any] = {}

    def begin(self, number: int) -> None:
        """A task has begun."""
        self._begun.append(number)

    def tell(self, number: int, value: Any) -> None:
        """A task tells something; the latest counts."""
        self._told[number] = value

    def read(self) -> tuple[list[int], dict[int, Any]]:
        """The tasks that have begun, and what tasks have told, since the last time."""
        found = self._begun, self._told
        self._begun, self._told = [], {}
        return found


@dataclass(frozen=True)
class Prepared:
    """What a process needs before its first task.

    Attributes:
        run: a name of the run.
        path: where the driver finds modules.
        prepare: a pickled `Prepare`.
        device: where networks run.
    """

    run: str
    path: tuple[str, ...]
    prepare: bytes
    device: str

    def opened(self) -> Prepare[Any, Any]:
        """What makes a process ready, with the folders in which it finds its modules."""
        sys.path += [folder for folder in self.path if folder not in sys.path]
        prepare: Prepare[Any, Any] = pickle.loads(self.prepare)
        return prepare

    def make_ready(self, actor: Any) -> Work[Any, Any]:
        """What does tasks, with a device of its own or beside the actor of one."""
        prepare = self.opened()
        if actor is not None and isinstance(prepare, Served):
            prepare = partial(_beside, prepare, actor)
        # As many share a node as it has cores.
        return prepare_sharing(prepare, os.cpu_count() or 1, self.device)


class Device:
    """Holds the networks of a device; an actor. What it is given and gives stays in the memory of its node."""

    def __init__(self, prepared: Prepared) -> None:
        served = prepared.opened()
        assert isinstance(served, Served)  # or nobody asks for an actor
        self._served = served
        self._loaded = self._served.load(prepared.device)

    def facts(self) -> Any:
        """What a stand-in has to know."""
        return self._served.facts(self._loaded)

    def answer(self, *asked: Any) -> Any:
        """What the networks say."""
        return self._served.answer(self._loaded, *asked)


def _beside(served: Served, actor: Any, device: str) -> Work[Any, Any]:
    """What a process does that reads for the actor of a device."""
    import ray

    def asking(reference: Any) -> Any:
        try:
            return ray.get(reference)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise DeviceLostError(str(error)) from error
        except ray.exceptions.RayTaskError as error:  # what the network said of these tiles
            raise error.cause from None

    def ask(*asked: Any) -> Any:
        return asking(actor.answer.remote(*asked))

    return served.work(served.stand_in(asking(actor.facts.remote()), ask))


_WORK: dict[str, Work[Any, Any]] = {}
"""What this process has been made ready for; the latest only."""


def serve(prepared: Prepared, number: int, task: Task, board: Any, actor: Any) -> tuple[str, Any]:
    """What a process of the cluster does for one task."""
    name = prepared.run if actor is None else f"{prepared.run} {actor._actor_id.hex()}"
    if name not in _WORK:
        _WORK.clear()
        try:
            _WORK[name] = prepared.make_ready(actor)
        except DeviceLostError as error:
            return "lost", str(error)
        except Exception as error:  # whatever it is, the driver tells it
            return "cannot", f"{type(error).__name__}: {error}"
    board.begin.remote(number)
    last = 0.0

    def tell(value: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_SECONDS:
            last = time.monotonic()
            board.tell.remote(number, value)

    try:
        # As bytes: Ray would hand out arrays that nobody may write to, which torch warns of.
        return "done", pickle.dumps(_WORK[name](task, tell))
    except DeviceLostError as error:
        return "lost", str(error)
