"""A command that is killed after so many of its steps are kept: at a state, and not at a time."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .forked import forked


def kill_after(steps: int, folder: Path, command: list[str], *, kept: str = "[!.]*.npz") -> dict[str, bytes]:
    """Run a command until `folder` holds so many files like `kept`, and kill it there; what comes back is those files.

    Args:
        steps: how many files.
        folder: where they are.
        command: of parfocal, with its arguments.
        kept: the pattern of a finished step's file.
    """
    ended = forked(_run, steps, folder, command, kept)
    assert ended.status == -signal.SIGKILL, ended.stderr
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(kept)}


def _run(steps: int, folder: Path, command: list[str], kept: str) -> int:
    from parfocal.cli import main

    # Every file that is written whole or not at all gets its name by this.
    os.replace = partial(_replace, os.replace, steps, folder, kept)
    return main(command)


def _replace(plain: Callable[..., None], steps: int, folder: Path, kept: str, *given: Path) -> None:
    plain(*given)
    if len(list(folder.glob(kept))) >= steps:
        os.kill(os.getpid(), signal.SIGKILL)
