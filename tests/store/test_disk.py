"""A signal while a file of a store is written ends the run, whatever HDF5 is at, and leaves nothing behind."""

import gc
import io
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import h5py
import numpy as np
import pytest

from parfocal.store.disk import new_file

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(params=SIGNALS)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that raises, as in a command."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    yield request.param
    assert {signal.getsignal(number) for number in SIGNALS} == {stop}
    for own, handler in before.items():
        signal.signal(own, handler)


@pytest.mark.parametrize("method", ["seek", "write", "readinto", "truncate"])
def test_a_signal_while_hdf5_is_at_the_disk_is_raised_when_it_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, method: str
) -> None:
    met = []

    def meet(frame: FrameType, event: str, argument: object) -> None:
        """Send the signal in the first line of the method, where it is handled if it came inside HDF5."""
        if event == "call" and frame.f_code.co_qualname == f"_Disk.{method}" and not met:
            met.append(method)
            signal.raise_signal(number)

    def write() -> None:
        with ExitStack() as stack:
            file = new_file(stack, tmp_path / "s.h5")
            # Chunks of which the cache holds one, so that they are written, and read again.
            data = file.create_dataset("x", shape=(3, 1 << 20), chunks=(1, 1 << 20), dtype="f4")
            sys.setprofile(meet)
            try:
                for row in (0, 1, 2, 0):
                    data[row, :5] = np.ones(5)
                del data  # HDF5 writes the last one in a finaliser, where no exception can be passed on
                file.close()
            finally:
                sys.setprofile(None)

    with pytest.raises(KeyboardInterrupt):
        write()

    assert met == [method]
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_signal_between_two_calls_of_hdf5_is_raised_at_once(tmp_path: Path, number: signal.Signals) -> None:
    def write() -> None:
        with ExitStack() as stack:
            new_file(stack, tmp_path / "s.h5")
            signal.raise_signal(number)
            pytest.fail("nothing was raised")

    with pytest.raises(KeyboardInterrupt):
        write()

    assert list(tmp_path.iterdir()) == []


class Finalised:
    """Interrupted while Python is in its finaliser, where no exception can be passed on."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("waits", [False, True])
def test_ctrl_c_in_a_finaliser_is_not_lost_where_python_handles_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], waits: bool
) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def write() -> None:
        with ExitStack() as stack:
            new_file(stack, tmp_path / "s.h5")
            Finalised()
            if waits:
                Event().wait(60)  # it is raised again soon

    with pytest.raises(KeyboardInterrupt):
        write()

    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_any_call_of_writing_a_file_is_raised_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """In Python's part of HDF5 too, where a file could stay open that HDF5 would write to when all is over.

    Python handles signals where a function begins, and after a function of C.
    """
    modules = ("h5py", "parfocal/store/disk.py", "parfocal/signals.py")
    path = tmp_path / "s.h5"

    def calls_before(last: int) -> int:
        """Write a file, with the signal in call `last`; how many calls there were until the end."""
        seen = 0

        def see(frame: FrameType, event: str, argument: object) -> None:
            nonlocal seen
            if event in {"call", "c_return"} and any(module in frame.f_code.co_filename for module in modules):
                seen += 1
                if seen == last:
                    signal.raise_signal(number)

        sys.setprofile(see)
        try:
            with ExitStack() as stack:
                new_file(stack, path).create_dataset("x", data=np.ones((3, 8)), chunks=(1, 8))
        finally:
            sys.setprofile(None)
        return seen

    stop = signal.getsignal(number)
    calls = calls_before(0)
    assert path.exists()
    assert calls > 100
    kept = 0
    for last in range(1, calls + 1):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            calls_before(last)
        for each in SIGNALS:
            signal.signal(each, stop)
        kept += path.exists()
        assert not [one for one in tmp_path.iterdir() if one != path], last
    assert kept < 20  # those that came when the file was written
    gc.collect()
    other = Thread(target=lambda: h5py.File(io.BytesIO(), "w").close(), daemon=True)
    other.start()
    other.join(60)
    assert not other.is_alive()  # the lock of HDF5 was given back
    assert capfd.readouterr().err == ""
