"""The folder of an explanation: what a run writes takes the place of what the run before wrote, and of nothing else.

files.json                the files that the run wrote, so that the next one knows which are its to remove
files.shard-0-of-4.json   those of a shard, which removes no other's
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from parfocal.errors import ConfigError
from parfocal.files import staging, writable_folder
from parfocal.predict.shards import table_of
from parfocal.report import write_json
from parfocal.run.shards import Shard

EMBEDDINGS = "embeddings"
"""The store of what a head's region encoder makes, which stays from run to run."""

_LIST = "files.json"
_LISTS = re.compile(r"files(\.shard-\d+-of-\d+)?\.json")


def list_of(part: Shard | None) -> str:
    """The list of the files of a run, or of a shard of one."""
    return table_of(Path(_LIST), part).name


@contextmanager
def replacing(out: Path, part: Shard | None = None, *, keep: Collection[str] = ()) -> Iterator[Path]:
    """A fresh folder; when the block ends well its files are moved to `out`, and those of the run before are removed.

    Files that no run has written stay. A run that is stopped leaves `out` as it was.

    Args:
        out: the folder.
        part: the shard that is written, which takes the place of the same shard alone; else what was written takes
            the place of everything, shards too.
        keep: files of runs before that stay and count as written by this one.

    Raises:
        ConfigError: `out` is there and is no folder of an explanation.
        StoreError: it cannot be written to.
    """
    lists = [list_of(part)] if part is not None else [_LIST, *(one.name for one in _lists(out) if one.name != _LIST)]
    _refuse_others(out)
    before = [name for one in lists for name in (*_listed(out / one), *([one] if one != list_of(part) else []))]
    writable_folder(out)
    with staging(out) as fresh:
        yield fresh
        new = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        found = sorted({*new, *keep})
        write_json(out / list_of(part), sorted({*before, *found}))
        for name in new:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(out / name)
        for name in sorted(set(before) - set(found)):
            _remove(out, name)
        write_json(out / list_of(part), found)


def written(out: Path, part: Shard | None = None) -> list[str]:
    """What a run, or a shard of one, wrote into a folder; nothing where there was none.

    Raises:
        ConfigError: the list of it is damaged.
    """
    return _listed(out / list_of(part))


def _lists(out: Path) -> list[Path]:
    """The lists of all runs and shards."""
    return sorted(one for one in out.glob("files*.json") if _LISTS.fullmatch(one.name))


def _refuse_others(out: Path) -> None:
    if not out.exists() or _lists(out):
        return
    if not out.is_dir() or any(one.name != EMBEDDINGS and not one.name.startswith(".") for one in out.iterdir()):
        raise ConfigError(
            f"cannot write an explanation to {out}: it is there and holds no {_LIST}, so nothing says which of its "
            "files are of an explanation. Name another folder."
        )


def _listed(file: Path) -> list[str]:
    if not file.is_file():
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
