"""Ctrl-C and SIGTERM end a command alike: what is done is kept, what has been begun is removed."""

import _thread
import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_MOMENT_SECONDS = 0.05


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Inside the block both signals raise `KeyboardInterrupt`; the list holds those that came.

    A library may swallow the exception, and then the list is all that is left of it. Where Python itself has to,
    because the signal came during the callback of a weak reference or in a finaliser, it is raised again soon after.
    """
    came: list[int] = []
    ended = threading.Event()

    def again(number: int) -> None:
        if not ended.wait(_MOMENT_SECONDS):
            os.kill(os.getpid(), number)

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        if came and isinstance(what.exc_value, KeyboardInterrupt):
            _thread.start_new_thread(again, (came[-1],))
        else:
            hook(what)

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield came
        return
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        ended.set()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


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
