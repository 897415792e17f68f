"""The folder of an explanation: what a run writes takes the place of what the run before wrote, and of nothing else.

files.json   the files that the run wrote, so that the next one knows which are its to remove
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from parfocal.errors import ConfigError
from parfocal.files import staging, writable_folder
from parfocal.report import write_json

EMBEDDINGS = "embeddings"
"""The store of what a head's region encoder makes, which stays from run to run."""

_LIST = "files.json"


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A fresh folder; when the block ends well its files are moved to `out`, and those of the run before are removed.

    Files that no run has written stay. A run that is stopped leaves `out` as it was.

    Raises:
        ConfigError: `out` is there and is no folder of an explanation.
        StoreError: it cannot be written to.
    """
    before = _written(out)
    writable_folder(out)
    with staging(out) as fresh:
        yield fresh
        found = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        write_json(out / _LIST, sorted({*before, *found}))
        for name in found:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(out / name)
        for name in sorted(set(before) - set(found)):
            _remove(out, name)
        write_json(out / _LIST, found)


def _written(out: Path) -> list[str]:
    """What the run before wrote into a folder; nothing where there was none."""
    if not out.exists():
        return []
    file = out / _LIST
    if not file.is_file():
        if not out.is_dir() or any(one.name != EMBEDDINGS and not one.name.startswith(".") for one in out.iterdir()):
            raise ConfigError(
                f"cannot write an explanation to {out}: it is there and holds no {_LIST}, so nothing says which of its "
                "files are of an explanation. Name another folder."
            )
        return []
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        known = [PurePosixPath(name) for name in names]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read {file}: it is damaged ({error}). Name another folder.") from error
    # Whoever can write the list could name any file of this user.
    return [str(one) for one in known if not one.is_absolute() and ".." not in one.parts and one.parts]


def _remove(out: Path, name: str) -> None:
    path = out / name
    if not path.parent.resolve().is_relative_to(out.resolve()):  # by a link out of it
        return
    if path.is_file():
        path.unlink()
    for folder in path.parents:
        if folder == out:
            return
        try:
            folder.rmdir()
        except OSError:  # something is in it still
            return
