"""A command that is killed after so many of its steps are kept: at a state, and not at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path

from parfocal.cli import main
from parfocal.run import cache

plain, folder, most = cache.writing, Path(sys.argv[1]), int(sys.argv[2])


@contextmanager
def writing(path):
    with plain(path) as temporary:
        yield temporary
    if len(list(folder.glob("[!.]*.npz"))) >= most:
        os.kill(os.getpid(), signal.SIGKILL)


cache.writing = writing
main(sys.argv[3:])
"""


def kill_after(steps: int, folder: Path, command: list[str]) -> dict[str, bytes]:
    """Run a command until `folder` holds so many kept steps, and kill it there; what comes back is what was kept."""
    call = [sys.executable, "-c", _SCRIPT, str(folder), str(steps), *command]
    ended = subprocess.run(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.npz")}
