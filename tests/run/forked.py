"""A function in a process of its own, which has imported nothing of parfocal before."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A process that has ended; `status` is minus the number of the signal that killed it."""

    status: int | None
    stdout: str
    stderr: str


def forked(function: Callable[..., int | None], *given: Any) -> Ended:
    """Run a function of a module elsewhere, with arguments that can be pickled; what it gives back is the status."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(out.name, err.name, function, *given))
        process.start()
        process.join()
        return Ended(process.exitcode, out.read(), err.read())


def _run(out: str, err: str, function: Callable[..., int | None], *given: Any) -> None:
    for stream, name in ((1, out), (2, err)):
        with open(name, "w") as file:
            os.dup2(file.fileno(), stream)
    sys.exit(function(*given))
