"""The seal of a file: what its bytes were when it was written, readable before HDF5 opens it.

HDF5 lets 512 bytes stand before its own (a userblock), which every reader of HDF5 skips. In our files they say in a
line of text what follows: the SHA-256 of all bytes after them, and how many there are. A seal shows damage, and files
that were exchanged where an index names it; it is no signature, as anyone can write one.
"""

import hashlib
import re
from pathlib import Path

from parfocal.errors import StoreError

__all__ = ["SEAL_BYTES", "check_seal", "file_digest", "write_seal"]

SEAL_BYTES = 512
_TITLE = b"parfocal seal "
_SEAL = re.compile(_TITLE + rb"1: ([0-9a-f]{64}-[0-9]+)\n\0*")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def write_seal(path: Path) -> str:
    """Put the seal before what HDF5 has written; the digest that it holds.

    Args:
        path: a file with a userblock of `SEAL_BYTES`, closed.
    """
    digest = _digest(path, SEAL_BYTES)
    with path.open("r+b") as file:
        file.write((_TITLE + f"1: {digest}\n".encode()).ljust(SEAL_BYTES, b"\0"))
    return digest


def file_digest(path: Path) -> str:
    """The digest of a file's bytes and how many there are; those of the seal, where it has one, do not count.

    Raises:
        StoreError: it begins with something else than a seal or HDF5 does.
    """
    return _digest(path, 0 if _sealed_digest(path, "") is None else SEAL_BYTES)


def check_seal(path: Path, remedy: str, digest: str | None = None, *, whole: bool = True) -> None:
    """Refuse a file that is not what its seal or its index says; of a file with neither nothing is known.

    Args:
        path: the file.
        remedy: what to do about it, as a sentence.
        digest: what `file_digest` said when an index was made of the file; None where no index has it.
        whole: read all of a file that has a seal, not only the seal and the size.

    Raises:
        StoreError: it has changed since it was written, or is another file than the one that was indexed.
        OSError: it cannot be read.
    """
    sealed = _sealed_digest(path, remedy)
    if digest is not None and sealed not in {digest, None}:
        raise StoreError(f"cannot use {path}: it is not the file that its index was written for. {remedy}".strip())
    expected, start = sealed or digest, SEAL_BYTES if sealed else 0
    if expected is None:
        return
    n_bytes = path.stat().st_size - start
    if n_bytes != int(expected.partition("-")[2]) or ((whole or not sealed) and _digest(path, start) != expected):
        what = "is damaged: it has changed since it was written" if sealed else "has changed since it was indexed"
        raise StoreError(f"cannot use {path}: it {what}. {remedy}".strip())


def _digest(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        digest = hashlib.file_digest(file, "sha256")
        return f"{digest.hexdigest()}-{max(0, file.tell() - start)}"


def _sealed_digest(path: Path, remedy: str) -> str | None:
    """The digest in a file's seal; None where there is none and HDF5 begins at once."""
    with path.open("rb") as file:
        start = file.read(SEAL_BYTES)
    if start.startswith(_HDF5):
        return None
    found = _SEAL.fullmatch(start)
    if found is None:
        raise StoreError(
            f"cannot read {path}: it is damaged or no HDF5 file; it begins as neither HDF5 nor a seal of this "
            f"version of parfocal does. {remedy}".strip()
        )
    return found[1].decode()
