"""`subprocess` for fresh processes of Python that are not about how Python starts: they are there at once."""

import os
import subprocess
from multiprocessing import util
from typing import Any

from .zygote import Zygote

ZYGOTE = Zygote(dict(os.environ))
START_INTERPRETER = util.spawnv_passfds
"""How multiprocessing starts a process where no server does."""


class Popen(subprocess.Popen):
    """A `subprocess.Popen` whose process comes from the server of libraries where that can be."""

    def _execute_child(self, *given: Any) -> None:
        if not ZYGOTE.start(self, *given):
            super()._execute_child(*given)


def run(
    command: list[str], *, capture_output: bool = False, check: bool = False, timeout: float | None = None, **how: Any
) -> subprocess.CompletedProcess:
    """Do what `subprocess.run` does, for a process of Python."""
    if capture_output:
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **how) as process:
        try:
            said, complained = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, said, complained)
    if check:
        done.check_returncode()
    return done
