"""A file in object storage or on a web server, read by byte ranges through fsspec.

The bytes come in blocks that are kept for a while, and neighbouring blocks come with one request: a request costs the
time in which megabytes would have come. Whatever goes wrong on the way is one line that names the address.
"""

import errno
import hashlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from parfocal.errors import UnreadableSlideError
from parfocal.slides.reader import one_line

_T = TypeVar("_T")

# docs/performance.md has what 16 and 256 KiB cost: 1.4 times the requests of a whole slide, or 2.9 times the bytes of
# its tissue mask.
BLOCK_BYTES = 1 << 16
# Directories of a TIFF, and the compressed tiles of the rows under way.
_KEPT_BYTES = 64 << 20
# Runs that are asked for at the same time.
_AT_ONCE = 4
# After so many seconds a request that was lost on the way is sent again.
_WAITS = (0.2, 1.0, 3.0)
# What comes with one request at most, so that a lost one is not everything.
_RUN_BYTES = 8 << 20
_ON_THE_WAY = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "s3fs", "google"}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}


@dataclass(frozen=True)
class RemoteState:
    """What a server says of a file without its bytes.

    Attributes:
        n_bytes: its size.
        tag: what changes with its content: the ETag, else when it was last changed; empty where the server says
            neither.
        can_pin: whether a request for a range may be tied to the tag, so that another content is refused.
    """

    n_bytes: int
    tag: str
    can_pin: bool = False


def remote_state(address: str) -> RemoteState:
    """The size and the tag of a file, asked for anew.

    Raises:
        UnreadableSlideError: there is no such file, or it cannot be reached; the text says which.
    """
    return asked(address, lambda: _state(file_system(address), address))


def remote_exists(address: str) -> bool:
    """Whether there is a file at an address.

    Raises:
        UnreadableSlideError: that cannot be found out.
    """
    try:
        _tried(address, lambda: _state(file_system(address), address))
    except _AbsentError:
        return False
    return True


def list_below(address: str) -> list[str]:
    """The addresses of every object below a prefix, sorted; none where there is nothing.

    Raises:
        UnreadableSlideError: the bucket is absent or cannot be listed.
    """
    scheme = address.partition("://")[0]

    def find() -> list[str]:
        files = file_system(address)
        files.invalidate_cache()
        return list(files.find(address.rstrip("/") + "/"))

    found = asked(address, find)
    return sorted(f"{scheme}://{name}" for name in found)


