"""What every written file carries, and how a file is written whole or not at all."""

import glob
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parfocal.errors import StoreError
from parfocal.version import __version__

__all__ = [
    "canonical_json",
    "digest8",
    "file_digest8",
    "file_fingerprint",
    "provenance",
    "remove_leftovers",
    "writable_folder",
    "writing",
]

_TEMPORARY = ".partial-"


def canonical_json(settings: Any) -> str:
    """Settings as JSON that is the same text for the same values: sorted keys, no spaces."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest8(settings: Any) -> str:
    """The first eight hexadecimal digits of the SHA-256 of `canonical_json(settings)`."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:8]


def file_digest8(path: Path) -> str:
    """The first eight hexadecimal digits of the SHA-256 of a small file, such as a table of labels."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def file_fingerprint(path: Path) -> str:
    """Size and a digest of the first and the last MiB of a file: enough to see that another slide took its place.

    A whole-slide image has gigabytes; reading them all only to name them would double the input of a run.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
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
        StoreError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}. Name another folder.") from error
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed over it when the block ends well and removed when it does not.

    The temporary name keeps the suffix, so that libraries which look at it still work; it starts with a dot and holds
    `.partial-`, so that `remove_leftovers` finds what a killed process left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{_TEMPORARY}{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        # Without the flush a power cut could leave a renamed file with no content.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left beside it."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}{_TEMPORARY}*{path.suffix}"):
        leftover.unlink(missing_ok=True)
