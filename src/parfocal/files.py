"""What every written file carries, and how a file is written whole or not at all.

Tables are for people with a spreadsheet: a cell of text stays text there, and reads back as it was.
"""

import csv
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from parfocal.addresses import address_of
from parfocal.errors import StoreError
from parfocal.version import __version__

_TEMPORARY = ".partial-"
_WRITER = re.compile(r"\.partial-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<birth>\d+)-[0-9a-f]{8}")
_LONGEST_STEM = 150
_DAY_SECONDS = 24 * 3600
# A full disk, a quota that is used up, and a file above the size that a user may write.
_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


def canonical_json(settings: Any) -> str:
    """Settings as JSON that is the same text for the same values: sorted keys, no spaces."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest8(settings: Any) -> str:
    """The first eight hexadecimal digits of the SHA-256 of `canonical_json(settings)`."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:8]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a small file, such as a table of labels."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_digest8(path: Path) -> str:
    """The first eight hexadecimal digits of the SHA-256 of a small file."""
    return file_sha256(path)[:8]


def file_fingerprint(path: Path) -> str:
    """Size and a digest of the first and the last MiB of a file: enough to see that another slide took its place.

    A whole-slide image has gigabytes; reading them all only to name them would double the input of a run.
    """
    with path.open("rb") as file:
        return fingerprint_of(file)


def fingerprint_of(file: BinaryIO) -> str:
    """The same of an open file, which may lie on no disk."""
    size = file.seek(0, 2)
    digest = hashlib.sha256(str(size).encode())
    file.seek(0)
    digest.update(file.read(1 << 20))
    if size > 1 << 20:
        file.seek(max(size - (1 << 20), 1 << 20))
        digest.update(file.read(1 << 20))
    return f"{size}-{digest.hexdigest()[:16]}"


def provenance(settings: Any) -> dict[str, str]:
    """The two attributes that every file of ours has: the version and the settings that made it."""
    return {"parfocal_version": __version__, "parfocal_settings": canonical_json(settings)}


def writable_folder(path: Path) -> Path:
    """The folder, made where it is absent; asked for before long work, whose result would else have no place.

    Raises:
        StoreError: it cannot be made or written to, or is the address of a bucket.
    """
    check_on_disk(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}. Name another folder.") from error
    return path


def check_on_disk(path: Path) -> None:
    """Refuse an address for what is written, where a folder called `s3:` would be made.

    Raises:
        StoreError: it is one.
    """
    address = address_of(path)
    if address is not None:
        raise StoreError(
            f"cannot write to {address}: results are written to a disk only. Name a folder, and copy what is done."
        )


