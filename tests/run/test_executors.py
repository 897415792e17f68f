"""Wherever tasks run they give the same, and one that hangs or dies costs itself alone."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from parfocal.errors import ConfigError
from parfocal.run.executor import Executor, Processes, Serial
from parfocal.run.executors import RunsSlides, RunsWhere, executor_for, lost_slide, slide_executor
from parfocal.run.processes import Death, Tell, TimedOut
from parfocal.slides import SlideSource


def prepare(folder: str, device: str) -> Callable[[str, Tell], tuple[str, str]]:
    return partial(work, Path(folder), device)


def work(folder: Path, device: str, task: str, tell: Tell) -> tuple[str, str]:
    kind, _, name = task.partition(":")
    tell(kind)
    if kind == "hang":
        time.sleep(600)
    if kind == "spin":  # with the lock of the interpreter held, as a native library may
        ctypes.PyDLL(None).sleep(600)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "once" and not (folder / name).exists():
        (folder / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task, device


def results(executor: Executor, folder: Path, tasks: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for task, result in executor.run(tasks, partial(prepare, str(folder))):
        assert task not in found
        found[task] = result
    return found


def test_a_task_that_hangs_is_ended_and_not_tried_again_and_its_process_replaced(tmp_path: Path) -> None:
    tasks = ["hang:", "ok:1", "spin:", "ok:2"]

    found = results(Processes(("cpu", "cpu"), timeout=1.0), tmp_path, tasks)

    assert set(found) == set(tasks)
    assert found["hang:"] == found["spin:"] == TimedOut(1.0)
    assert [found[task] for task in ("ok:1", "ok:2")] == [("ok:1", "cpu"), ("ok:2", "cpu")]


def test_a_ray_cluster_gives_what_this_process_gives(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    tasks = ["ok:1", "hang:", "spin:", "once:mark", "kill:", "ok:2"]
    executor = executor_for(RunsWhere(executor="ray"), workers=2, timeout=3.0)
    here = results(Serial(), tmp_path, ["ok:1", "ok:2"])

    found = results(executor, tmp_path, tasks)

    assert set(found) == set(tasks)
    assert found["hang:"] == found["spin:"] == TimedOut(3.0)
    assert isinstance(found["kill:"], Death)
    assert {task: found[task] for task in here} == here
    assert found["once:mark"] == ("once:mark", "cpu")


def test_every_device_has_a_process_and_processes_take_devices_in_turn() -> None:
    assert executor_for(RunsWhere(), workers=1, devices=["cuda:0", "cuda:1"]) == Processes(("cuda:0", "cuda:1"))
    assert executor_for(RunsWhere(), workers=3, devices=["a", "b"]) == Processes(("a", "b", "a"))
    assert executor_for(RunsWhere(), workers=0, devices=["a"]) == Serial("a")
    assert executor_for(RunsWhere(executor="serial"), workers=3) == Serial("cpu")
    with pytest.raises(ConfigError, match="--workers 2"):
        executor_for(RunsWhere(), workers=0, devices=["a", "b"])


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"timeout": 5.0}, "Add --workers 1"),
        ({"timeout": 5.0, "executor": "serial", "workers": 2}, "Add --workers 1"),
        ({"timeout": float("inf"), "workers": 1}, "Leave it out"),
        ({"executor": "processes"}, "Add --workers 2"),
        ({"address": "auto", "workers": 2}, "Add --executor ray"),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        RunsSlides(**settings)


def test_workers_alone_mean_processes() -> None:
    assert slide_executor(RunsSlides(workers=2, timeout=9.0)) == Processes(("cpu", "cpu"), 9.0)
    assert slide_executor(RunsSlides()) == Serial("cpu")


def test_a_slide_that_was_too_slow_is_a_failure_that_says_what_to_do() -> None:
    failed = lost_slide(SlideSource("a", Path("scans/a.svs")), TimedOut(60.0), "embedded")

    assert (failed.slide, failed.error) == ("a", "TimedOut")
    assert "not embedded in 60 s" in failed.message
    assert "--timeout" in failed.message
