"""A worker process that does not outlive the run that started it."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """From now on this process ends when its parent is gone, so that a killed run leaves no workers that wait for ever.

    Called in a worker; in the process that the user started it does nothing.
    """
    threading.Thread(target=_watch, name="parfocal-parent", daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
