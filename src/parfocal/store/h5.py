"""HDF5 files as they are met: opened only where they are the bytes that were written, and hold all of their data.

A file's seal says what its bytes were when it was written, readable before HDF5 opens it. HDF5 lets 512 bytes stand
before its own (a userblock), which every reader of HDF5 skips. In our files they say in a line of text what follows:
the SHA-256 of all bytes after them, and how many there are. A seal shows damage, and files that were exchanged where an
index names it; it is no signature, as anyone can write one.
"""

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.errors import StoreError
from parfocal.files import check_permission
from parfocal.store.mirror import fetch

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
        StoreError: it is called HDF5, and begins with something else than a seal or HDF5 does.
    """
    return _digest(path, 0 if _sealed_digest(path, "") is None else SEAL_BYTES)


def tree_digest(path: Path) -> str:
    """The digest of a file; of a folder, that of the names and digests of all files in it.

    Raises:
        StoreError: it is called HDF5, and begins with something else than a seal or HDF5 does.
    """
    if not path.is_dir():
        return file_digest(path)
    named = [
        f"{file.relative_to(path).as_posix()} {_digest(file, 0)}\n"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return f"{hashlib.sha256(''.join(named).encode()).hexdigest()}-{len(named)}"


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
    if path.suffix != ".h5":
        return None
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


# What h5py and numpy raise on files that are damaged, or hold other things under the names that are asked for.
_FOREIGN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)
# Rows of floats shrink by a factor of two; a file that declares a hundred times its size is no file of features.
_MAX_EXPANSION = 100
_ALWAYS_FINE_BYTES = 1 << 26
_MAX_OBJECTS = 10_000


@contextmanager
def opened_h5(path: Path, remedy: str = "", *, digest: str | None = None, checked: bool = False) -> Iterator[h5py.File]:
    """An HDF5 file for reading that holds all of its data itself; whatever is wrong with it is one StoreError.

    HDF5 can refer to other files (external links, external storage, virtual datasets), so that a file of features
    could show anything that this user may read; such files are refused, as is one that declares far more data than
    its bytes can hold. Only reading belongs into the block: what fails there is told as damage of the file.

    The bytes are checked against the file's seal, and against `digest`, before HDF5 sees them: on damaged metadata
    HDF5 may compute without an end, which nothing can stop from within.

    Files of a store never change once they have their name, so a file system that has no locks is no reason to fail.
    One that is absent from the mirror of a store in a bucket is fetched.

    Args:
        path: the file; anything else than a regular file is refused before it is opened.
        remedy: what to do about a file that cannot be used, as a sentence.
        digest: what `file_digest` said of the file when an index was made of it.
        checked: whether the caller has seen this state of the file pass all checks; its objects are not looked through
            again, which takes longer than reading a few of them.

    Raises:
        StoreError: it is absent, may not be read, is damaged, or is not what it should be.
    """
    with read_from(path, remedy):
        status = _status(path)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"cannot read {path}: it is no regular file. {remedy}".strip())
        if not checked:
            check_seal(path, remedy, digest)
        with h5py.File(path, "r", locking="best-effort") as file:
            if not checked:
                _refuse_elsewhere(file, path, status.st_size, remedy)
            yield file


@contextmanager
def read_from(path: Path, remedy: str) -> Iterator[None]:
    """Whatever goes wrong in the block, in which nothing is done but reading from a file, is one StoreError.

    Raises:
        StoreError: the file is absent, may not be read, is damaged, or is not what it should be.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"cannot read {path}: it is absent. {remedy}".strip()) from error
    except _FOREIGN as error:
        check_permission(error, path)
        text = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(
            f"cannot read {path}: it is damaged or not what it should be ({text}). {remedy}".strip()
        ) from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        fetch(path)
        return path.stat()


