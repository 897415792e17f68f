"""What the tests take for a fresh process is one, though a server forks it that has imported the libraries."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path
from typing import Any

import pytest

from . import fresh
from .fresh import ZYGOTE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server needs Linux")

FACTS = """
import gc, json, multiprocessing.process, os, resource, signal, sys, threading, warnings

facts = {
    "variables": dict(os.environ),
    "folder": [os.getcwd(), multiprocessing.process.ORIGINAL_DIR],
    "umask": os.umask(0),
    "parent": os.getppid(),
    "group": os.getpgrp() == os.getpid() or os.getpgrp(),
    "session": os.getsid(0) == os.getpid() or os.getsid(0),
    "handlers": [str(signal.getsignal(one)).split(" at ")[0] for one in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "limits": [resource.getrlimit(one) for one in range(16)],
    "cores": sorted(os.sched_getaffinity(0)),
    "words": sys.argv,
    "command": sys.orig_argv,
    "path": sys.path,
    "main": [__name__, globals().get("__file__"), sys.modules["__main__"].__dict__ is globals()],
    "ours": sorted(name for name in sys.modules if name.split(".")[0] in {"parfocal", "tests", "zygote"}),
    "flags": [sys.dont_write_bytecode, gc.isenabled(), os.fsync.__module__, threading.active_count()],
    "warnings": [str(one[0]) for one in warnings.filters if one[1] is None and one[4] == 0 and one[2] is Warning],
    "streams": [os.readlink(f"/proc/self/fd/{one}").split(":")[0] for one in range(3)],
}
"""
PRINTED = f"{FACTS}\nprint(json.dumps(facts))\nraise SystemExit(7)"


@pytest.fixture
def odd_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process with a folder, variables, rights and signals that others do not have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_VARIABLE", "of this test")
    umask = os.umask(0o027)
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGINT})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    signal.signal(signal.SIGUSR1, handler)
    os.umask(umask)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the server is asked for from here on: the number of each process, and None where it refuses."""
    numbers: list[int | None] = []
    fork = ZYGOTE.fork

    def counted(*given: Any, **named: Any) -> int | None:
        numbers.append(fork(*given, **named))
        return numbers[-1]

    monkeypatch.setattr(ZYGOTE, "fork", counted)
    return numbers


@pytest.mark.parametrize("kind", ["code", "module", "file", "options"])
@pytest.mark.parametrize("how", [{}, {"start_new_session": True}])
def test_a_process_of_the_server_is_what_an_interpreter_is(
    odd_caller: None, forks: list[int | None], tmp_path: Path, kind: str, how: dict[str, Any]
) -> None:
    (tmp_path / "facts_of_it.py").write_text(PRINTED)
    words = {
        "code": ["-c", PRINTED, "a", "b"],
        "module": ["-m", "facts_of_it", "a"],
        "file": ["facts_of_it.py"],
        "options": ["-B", "-W", "error", "-c", PRINTED],
    }[kind]
    how = {
        **how,
        "env": {**os.environ, "ANOTHER": "one", "PYTHONPATH": f"{tmp_path}:../:{os.environ.get('PYTHONPATH', '')}"},
        "stdin": subprocess.DEVNULL,
        "text": True,
    }

    theirs = subprocess.run([sys.executable, *words], capture_output=True, **how)
    ours = fresh.run([sys.executable, *words], capture_output=True, **how)

    assert forks[-1] is not None
    assert (ours.returncode, ours.stderr) == (7, "")
    expected, found = json.loads(theirs.stdout), json.loads(ours.stdout)
    assert found == expected
    assert found["variables"]["ANOTHER"] == "one"
    assert found["parent"] == os.getpid()
    assert found["ours"] == []


def _write_facts(file: str, passed: Any) -> None:
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(FACTS, found)
    facts = found["facts"] | {
        "descriptors": sorted(int(one) for one in os.listdir("/proc/self/fd"))[:-1],
        "passed": passed.recv(),
    }
    Path(file).write_text(json.dumps(facts))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_spawned_process_is_what_an_interpreter_spawns(
    odd_caller: None, forks: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawned(name: str) -> dict[str, Any]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_write_facts, args=(name, theirs))
        with theirs:
            process.start()
        ours.send("heard")
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return json.loads(Path(name).read_text())

    found = spawned("ours")
    assert forks[-1] is not None
    monkeypatch.setattr(util, "spawnv_passfds", fresh.START_INTERPRETER)
    expected = spawned("theirs")

    assert len(forks) == 1
    for facts in (found, expected):
        del facts["command"]  # with the numbers of its pipes
        for name in ("LINES", "COLUMNS"):  # libraries write these past Python
            facts["variables"].pop(name, None)
    assert found == expected
    assert found["passed"] == "heard"


def test_another_value_of_what_is_read_once_starts_an_interpreter(forks: list[int | None], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").touch()
    code = "import sys; print('numpy' in sys.modules)"
    said = [
        fresh.run([sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True).stdout
        for more in ({}, {"OMP_NUM_THREADS": "3"}, {"PYTHONPATH": str(tmp_path)})
    ]

    assert said == ["True\n", "False\n", "False\n"]
    assert [number is None for number in forks] == [False, True, True]


PARENT = """
import multiprocessing, os, time

def wait():
    print(os.getpid(), os.getppid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=wait, daemon=True).start()
    time.sleep(600)
"""


def _children(number: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def test_what_it_spawns_in_turn_is_its_child_and_servers_end_with_those_that_they_serve(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    with fresh.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker, its_parent = map(int, parent.stdout.readline().split())
        children = _children(parent.pid)
        os.kill(worker, signal.SIGKILL)
        parent.kill()

    assert parent.returncode == -signal.SIGKILL
    assert its_parent == parent.pid
    assert worker in children
    assert ZYGOTE.program is not None
    assert set(_children(os.getpid())) >= {ZYGOTE.program.pid}
    deadline = time.monotonic() + 60
    while any(map(_is_alive, children)):
        assert time.monotonic() < deadline, "a process lives on"
        time.sleep(0.01)


def _is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
