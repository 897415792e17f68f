"""A command that is killed after so many of its steps are kept: at a state, and not at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# Changed before anything else is imported, so that every file which is written whole or not at all is written by it.
_SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path

from parfocal import files

plain, folder, kept, most = files.writing, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


@contextmanager
def writing(path):
    with plain(path) as temporary:
        yield temporary
    if len(list(folder.glob(kept))) >= most:
        os.kill(os.getpid(), signal.SIGKILL)


files.writing = writing

from parfocal.cli import main

main(sys.argv[4:])
"""


def kill_after(steps: int, folder: Path, command: list[str], *, kept: str = "[!.]*.npz") -> dict[str, bytes]:
    """Run a command until `folder` holds so many files like `kept`, and kill it there; what comes back is those files.

    Args:
        steps: how many files.
        folder: where they are.
        command: of parfocal, with its arguments.
        kept: the pattern of a finished step's file.
    """
    call = [sys.executable, "-c", _SCRIPT, str(folder), kept, str(steps), *command]
    ended = subprocess.run(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(kept)}
