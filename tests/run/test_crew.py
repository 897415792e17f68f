"""A process that dies at any point costs its task and nothing else, and nothing waits for ever."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.run.processes import CannotStartError, Death, run_crew

from . import fresh

TASKS = """
import ctypes
import os
import signal
import threading
import time
from pathlib import Path


def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    elif how == "abort":
        os.abort()
    elif how == "null":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(5)
    elif how == "sys":
        raise SystemExit(6)


def prepare(folder, place):
    (Path(folder) / f"started-{os.getpid()}").touch()
    how = Path(folder) / "die-at-start"
    if how.exists():
        die(how.read_text())
    once = Path(folder) / "die-once-at-start"
    if once.exists():
        try:
            once.unlink()
        except FileNotFoundError:
            pass
        else:
            die("kill")
    if (Path(folder) / "refuse").exists():
        raise ValueError("no such network")
    return lambda task, tell: work(Path(folder), task, tell)


def work(folder, task, tell):
    kind, _, name = task.partition(":")
    if kind == "once" and not (folder / name).exists():
        (folder / name).touch()
        die("kill")
    if kind == "wait":
        (folder / f"begun-{os.getpid()}").touch()
        while not (folder / "go").exists():
            tell(("at work", name))
            time.sleep(0.01)
    if kind == "deaf":
        tell(("at work", name))
        time.sleep(600)
    if kind == "idle":  # dies when it has nothing to do
        threading.Timer(0.2, die, ["kill"]).start()
    die(kind)
    return task, os.getpid()
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "crew_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("crew_tasks", None)
    import crew_tasks

    return crew_tasks