def check_permission(error: BaseException, file: Path) -> None:
    """Where reading a file of ours failed for want of permission, say that: it is not damaged, and nothing to remove.

    Raises:
        StoreError: this user may not read it.
    """
    if isinstance(error, PermissionError) or (file.exists() and not os.access(file, os.R_OK)):
        raise StoreError(
            f"cannot read {file}: there is no permission to read it. Ask its owner, or change its permissions."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed over it when the block ends well and removed when it does not.

    The temporary name keeps the suffix, so that libraries which look at it still work; it starts with a dot and holds
    `.partial-` and the writer, so that `remove_leftovers` finds what a killed process left behind. The file has the
    permissions that the umask gives.

    Raises:
        OSError: among others, a disk that is full; then the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_temporary_prefix(path)}{writer_name()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        # Made here, so that it has the permissions that the umask gives: some libraries put a file of their own there.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        # Without the flush a power cut could leave a renamed file with no content.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:  # each library that writes has a kind of its own for a full disk
        full = no_space(error, path)
        if full is None:
            raise
        raise full from error
    finally:
        temporary.unlink(missing_ok=True)


def no_space(error: BaseException, path: Path) -> OSError | None:
    """The error as one that says that there is no space for `path`; None where it says something else.

    HDF5 hides the number of the system's error in its text, and a second error, when the file is closed, hides the
    first.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno in _NO_SPACE:
            named = str(seen.filename or path)
            return OSError(seen.errno, os.strerror(seen.errno), str(path) if _TEMPORARY in named else named)
        found = re.search(r"errno = (\d+)", str(seen))
        if found and int(found[1]) in _NO_SPACE:
            return OSError(int(found[1]), os.strerror(int(found[1])), str(path))
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A fresh folder inside `folder`, gone when the block ends, and with it what dead writers left of theirs."""
    remove_leftovers(folder / "staging")
    fresh = folder / f"{_temporary_prefix(Path('staging'))}{writer_name()}-{secrets.token_hex(4)}"
    fresh.mkdir(parents=True)
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def file_of(folder: Path, name: str, suffix: str) -> Path:
    """`folder/NAME SUFFIX`, where the name may hold folders and be too long for a file with that suffix.

    Args:
        folder: where it lies.
        name: such as a slide's id.
        suffix: with its dot.
    """
    return (folder / name).with_name(_short(Path(name).name) + suffix)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that dead writers of `path` left beside it; those of a living writer are its own."""
    prefix, names = _temporary_prefix(path), list[str]()
    with suppress(OSError):  # nobody has left anything where there is no folder
        names = os.listdir(path.parent)
    _remove_dead(path.parent / name for name in names if name.startswith(prefix) and name.endswith(path.suffix))


def sweep_leftovers(folder: Path) -> None:
    """Remove the temporary files that dead writers left anywhere in a folder."""
    _remove_dead(folder.rglob(f".*{_TEMPORARY}*"))


def writer_name() -> str:
    """This process, as part of a file's name: no other process, of this machine or of another one, has the same."""
    return f"{_machine()}-{os.getpid()}-{_own_birth(os.getpid())}"


def _temporary_prefix(path: Path) -> str:
    """How the names of a file's temporary files begin; short enough for any file system."""
    return f".{_short(path.stem)}{_TEMPORARY}"


def _short(stem: str) -> str:
    """The stem of a file's name, or its beginning and a digest where a suffix may make it too long."""
    if len(os.fsencode(stem)) <= _LONGEST_STEM:
        return stem
    return f"{stem[:40]}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]}"


def _remove_dead(leftovers: Iterable[Path]) -> None:
    for leftover in leftovers:
        # A folder that cannot be written to keeps its leftovers; they are in nobody's way.
        with suppress(OSError):
            if _may_live(leftover):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _may_live(leftover: Path) -> bool:
    """Whether the writer of a temporary file may still be at work.

    Of this machine it is known. Of another one, as in an array of jobs on one store, a file is left alone for a day
    after it was last written to.
    """
    found = _WRITER.search(leftover.name)
    if found is None or found["machine"] != _machine() or not hasattr(os, "kill") or os.name == "nt":
        return time.time() - leftover.stat().st_mtime < _DAY_SECONDS
    pid, birth = int(found["pid"]), int(found["birth"])
    if birth:
        return _birth(pid) == birth
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _machine() -> str:
    """A digest of what tells machines apart, also where names do not: the boot, and a container's own processes."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _birth(pid: int) -> int | None:
    """When a process of this machine began: a number that is used again is another process. None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything; the times come after it.
    state, *numbers = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else int(numbers[18])


@cache
def _own_birth(pid: int) -> int:
    """When this process began; a fork has another number and asks again, as a number may have been another's."""
    return _birth(pid) or 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_birth.cache_clear)


# What a spreadsheet takes for a formula; an apostrophe before it makes it text there. Apostrophes that stand there
# already count, so that taking one away gives back what was written.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n].", re.DOTALL)


def safe_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that looks like one gets an apostrophe before it.

    Numbers stay numbers, negative ones and those that are written as text included.
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    return value if _is_number(value) else f"'{value}"


def original_cell(text: str) -> str:
    """The text that `safe_cell` made `text` of."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole or not at all, in UTF-8, with safe cells.

    Names of files that are no UTF-8 keep their bytes.
    """
    with (
        writing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        table = csv.writer(text)
        table.writerow([safe_cell(name) for name in columns])
        table.writerows([safe_cell(cell) for cell in row] for row in rows)


def read_csv(path: Path) -> Iterator[list[str]]:
    """The rows of a table that `write_csv` wrote, as text, the names of the columns first."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        for row in csv.reader(text):
            yield [original_cell(cell) for cell in row]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text
