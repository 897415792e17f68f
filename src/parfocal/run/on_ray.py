"""Tasks on a Ray cluster: a worker or a node that is lost costs only the tasks under way there.

Ray moves the small things alone: a task, and what comes of it in a few words. Slides are read and stores written by
whoever runs the task, so their folders are known by the same paths on all nodes.
"""

import logging
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from parfocal.errors import ConfigError
from parfocal.run.executor import Executor, OnTold, Prepare, Served
from parfocal.run.on_node import Board, Device, Prepared, serve
from parfocal.run.processes import CannotStartError, Death, TimedOut

Task = TypeVar("Task")
Result = TypeVar("Result")

# How often the driver looks at what was told, and at how long tasks have taken.
_LOOK_SECONDS = 0.5
# How long the driver waits for what was told, which results do not wait for.
_BOARD_SECONDS = 10.0
# More tasks than cores wait at the nodes, so that none of these waits for the driver.
_AHEAD = 2
# Tasks in turn that could not even begin, until it is believed that none can.
_MOST_STARTS = 3
# A task may lose this many nodes under it, which is no fault of its own.
_MOST_NODES = 5


@dataclass(frozen=True)
class OnRay(Executor):
    """Tasks of one core each on a Ray cluster.

    A task whose process dies is tried once more, when all others are done; one whose node dies is tried again.

    Attributes:
        address: of the cluster; one is started on this machine where None, and ended after the run.
        at_once: how many tasks at a time; as many as the cluster has cores where None.
        devices: where networks run; on GPUs an actor holds the networks of each, and tasks read for it.
        timeout: seconds that a task may take; for ever where None.
    """

    address: str | None = None
    at_once: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    timeout: float | None = None

    def check(self) -> None:
        """Return if Ray is installed.

        Raises:
            ConfigError: it is not, or several devices are named.
        """
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                'the executor ray needs Ray, which is not installed. pip install "parfocal[ray]", or leave the '
                "executor out."
            ) from error
        if len(self.devices) > 1:
            raise ConfigError(
                f"{len(self.devices)} devices are named, and Ray itself gives tasks the GPUs of its nodes. Name one "
                "device: cpu or cuda."
            )

    def run(
        self, tasks: Sequence[Task], prepare: Prepare[Task, Result], on_told: OnTold[Task] | None = None
    ) -> Generator[tuple[Task, Result | Death | TimedOut]]:
        """See `Executor.run`."""
        self.check()
        if not tasks:
            return
        is_ours = self._connect()
        try:
            yield from _Run(self, tasks, prepare, on_told).results()
        finally:
            if is_ours:
                import ray

                ray.shutdown()

    def _connect(self) -> bool:
        """Join the cluster, or start one on this machine; whether that was done here.

        Raises:
            ConfigError: there is no such cluster.
        """
        import ray

        if ray.is_initialized():
            return False
        # Nothing of a run is told to anybody outside, which Ray does otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            ray.init(num_cpus=self.at_once, include_dashboard=False, **quiet)
            return True
        try:
            ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"there is no Ray cluster at {self.address}: {' '.join(str(error).split())} Start one with "
                "`ray start --head`, or leave --address out."
            ) from error
        return True


@dataclass
class _Job(Generic[Task]):
    """A task on its way.

    Attributes:
        number: its place among the tasks.
        task: what is to be done.
        deaths: how many of its processes have died.
        nodes: how many nodes have died under it.
        began: when it began, by the driver's clock; None where that has not been told yet.
        is_overdue: whether it was ended because it took too long.
        holder: what holds the device that it reads for.
    """

    number: int
    task: Task
    deaths: int = 0
    nodes: int = 0
    began: float | None = None
    is_overdue: bool = False
    holder: "_Holder | None" = None


@dataclass
class _Holder:
    """An actor with the networks of a device, and the cores of its node that read for it.

    Attributes:
        node: where.
        actor: the actor.
        cores: how many tasks may read for it at a time.
        n_jobs: how many do, or wait to.
    """

    node: str
    actor: Any
    cores: int
    n_jobs: int = 0