class RemoteFile(io.RawIOBase):
    """The bytes of an address as a file that is read and sought in; one place per object, as with a file of a disk.

    Blocks are fetched without a lock, so that several threads may wait for the network at the same time.
    """

    def __init__(self, address: str) -> None:
        """Ask for the size of the file; no byte of it is read yet.

        Raises:
            UnreadableSlideError: it is absent, empty, or cannot be reached, or nothing tells whether it changes.
        """
        super().__init__()
        self.address = self.name = address
        self.mode = "rb"
        self.problem: UnreadableSlideError | None = None
        """The last error: libraries that parse a file may take an error of reading for one of the file."""
        self.state = remote_state(address)
        if not self.state.n_bytes:
            raise UnreadableSlideError(f"cannot read {address}: it is empty.")
        with _told(address):
            pin = {"headers": {"If-Match": self.state.tag}} if self.state.can_pin else {}
            size = {"size": self.state.n_bytes} if address.startswith("http") else {}
            self._file = file_system(address).open(address, "rb", cache_type="none", **size, **pin)
        if not hasattr(self._file, "_fetch_range"):
            raise UnreadableSlideError(f"cannot read {address}: the server gives no ranges of bytes. Copy it first.")
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def write(self, _: Any, /) -> int:
        """Refused: it is only read."""
        raise io.UnsupportedOperation("not writable")

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; nothing is read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.state.n_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer up to the end of the file."""
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self.state.n_bytes)
        if end <= self._at:
            return 0
        start, done = self._at, 0
        for block in self._get(start, end):
            view[done : done + len(block)] = block
            done += len(block)
        self._at = end
        return done

    def prefetch(self, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Have these bytes ready, each run of neighbouring blocks with one request, several runs at a time."""
        numbers = {
            number
            for start, end in zip(starts, ends, strict=True)
            for number in _blocks_of(start, min(end, self.state.n_bytes))
        }
        self._fetch_missing(sorted(numbers))

    def close(self) -> None:
        """Forget the blocks; a second call does nothing."""
        if not self.closed:
            with self._lock:
                self._blocks.clear()
                pool, self._pool = self._pool, None
            if pool is not None:
                pool.shutdown(cancel_futures=True)
            self._file.close()
        super().close()

    def _get(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, block by block."""
        numbers = _blocks_of(start, end)
        kept = _KEPT_BYTES // BLOCK_BYTES // 2
        for first in range(0, len(numbers), kept):
            part = numbers[first : first + kept]
            fetched = self._fetch_missing(part)
            for number in part:
                begin = number * BLOCK_BYTES
                yield fetched[number][max(start - begin, 0) : end - begin]

    def _fetch_missing(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The blocks of these numbers, out of the cache where they are; those that are not go there."""
        with self._lock:
            found = {number: self._blocks[number] for number in numbers if number in self._blocks}
            for number in found:
                self._blocks.move_to_end(number)
        runs = list(_runs(number for number in numbers if number not in found))
        if len(runs) > 1:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_AT_ONCE, "parfocal-remote")
                pool = self._pool
            fetched = list(pool.map(self._fetch, runs))
        else:
            fetched = [self._fetch(run) for run in runs]
        for run, data in zip(runs, fetched, strict=True):
            blocks = (data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
            found |= zip(run, blocks, strict=True)
        with self._lock:
            for run in runs:
                self._blocks |= {number: found[number] for number in run}
            while len(self._blocks) > _KEPT_BYTES // BLOCK_BYTES:
                self._blocks.popitem(last=False)
        return found

    def _fetch(self, run: range) -> bytes:
        """The bytes of neighbouring blocks, asked for again where the way is at fault."""
        start, end = run.start * BLOCK_BYTES, min(run.stop * BLOCK_BYTES, self.state.n_bytes)

        def fetch() -> bytes:
            data = bytes(self._file._fetch_range(start, end))
            if len(data) != end - start:
                raise _LostError(f"cannot read {self.address}: {len(data)} of {end - start} bytes came.")
            return data

        try:
            return asked(self.address, fetch)
        except UnreadableSlideError as error:
            self.problem = error
            raise


def check_the_way(address: str, error: BaseException) -> None:
    """Raise what a library met on the way to a bucket as ours; an error of the bytes themselves passes.

    Raises:
        UnreadableSlideError: the bucket or the network is at fault.
    """
    chain = _chain(error)
    if any(isinstance(one, OSError) or type(one).__module__.partition(".")[0] in _ON_THE_WAY for one in chain):
        raise UnreadableSlideError(str(_as_ours(address, error))) from error


class _AbsentError(UnreadableSlideError):
    """There is nothing at the address."""


class _LostError(UnreadableSlideError):
    """Something on the way failed; the same request may succeed."""


def _blocks_of(start: int, end: int) -> range:
    return range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))


def _runs(numbers: Iterable[int]) -> Iterator[range]:
    """Neighbouring numbers together, no more of them than come with one request."""
    most, first, last = _RUN_BYTES // BLOCK_BYTES, -1, -1
    for number in numbers:
        if first >= 0 and number == last + 1 and number - first < most:
            last = number
            continue
        if first >= 0:
            yield range(first, last + 1)
        first = last = number
    if first >= 0:
        yield range(first, last + 1)


def file_system(address: str) -> Any:
    """What fsspec has for the scheme of an address.

    Raises:
        UnreadableSlideError: the package for it is not installed.
    """
    scheme = address.partition("://")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UnreadableSlideError(
            f"cannot read {address}: the package {_PACKAGES[scheme]} is not installed. "
            'Install it with `pip install "parfocal[cloud]"`, or copy the file to a disk first.'
        ) from error


def _state(files: Any, address: str) -> RemoteState:
    """What a server says of a file; never what was said before."""
    if not address.startswith("http"):
        files.invalidate_cache()
    if address.lower().endswith(".zarr") or ".zarr/" in address.lower():
        return _state_of_folder(files, address)
    info = files.info(address)
    if info.get("type") == "directory":
        raise UnreadableSlideError(f"cannot read {address}: it is a folder of a bucket; name the slide's file in it.")
    if info.get("size") is None:
        raise UnreadableSlideError(f"cannot read {address}: the server does not say how large it is. Copy it first.")
    tag, etag = tag_of(info)
    if not tag:
        raise UnreadableSlideError(
            f"cannot read {address}: the server gives neither an ETag nor the time of its last change, so that another "
            "file in its place would not be noticed. Copy it first."
        )
    # Of a weak tag no server takes a condition.
    return RemoteState(int(info["size"]), tag, can_pin=address.startswith("http") and etag.startswith('"'))


