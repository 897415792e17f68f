"""Ctrl-C and SIGTERM as exceptions: none is lost, and none comes where a library is at something that must not stop."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_MOMENT_SECONDS = 0.05
_BOTH = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def raised(
    error: Callable[[], BaseException] = KeyboardInterrupt, numbers: tuple[int, ...] = _BOTH, *, once: bool = False
) -> Iterator[list[int]]:
    """Inside the block signals raise an exception; the list holds those that came.

    A library may swallow the exception, and then the list is all that is left of it. Where Python itself has to,
    because the signal came during the callback of a weak reference or in a finaliser, it is raised again soon after.

    Args:
        error: makes what is raised.
        numbers: the signals.
        once: the first one alone is raised: a second one must not end what the first one's clean-up is at.
    """
    came: list[int] = []
    ended = threading.Event()
    waits = True

    def again(number: int) -> None:
        if not ended.wait(_MOMENT_SECONDS):
            os.kill(os.getpid(), number)

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        nonlocal waits
        if came and isinstance(what.exc_value, type(error())):
            waits = True
            _thread.start_new_thread(again, (came[-1],))
        else:
            hook(what)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal waits
        came.append(number)
        if waits or not once:
            waits = False
            raise error()

    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield came
        return
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield came
    finally:
        ended.set()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def none_lost() -> Iterator[None]:
    """Inside the block Ctrl-C is not lost where nobody has taken it over from Python, as in a script of a user.

    Python's own handler raises where it stands, be it in the callback of a weak reference, and prints what comes of it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with raised(numbers=(signal.SIGINT,)) as came:
        yield
    if came:  # and none of them ended the block
        raise KeyboardInterrupt


class Held:
    """Signals wait while a library is at something that it cannot leave half done.

    Inside `with Held() as held` they wait; inside `with held.let_through()` they come as they would without it, but
    for those that `keeps` takes. What has waited comes at the next place where it may.
    """

    def __init__(self, keeps: Callable[[FrameType | None, BaseException], bool]) -> None:
        """Take what is called with each exception that a signal raises, and with where: whether it is kept there."""
        self._keeps = keeps
        self._before: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._waiting: list[int] = []
        self._closed = False

    def __enter__(self) -> "Held":
        if threading.current_thread() is threading.main_thread():  # signals go to the main thread only
            found = {int(number): signal.getsignal(number) for number in _BOTH}
            self._before = {number: handler for number, handler in found.items() if callable(handler)}
            for number in self._before:
                signal.signal(number, self._handle)
        self._closed = True
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = False  # from here on what is left of this would change nothing, were the loop not to end
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._release()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Inside the block signals do not wait."""
        self._closed = False
        try:
            self._release()
            yield
        finally:
            self._closed = True

    def _release(self) -> None:
        while self._waiting:
            number = self._waiting.pop(0)
            self._before[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._closed:
            self._waiting.append(number)
            return
        try:
            self._before[number](number, frame)
        except BaseException as error:  # what a handler raises ends programs: KeyboardInterrupt, SystemExit
            if not self._keeps(frame, error):
                raise
