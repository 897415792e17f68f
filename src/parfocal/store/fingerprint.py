"""What tells a slide file from another one in its place: sizes and times at a glance, the digest of all bytes for sure.

Of a slide at an address the server says it, by its size and its ETag (or the time of its last change): reading all of
it for a digest would undo that it is read in part.

A whole-slide image has gigabytes. Its digest is taken while it is embedded, when its bytes are read anyway, and is
asked for again only where the times say that the file may be another one.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from parfocal.addresses import address_of, shown_path
from parfocal.errors import UnreadableSlideError
from parfocal.files import file_fingerprint, fingerprint_of
from parfocal.slides import RemoteFile, remote_state, slide_files

FINGERPRINT, SIZES, TIMES = "slide_fingerprint", "slide_sizes", "slide_times"
"""What an index keeps of a slide's file."""

_PREFIX, _AT_ADDRESS = "sha256-", "object-"
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class SlideState:
    """What the folder, or the server, says of a slide's files, without reading them.

    Attributes:
        sizes: digest of how many bytes each has.
        times: digest of their sizes and of when each was last written; at an address of its size and ETag.
    """

    sizes: str
    times: str


def slide_state(path: Path) -> SlideState:
    """The sizes and times of a slide's files.

    Raises:
        UnreadableSlideError: one of them is absent or out of reach.
    """
    address = address_of(path)
    if address is not None:
        remote = remote_state(address)
        return SlideState(_digest([remote.n_bytes]), _digest([(remote.n_bytes, remote.tag)]))
    try:
        states = [(file.stat().st_size, file.stat().st_mtime_ns) for file in slide_files(path)]
    except OSError as error:
        raise _unreadable(path, error) from error
    return SlideState(_digest([size for size, _ in states]), _digest(states))


def slide_digest(path: Path, stop: Callable[[], bool] = lambda: False) -> str:
    """The digest of every byte of a slide's files, in the order of their names.

    Args:
        path: the slide.
        stop: asked now and then; where it says so, what is returned means nothing.

    Raises:
        UnreadableSlideError: a file cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    try:
        for file in slide_files(path):
            with _opened(file) as opened:
                while (n := opened.readinto(buffer)) and not stop():
                    digest.update(view[:n])
    except OSError as error:
        raise _unreadable(path, error) from error
    return f"{_PREFIX}{digest.hexdigest()[:32]}"


def is_embedded_file(
    path: Path, stored: Mapping[str, Any], *, trust_times: bool = False, stop: Callable[[], bool] = lambda: False
) -> bool:
    """Whether a file is the one that was embedded, as far as the index of the slide knows that.

    Sizes and times decide where they are the same, the digest of the whole file where only the times differ: a good
    copy that was put over a damaged one has its size, and mostly its first and last bytes. Of what an older version
    has embedded, size and both ends decide. What was embedded from an address is the same where the server says the
    same of it; of a file on a disk that cannot be known, unless `trust_times` lets its size decide.

    Args:
        path: the slide.
        stored: the attributes of its index.
        trust_times: take a file of the same sizes for the same whatever its times are, and read nothing of it.
        stop: asked now and then while it is read; where it says so, what is returned means nothing.

    Raises:
        UnreadableSlideError: a file is absent or cannot be read.
    """
    if FINGERPRINT not in stored:
        return True
    fingerprint = str(stored[FINGERPRINT])
    if not is_digest(fingerprint):
        return ends_fingerprint(path) == fingerprint
    state = slide_state(path)
    if state.times == stored[TIMES]:
        return True
    return state.sizes == stored[SIZES] and (
        trust_times or (not fingerprint.startswith(_AT_ADDRESS) and slide_digest(path, stop) == fingerprint)
    )


def is_digest(fingerprint: str) -> bool:
    """Whether a stored fingerprint is of the whole file, and not of its size and two ends as older versions took it."""
    return fingerprint.startswith((_PREFIX, _AT_ADDRESS))


def ends_fingerprint(path: Path) -> str:
    """`files.file_fingerprint` of a slide's file, wherever it lies.

    Raises:
        UnreadableSlideError: an address cannot be read.
    """
    address = address_of(path)
    if address is None:
        return file_fingerprint(path)
    with RemoteFile(address) as file:
        return fingerprint_of(cast(BinaryIO, file))


@contextmanager
def fingerprinting(path: Path) -> Iterator[Callable[[], tuple[str, SlideState]]]:
    """Take the digest of a slide in a thread while the block reads it; calling what it gets waits for the result.

    The thread ends with the block. Of a slide at an address it reads nothing. The result is the digest and the state of
    the files.

    Raises:
        UnreadableSlideError: a file cannot be read; or, where the result is asked for, the slide has changed since.
    """
    before = slide_state(path)
    found: list[str | BaseException] = []
    left = threading.Event()

    def take() -> None:
        try:
            found.append(_at_address(before) if address_of(path) else slide_digest(path, left.is_set))
        except BaseException as error:  # raised where the result is asked for
            found.append(error)

    def result() -> tuple[str, SlideState]:
        thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        if slide_state(path) != before:
            raise UnreadableSlideError(
                f"cannot use {shown_path(path)}: the file changed while it was read. Embed it when nothing writes to "
                "it any more."
            )
        return found[0], before

    thread = threading.Thread(target=take, name="parfocal-fingerprint", daemon=True)
    try:
        thread.start()  # in here: it waits for the thread to begin, and a signal may end that wait
        yield result
    finally:
        left.set()
        if thread.is_alive():
            thread.join()


def _at_address(state: SlideState) -> str:
    return f"{_AT_ADDRESS}{state.times}"


def _opened(file: Path) -> RawIOBase:
    address = address_of(file)
    return file.open("rb", buffering=0) if address is None else RemoteFile(address)


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _unreadable(path: Path, error: OSError) -> UnreadableSlideError:
    return UnreadableSlideError(f"cannot read {shown_path(path)}: {error.strerror or error}.")