def run(tasks: ModuleType, folder: Path, given_tasks: list[str], places: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for task, result in run_crew(given_tasks, partial(tasks.prepare, str(folder)), range(places)):
        assert task not in found
        found[task] = result
    return found


def wait_for(pattern: str, folder: Path, count: int = 1) -> list[Path]:
    deadline = time.monotonic() + 300
    while len(found := list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"there is no {pattern}"
        time.sleep(0.01)
    return found


# How a process died does not depend on how many there are: each kind is tried with one number of them.
@pytest.mark.parametrize(
    ("places", "deadly"),
    [
        (1, {"kill:": "SIGKILL", "exit:": "status 5"}),
        (2, {"abort:": "SIGABRT", "null:": "SIGSEGV", "sys:": "status 6", "term:": "status 143"}),
    ],
)
def test_every_kind_of_death_costs_its_own_task(
    tasks: ModuleType, tmp_path: Path, places: int, deadly: dict[str, str]
) -> None:
    first, *others = deadly
    given_tasks = ["ok:1", first, "once:mark", "ok:2", *others, "ok:3"]

    found = run(tasks, tmp_path, given_tasks, places)

    assert set(found) == set(given_tasks)
    for task, said in deadly.items():
        assert isinstance(found[task], Death)
        assert said in str(found[task])
    # What is killed once only, as by a shortage of memory, is done the second time.
    assert all(isinstance(found[task], tuple) for task in ("ok:1", "ok:2", "ok:3", "once:mark"))


def test_a_process_that_dies_while_it_has_nothing_to_do_is_replaced(tasks: ModuleType, tmp_path: Path) -> None:
    found = {}
    for task, result in run_crew(["idle:", "ok:1", "ok:2"], partial(tasks.prepare, str(tmp_path)), range(1)):
        found[task] = result
        if task == "idle:":  # the run is busy elsewhere meanwhile
            pid = result[1]
            while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
                time.sleep(0.01)

    assert set(found) == {"idle:", "ok:1", "ok:2"}
    assert all(isinstance(result, tuple) for result in found.values())


@pytest.mark.parametrize(("places", "how"), [(1, "kill"), (2, "exit")])
def test_processes_that_always_die_at_the_start_are_told_once(
    tasks: ModuleType, tmp_path: Path, places: int, how: str
) -> None:
    (tmp_path / "die-at-start").write_text(how)

    with pytest.raises(CannotStartError, match="before they have done anything"):
        run(tasks, tmp_path, ["ok:1", "ok:2"], places)
    assert len(list(tmp_path.glob("started-*"))) <= 4


def test_a_death_at_the_start_costs_nothing(tasks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "die-once-at-start").touch()

    assert all(isinstance(result, tuple) for result in run(tasks, tmp_path, ["ok:1", "ok:2"], 1).values())


def test_what_cannot_be_prepared_is_said_as_it_is(tasks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()

    with pytest.raises(CannotStartError, match="ValueError: no such network"):
        run(tasks, tmp_path, ["ok:1", "ok:2"], 2)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["wait", "deaf"])
def test_leaving_early_ends_every_process(
    tasks: ModuleType, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parfocal.run.processes._GRACE_SECONDS", 2.0)

    def leave(task: str, value: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_crew(["ok:1", f"{kind}:2", f"{kind}:3"], partial(tasks.prepare, str(tmp_path)), range(2), leave))

    started = [int(path.name.partition("-")[2]) for path in tmp_path.glob("started-*")]
    assert started
    assert not any(is_alive(pid) for pid in started)


def test_what_a_task_tells_arrives_with_its_task(tasks: ModuleType, tmp_path: Path) -> None:
    told = []

    def on_told(task: str, value: object) -> None:
        told.append((task, value))
        (tmp_path / "go").touch()

    found = dict(run_crew(["wait:a", "wait:b"], partial(tasks.prepare, str(tmp_path)), range(2), on_told))

    assert set(found) == {"wait:a", "wait:b"}
    assert set(told) <= {("wait:a", ("at work", "a")), ("wait:b", ("at work", "b"))}
    assert told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=3)
@given(st.lists(st.sampled_from(["ok", "kill", "null", "once", "idle"]), min_size=1, max_size=5), st.integers(1, 3))
def test_every_task_has_one_result_whatever_the_others_do(
    tasks: ModuleType, tmp_path: Path, kinds: list[str], places: int
) -> None:
    for mark in tmp_path.glob("mark-*"):
        mark.unlink()
    given_tasks = [f"{kind}:mark-{number}" for number, kind in enumerate(kinds)]

    found = run(tasks, tmp_path, given_tasks, places)

    assert set(found) == set(given_tasks)
    assert {task for task in given_tasks if isinstance(found[task], Death)} == {
        task for task in given_tasks if task.startswith(("kill", "null"))
    }


SCRIPT = textwrap.dedent(
    """
    import sys
    from functools import partial
    sys.path.insert(0, {folder!r})
    import crew_tasks
    from parfocal.run.processes import run_crew

    print("begins")
    for task, result in run_crew([{tasks}], partial(crew_tasks.prepare, {folder!r}), range(2)):
        print(task)
    """
)
GUARD = 'print("begins")'


def script(folder: Path, given_tasks: str, *, guarded: bool) -> Path:
    text = SCRIPT.format(folder=str(folder), tasks=given_tasks)
    if guarded:
        head, tail = text.split(GUARD)
        text = f'{head}if __name__ == "__main__":\n' + textwrap.indent(GUARD + tail, "    ")
    path = folder / "script.py"
    path.write_text(text)
    return path


def test_a_script_without_a_main_guard_is_told_so(tasks: ModuleType, tmp_path: Path) -> None:
    path = script(tmp_path, "'ok:1', 'ok:2'", guarded=False)

    done = fresh.run([sys.executable, str(path)], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.strip().splitlines()[-1].startswith("parfocal.errors.ConfigError: worker processes cannot be")
    assert '`if __name__ == "__main__":`' in done.stderr


def test_a_script_that_is_no_file_is_told_so(tasks: ModuleType, tmp_path: Path) -> None:
    text = script(tmp_path, "'ok:1'", guarded=True).read_text()

    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True)

    assert "workers=0" in done.stderr or sorted(done.stdout.split()) == ["begins", "ok:1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_run_that_started_them_and_say_nothing(
    tasks: ModuleType, tmp_path: Path, number: signal.Signals
) -> None:
    path = script(tmp_path, "'wait:1', 'wait:2', 'wait:3'", guarded=True)
    # Of the three, one begins as a user's does, and its processes with it.
    process = (subprocess.Popen if number == signal.SIGINT else fresh.Popen)(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    begun = [int(one.name.partition("-")[2]) for one in wait_for("begun-*", tmp_path, 2)]
    # As a terminal does, to all of them at once.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate()

    assert process.returncode != 0
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0), said
    deadline = time.monotonic() + 120
    while any(map(is_alive, begun)):
        assert time.monotonic() < deadline, "the processes live on"
        time.sleep(0.01)
