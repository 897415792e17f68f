"""A new file of a store as HDF5 writes it: a full disk or Ctrl-C in the middle of that ends the run, and not HDF5."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py

from parfocal.files import remove_leftovers, writing
from parfocal.signals import Held, none_lost
from parfocal.store.h5 import SEAL_BYTES, write_seal


def new_file(stack: ExitStack, path: Path) -> "NewFile":
    """A new HDF5 file that becomes `path` when the stack is left well; what killed writers left is removed."""
    remove_leftovers(path)
    return stack.enter_context(_written(stack.enter_context(writing(path))))


class NewFile(h5py.File):
    """An HDF5 file that is being written, with room for its seal.

    Attributes:
        digest: what its seal holds, when it is closed.
    """

    digest: str

    def __init__(self, disk: "_Disk") -> None:
        """Begin a file on `disk`."""
        self._disk = disk
        # The default chunk cache of 1 MiB would write a chunk of that size once per batch instead of once.
        super().__init__(disk, "w", userblock_size=SEAL_BYTES, rdcc_nbytes=4 * (1 << 20))

    def check(self) -> None:
        """Raise what went wrong on the disk until now; the file does not fail by itself before it is closed."""
        if self._disk.error is not None:
            raise self._disk.error


@contextmanager
def _written(path: Path) -> Iterator[NewFile]:
    with none_lost(), Held(_kept) as held, path.open("w+b", buffering=0) as opened:
        file = NewFile(_Disk(opened))
        try:
            with held.let_through():
                yield file
        finally:
            file.close()  # whatever ends the block: HDF5 would write to the closed file when Python drops what is left
    file.check()
    file.digest = write_seal(path)


class _Disk(io.RawIOBase):
    """A file as HDF5 sees it: nothing fails; what went wrong is kept, and from then on nothing is written.

    HDF5 cannot close a file after a write has failed, as on a full disk: it says so in tracebacks, tries again when the
    program ends, and crashes there.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        read = self._file.readinto(view) or 0
        view[read:] = bytes(len(view) - read)  # what could not be written is read as nothing
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = len(view) if self.error else 0
        try:
            while written < len(view):
                written += self._file.write(view[written:])
        except BaseException as error:  # whatever it is, HDF5 must not meet it
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                self._file.truncate(size)
        except BaseException as error:  # whatever it is, HDF5 must not meet it
            self.error = error
        return self.tell() if size is None else size


def _kept(frame: FrameType | None, error: BaseException) -> bool:
    """Whether a signal came while HDF5 was at a disk: then what it raised is kept there like any other error of it.

    It is handled in the next line of Python, and that is often the first one of a method of the disk, before it can
    catch anything.
    """
    while frame is not None and not isinstance(frame.f_locals.get("self"), _Disk):
        frame = frame.f_back
    if frame is not None:
        frame.f_locals["self"].error = error
    return frame is not None