def attributes_of(thing: h5py.HLObject, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The attributes of a file, a group or a dataset, or those of `names` that it has, numbers as Python's own.

    By h5py's low-level functions where one is a text or a number, as nearly all are: its mapping takes twice as long.
    """
    place = thing["/"] if isinstance(thing, h5py.File) else thing
    asked = place.attrs if names is None else [name for name in names if h5py.h5a.exists(place.id, name.encode())]
    return {name: _attribute(place, name) for name in asked}


def _attribute(place: h5py.HLObject, name: str) -> Any:
    found = h5py.h5a.open(place.id, name.encode())
    dtype = found.dtype
    text = h5py.h5t.check_string_dtype(dtype)
    if found.shape != () or not (dtype.kind in "iuf" or (text and text.length is None)):
        value = place.attrs[name]
        return value.item() if isinstance(value, np.generic) else value
    value = np.zeros((), dtype)
    found.read(value)
    value = value.item()
    return value.decode(errors="surrogateescape") if text else value


def values_of(group: h5py.Group, name: str) -> np.ndarray:
    """The values of one of a group's datasets; by low-level functions too, for numbers in a third of the time."""
    dataset = h5py.h5d.open(group.id, name.encode())
    shape, dtype = dataset.shape, dataset.dtype
    values: np.ndarray
    if shape is None or dtype.kind not in "iuf":
        values = h5py.Dataset(dataset)[...]
    else:
        values = np.zeros(shape, dtype)  # what a file has no bytes of is left as it is
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def read_rows(file: h5py.File) -> tuple[Float[np.ndarray, "tile dim"], np.ndarray]:
    """Features and coords of a file in TRIDENT's layout, to be called where `opened_h5` holds it.

    Some tools keep a leading axis of one, which is left out here.

    Raises:
        ValueError: they are no such arrays.
    """
    features, coords = (_plain(values_of(file, name)) for name in ("features", "coords"))
    if features.ndim != 2 or features.dtype.kind != "f" or features.dtype.itemsize > 8:
        raise ValueError(f"features are {features.dtype} of shape {features.shape}; expected are floats (N, D)")
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
        raise ValueError(f"coords are {coords.dtype} of shape {coords.shape}; expected are numbers (N, 2)")
    return features, coords


def count_not_finite(features: Float[np.ndarray, "tile dim"]) -> int:
    """How many rows hold a value that is not finite."""
    if features.dtype == np.float16:
        # The exponent's bits: three times as fast as asking numpy, which widens every value.
        bad = (features.view(np.uint16) & np.uint16(0x7C00)) == np.uint16(0x7C00)
    else:
        # What is too large for float32 is infinite in everything that is computed from it.
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(features.astype(np.float32, copy=False))
    return int(bad.any(axis=1).sum()) if bad.any() else 0


def _plain(values: np.ndarray) -> np.ndarray:
    """Without a leading axis of one, and in this machine's order of bytes, which is the only one that torch takes."""
    values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _refuse_elsewhere(file: h5py.File, path: Path, n_bytes: int, remedy: str) -> None:
    """Refuse what lies in other files, and what no file of this size holds; only hard links are followed here.

    By h5py's low-level functions: by its objects for people looking takes two and a half times as long, at every file.
    """
    most = max(_ALWAYS_FINE_BYTES, _MAX_EXPANSION * n_bytes)
    met = 0

    # A visitor ends the visit by returning something; an exception would get lost inside h5py.
    def of_link(name: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        nonlocal met
        met += 1
        if met > _MAX_OBJECTS:
            return f"it holds more than {_MAX_OBJECTS:,} objects"
        if link.type == h5py.h5l.TYPE_SOFT:
            return None
        shown = name.decode(errors="replace")
        if link.type != h5py.h5l.TYPE_HARD:
            return f"its {shown} is a link to another file"
        thing = h5py.h5o.open(file.id, name)
        return _elsewhere(shown, thing, most) if isinstance(thing, h5py.h5d.DatasetID) else None

    problem = file.id.links.visit(of_link, info=True)
    if problem:
        raise StoreError(f"cannot use {path}: {problem}. {remedy}".strip())


def _elsewhere(name: str, dataset: h5py.h5d.DatasetID, most: int) -> str | None:
    stored = dataset.get_create_plist()
    if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
        return f"the values of its {name} lie in other files"
    chunks = stored.get_chunk() if stored.get_layout() == h5py.h5d.CHUNKED else None
    # Of whole numbers of any size: what a crafted file declares may be beyond 64 bits.
    values, chunk = (math.prod(map(int, shape or (0,))) for shape in (dataset.shape, chunks))
    declared = max(values, chunk) * dataset.dtype.itemsize
    if declared <= most:
        return None
    return f"its {name} declares {declared / 1e9:,.1f} GB, which a file of its size does not hold"