def tag_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """What changes with the content of an object, by what fsspec says of it: its ETag, else the time of its change.

    Returns:
        that, and the ETag alone; empty where there is none.
    """
    named = {key.lower().replace("-", ""): value for key, value in info.items()}
    etag = str(named.get("etag") or "")
    return etag or str(named.get("lastmodified") or named.get("updated") or ""), etag


def asked(address: str, ask: Callable[[], _T], doing: str = "read") -> _T:
    """What an answer gives, asked for again where the way is at fault.

    Args:
        address: what it is about.
        ask: asks for it.
        doing: what is done there, for messages.

    Raises:
        UnreadableSlideError: whatever went wrong, in one line.
    """
    try:
        return _tried(address, ask, doing)
    except (_AbsentError, _LostError) as error:
        raise UnreadableSlideError(str(error)) from error


def _tried(address: str, ask: Callable[[], _T], doing: str = "read") -> _T:
    """What an answer gives; asked for again where the way is at fault, and not the file."""
    for wait in _WAITS:
        try:
            with _told(address, doing):
                return ask()
        except _LostError:
            time.sleep(wait)
    with _told(address, doing):
        return ask()


def _state_of_folder(files: Any, address: str) -> RemoteState:
    """What a bucket says of all objects of an OME-Zarr slide together."""
    found = files.find(address.rstrip("/") + "/", detail=True)
    if not found:
        raise FileNotFoundError(address)
    tags = [(name, one["size"], tag_of(one)[0]) for name, one in sorted(found.items())]
    # Names below the slide, so that a copy in another bucket is the same.
    root = len(address.partition("://")[2].rstrip("/"))
    content = repr([(name[root:], size, tag) for name, size, tag in tags])
    return RemoteState(sum(size for _, size, _ in tags), hashlib.sha256(content.encode()).hexdigest())


@contextmanager
def _told(address: str, doing: str = "read") -> Iterator[None]:
    """Whatever fsspec and what it stands on raise becomes one line of ours."""
    try:
        yield
    except UnreadableSlideError:
        raise
    except Exception as error:  # botocore, aiohttp and gcsfs share no base
        raise _as_ours(address, error, doing) from error


def _as_ours(address: str, error: BaseException, doing: str = "read") -> UnreadableSlideError:
    # Whatever goes wrong with a web server, fsspec says that there is no such file, and keeps the reason as its cause.
    chain = _chain(error)
    named = {type(one).__name__ for one in chain}
    status = next((code for one in reversed(chain) if (code := _status(one))), 0)
    if status in {401, 403} or isinstance(error, PermissionError) or named & {"NoCredentialsError", "HttpError401"}:
        return UnreadableSlideError(
            f"cannot {doing} {address}: access is denied ({one_line(chain[-1])}). Check the name and the credentials."
        )
    if status == 412 or (isinstance(error, OSError) and "pre-conditions" in str(error)) or "FileExpired" in named:
        return UnreadableSlideError(f"cannot {doing} {address}: the file changed while it was read.")
    is_reached = not named & {"ClientConnectorError", "ClientConnectorDNSError", "EndpointConnectionError"}
    if status == 404 or (isinstance(error, FileNotFoundError) and not status and is_reached):
        return _AbsentError(f"cannot {doing} {address}: there is no such file.")
    if isinstance(error, ValueError) and "range requests" in str(error):
        return UnreadableSlideError(f"cannot {doing} {address}: the server gives no ranges of bytes. Copy it first.")
    why = f"the server answers {status}" if status else one_line(chain[-1])
    if not is_reached:
        return _LostError(f"cannot {doing} {address}: the server cannot be reached ({why}).")
    if status >= 500 or named & {"ServerDisconnectedError", "ClientPayloadError", "TimeoutError", "ClientOSError"}:
        return _LostError(f"cannot {doing} {address}: {why}.")
    if isinstance(error, OSError) and error.errno in {errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EIO}:
        return _LostError(f"cannot {doing} {address}: {why}.")
    return UnreadableSlideError(f"cannot {doing} {address}: {why}.")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came of, the first cause last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _status(error: BaseException) -> int:
    """The status of an answer, as aiohttp and botocore keep it; 0 where there was none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = getattr(error, "status", None)
    return code if isinstance(code, int) else 0