class _Run(Generic[Task, Result]):
    """The tasks of a run that are waiting, and those that are on the cluster."""

    def __init__(
        self, how: OnRay, tasks: Sequence[Task], prepare: Prepare[Task, Result], on_told: OnTold[Task] | None
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray, self.how, self.on_told = ray, how, on_told
        self.waiting = deque(_Job(number, task) for number, task in enumerate(tasks))
        self.again: deque[_Job[Task]] = deque()
        self.running: dict[Any, _Job[Task]] = {}
        self.useless = 0
        device = how.devices[0]
        self.devices: dict[str, _Holder] = {}
        self.is_served = device != "cpu" and isinstance(prepare, Served)
        gpus = 0 if device == "cpu" or self.is_served else 1
        # Retries are counted here: Ray would not tell a death that the task itself may have caused from another one.
        self.remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(serve)
        pickled = ray.cloudpickle.dumps(prepare)
        # By a name of its own for each run, so that a process which serves several runs prepares for each.
        self.content = Prepared(f"{os.getpid()}-{time.monotonic_ns()}", tuple(sys.path), pickled, device)
        self.prepared = ray.put(self.content)
        self.on_node = NodeAffinitySchedulingStrategy
        here = self.on_node(ray.get_runtime_context().get_node_id(), soft=False)
        # Beside the driver, so that no other node takes it along.
        self.board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()

    def results(self) -> Iterator[tuple[Task, Result | Death | TimedOut]]:
        try:
            while self.waiting or self.again or self.running:
                self._submit()
                ready, _ = self.ray.wait([*self.running], timeout=_LOOK_SECONDS)
                self._look_at_board()
                for reference in ready:
                    yield from self._outcome(reference, self.running.pop(reference))
                self._end_overdue()
        finally:
            for reference in self.running:
                with suppress(Exception):  # whatever Ray says: it is left
                    self.ray.cancel(reference, force=True)
            for actor in (self.board, *(one.actor for one in self.devices.values())):
                self.ray.kill(actor)

    def _submit(self) -> None:
        if not self.waiting and self.again and not self.running:
            self.waiting, self.again = self.again, deque()
        cores = self.ray.cluster_resources().get("CPU", 1.0)
        most = self.how.at_once or int(_AHEAD * cores)
        if self.is_served and self.waiting:
            self._hold_devices()
        while self.waiting and len(self.running) < most:
            holder, remote = None, self.remote
            if self.is_served:
                holder = min(self.devices.values(), key=lambda one: one.n_jobs / one.cores)
                if holder.n_jobs >= _AHEAD * holder.cores:
                    break
                holder.n_jobs += 1
                remote = remote.options(scheduling_strategy=self.on_node(holder.node, soft=False))
            job = self.waiting.popleft()
            job.began, job.holder = None, holder
            actor = None if holder is None else holder.actor
            self.running[remote.remote(self.prepared, job.number, job.task, self.board, actor)] = job

    def _hold_devices(self) -> None:
        """An actor on each GPU of each node holds the networks; those of nodes that are gone are forgotten.

        Raises:
            CannotStartError: there is no GPU.
        """
        nodes = {one["NodeID"]: one["Resources"] for one in self.ray.nodes() if one["Alive"]}
        self.devices = {name: one for name, one in self.devices.items() if one.node in nodes}
        for node, has in nodes.items():
            gpus = int(has.get("GPU", 0))
            for number in range(gpus):
                name = f"{node}-{number}"
                if name not in self.devices:
                    where = self.on_node(node, soft=False)
                    # Started anew where its process dies, which costs the slides that were read for it then.
                    options = {"num_cpus": 0, "num_gpus": 1, "max_restarts": -1, "scheduling_strategy": where}
                    actor = self.ray.remote(**options)(Device).remote(self.content)
                    self.devices[name] = _Holder(node, actor, max(1, int(has.get("CPU", 1)) // gpus))
        if not self.devices:
            raise CannotStartError(f"no node of the cluster has a GPU for --device {self.how.devices[0]}")

    def _outcome(self, reference: Any, job: _Job[Task]) -> Iterator[tuple[Task, Result | Death | TimedOut]]:
        errors = self.ray.exceptions
        if job.holder is not None:
            job.holder.n_jobs -= 1
        try:
            kind, value = self.ray.get(reference)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.TaskCancelledError) as error:
            if job.is_overdue:
                self.useless = 0
                yield job.task, TimedOut(self.how.timeout or 0.0)
                return
            job.deaths += 1
            if job.deaths > 1:
                yield job.task, Death(-signal.SIGKILL if isinstance(error, errors.OutOfMemoryError) else None)
            else:
                self.again.append(job)
        except (errors.NodeDiedError, errors.ObjectLostError, errors.TaskUnschedulableError) as error:
            self._lost_under(job, str(error))
        except errors.RayError as error:  # the task has not even begun, as where a node has not our package
            self._could_not_begin(job, str(error).strip().splitlines()[-1])
        else:
            if kind == "done":
                self.useless = 0
                yield job.task, pickle.loads(value)
            elif kind == "lost":
                self._lost_under(job, value)
            else:
                self._could_not_begin(job, value)

    def _lost_under(self, job: _Job[Task], reason: str) -> None:
        """What is gone was no fault of the task's, which goes elsewhere."""
        job.nodes += 1
        if job.nodes > _MOST_NODES:
            raise CannotStartError(f"{job.nodes} nodes or devices were lost under one task ({reason})")
        self.waiting.append(job)

    def _could_not_begin(self, job: _Job[Task], reason: str) -> None:
        self.useless += 1
        if self.useless >= _MOST_STARTS:
            raise CannotStartError(reason)
        self.waiting.append(job)

    def _look_at_board(self) -> None:
        errors = self.ray.exceptions
        try:
            begun, told = self.ray.get(self.board.read.remote(), timeout=_BOARD_SECONDS)
        except (errors.RayActorError, errors.GetTimeoutError):
            return  # a machine under load does not answer for a while; what was told is read the next time
        by_number = {job.number: job for job in self.running.values()}
        for number in begun:
            if number in by_number:
                by_number[number].began = time.monotonic()
        for number, value in told.items():
            if number in by_number and self.on_told is not None:
                self.on_told(by_number[number].task, value)

    def _end_overdue(self) -> None:
        for reference, job in self.running.items() if self.how.timeout is not None else ():
            if job.began is not None and time.monotonic() - job.began > (self.how.timeout or 0.0):
                job.is_overdue, job.began = True, None
                self.ray.cancel(reference, force=True)
