"""What tells a slide file from another one in its place: sizes and times at a glance, the digest of all bytes for sure.

A whole-slide image has gigabytes. Its digest is taken while it is embedded, when its bytes are read anyway, and is
asked for again only where the times say that the file may be another one.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.errors import UnreadableSlideError
from parfocal.files import file_fingerprint
from parfocal.slides import slide_files

FINGERPRINT, SIZES, TIMES = "slide_fingerprint", "slide_sizes", "slide_times"
"""What an index keeps of a slide's file."""

_PREFIX = "sha256-"
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class SlideState:
    """What the folder says of a slide's files, without reading them.

    Attributes:
        sizes: digest of how many bytes each has.
        times: digest of their sizes and of when each was last written.
    """

    sizes: str
    times: str


def slide_state(path: Path) -> SlideState:
    """The sizes and times of a slide's files.

    Raises:
        UnreadableSlideError: one of them is absent or out of reach.
    """
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
            with file.open("rb", buffering=0) as opened:
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
    has embedded, size and both ends decide.

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
        return file_fingerprint(path) == fingerprint
    state = slide_state(path)
    if state.times == stored[TIMES]:
        return True
    return state.sizes == stored[SIZES] and (trust_times or slide_digest(path, stop) == fingerprint)


def is_digest(fingerprint: str) -> bool:
    """Whether a stored fingerprint is such a digest, and not of the size and the two ends as older versions took it."""
    return fingerprint.startswith(_PREFIX)


@contextmanager
def fingerprinting(path: Path) -> Iterator[Callable[[], tuple[str, SlideState]]]:
    """Take the digest of a slide in a thread while the block reads it; calling what it gets waits for the result.

    The thread ends with the block. The result is the digest and the state of the files.

    Raises:
        UnreadableSlideError: a file cannot be read; or, where the result is asked for, the slide has changed since.
    """
    before = slide_state(path)
    found: list[str | BaseException] = []
    left = threading.Event()

    def take() -> None:
        try:
            found.append(slide_digest(path, left.is_set))
        except BaseException as error:  # raised where the result is asked for
            found.append(error)

    def result() -> tuple[str, SlideState]:
        thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        if slide_state(path) != before:
            raise UnreadableSlideError(
                f"cannot use {path}: the file changed while it was read. Embed it when nothing writes to it any more."
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


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _unreadable(path: Path, error: OSError) -> UnreadableSlideError:
    return UnreadableSlideError(f"cannot read {path}: {error.strerror or error}.")
