"""Addresses of files that lie on no disk: `s3://`, `gs://`, `https://`, `http://`.

They travel as paths, as the files of a disk do: `Path("s3://bucket/a.svs")` is written `s3:/bucket/a.svs`, which is how
an address is known again. A local folder called `s3:` is named with the folder above it.
"""

import re
from pathlib import Path

_ADDRESS = re.compile(r"(s3|gs|https?):/+(.*)", re.IGNORECASE | re.DOTALL)
_WITH_FOLDERS = ("s3", "gs")


def address_of(path: Path | str) -> str | None:
    """The address that a path stands for, with both slashes; None for what lies on a disk."""
    found = _ADDRESS.fullmatch(str(path))
    return f"{found[1].lower()}://{found[2]}" if found else None


def shown_path(path: Path | str) -> str:
    """How a path or an address is written for people and in files."""
    return address_of(path) or str(path)


def has_folders(address: str) -> bool:
    """Whether what lies below an address can be listed: in a bucket, and not on a web server."""
    return address.partition("://")[0] in _WITH_FOLDERS


def below(folder: Path, path: Path | str) -> Path:
    """A path that is relative to a folder, such as in a manifest; an address stays what it is."""
    return Path(path) if address_of(path) else folder / path
