"""How a command ends its process."""

import atexit
import os
import sys
import threading
from contextlib import suppress


def leave_threads(status: int) -> None:
    """End the process with its status where a thread is still at work, as after a second Ctrl-C.

    The interpreter ends such threads while it is torn down itself, and one that is inside a library of C++ then takes
    the process with it: it aborts, and the status is lost.
    """
    if all(thread is threading.main_thread() or not thread.daemon for thread in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
