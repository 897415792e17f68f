"""A store in a bucket, worked on in a folder of this machine: its mirror.

Settings and indexes are the same on both sides. Features are fetched when somebody reads them, and those that this
machine has written leave it when they have been uploaded. The index of a slide is uploaded last: where it is, the slide
is done.

mirror.json               the address, and a name of this mirror
<set>/.there/SLIDE.json   what of a slide is at the address: its index, and the sizes of its features

Nothing else knows of addresses: whoever opens a store asks `on_disk` for its folder, and whoever opens a file that is
not there asks `fetch`.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parfocal.addresses import address_of, has_folders
from parfocal.errors import SlideError, StoreError
from parfocal.files import digest8, staging, writing
from parfocal.slides.remote import asked, file_system, tag_of
from parfocal.store.layout import INDEX_FOLDER, SETTINGS_FILE, index_path

_MARK = "mirror.json"
_THERE = ".there"
_AT_A_TIME = 1000


@dataclass(frozen=True)
class Mirror:
    """A folder of this machine that stands for a store in a bucket.

    Attributes:
        folder: the folder.
        address: of the store.
        name: tells mirrors of one store apart.
    """

    folder: Path
    address: str
    name: str

    @staticmethod
    def of(address: str) -> "Mirror":
        """The mirror of an address on this machine, made where it is absent.

        Raises:
            StoreError: nothing can be written there.
        """
        address = address.rstrip("/")
        # Its own name last: a set is called by its folder.
        folder = Path.home() / ".cache" / "parfocal" / "stores" / digest8(address) / address.rpartition("/")[2]
        found = _read_mark(folder)
        if found is not None:
            return found
        made = Mirror(folder, address, secrets.token_hex(4))
        try:
            with writing(folder / _MARK) as temporary:
                temporary.write_text(json.dumps({"address": made.address, "name": made.name}) + "\n")
        except OSError as error:
            raise StoreError(
                f"cannot keep {address} in {folder}: {error.strerror or error}. Make room there, or make "
                f"{folder.parent.parent} a link to a folder with room."
            ) from error
        return made

    @staticmethod
    def around(path: Path) -> "Mirror | None":
        """The mirror that a path lies in; None where it is of a store on a disk."""
        return next((found for folder in path.parents if (found := _read_mark(folder)) is not None), None)

    def address_of(self, path: Path) -> str:
        """Where a file of the mirror is at the address."""
        return f"{self.address}/{path.relative_to(self.folder).as_posix()}"

    def pull(self) -> None:
        """Make settings and indexes those of the address; what this machine has not uploaded yet stays.

        Raises:
            StoreError: the address cannot be listed or read.
        """
        listed = self.listed()
        sets = [name.removesuffix(SETTINGS_FILE) for name in listed if _is_settings(name)]
        wanted = [name for name in listed if _is_settings(name) and not (self.folder / name).is_file()]
        wanted += [
            name for name, one in listed.items() if _is_report(name, self.name) and self._is_short(name, one.size)
        ]
        self.fetch(wanted)
        for prefix in sets:
            self._pull_set(
                self.folder / prefix, {k.removeprefix(prefix): v for k, v in listed.items() if k.startswith(prefix)}
            )

    def _pull_set(self, set_path: Path, listed: Mapping[str, "_Object"]) -> None:
        files = dict[str, dict[str, int]]()
        for name, one in listed.items():
            folder, _, rest = name.partition("/")
            if rest.endswith(".h5") and folder != INDEX_FOLDER:
                files.setdefault(rest.removesuffix(".h5"), {})[folder] = one.size
        indexes = {
            name.removeprefix(f"{INDEX_FOLDER}/").removesuffix(".h5"): one
            for name, one in listed.items()
            if name.startswith(f"{INDEX_FOLDER}/") and name.endswith(".h5")
        }
        known = {slide: there(set_path, slide) for slide in {*indexes, *_recorded(set_path)}}
        new = list[str]()
        for slide, record in known.items():
            if _is_own(set_path, slide, record):
                continue
            if slide not in indexes or record is None or record.tag != indexes[slide].tag:
                # Its features are those of another index; of one that is gone nothing is left.
                for path in _files_here(set_path, slide):
                    path.unlink(missing_ok=True)
                _there_path(set_path, slide).unlink(missing_ok=True)
                new += [slide] if slide in indexes else []
        self.fetch([index_path(set_path, slide).relative_to(self.folder).as_posix() for slide in new])
        for slide in new:
            _note(set_path, slide, indexes[slide].tag, files.get(slide, {}))

    def tag_at(self, path: Path) -> str | None:
        """What changes with the content of a file's object at the address; None where there is none."""
        address = self.address_of(path)

        def ask() -> str | None:
            files = file_system(address)
            files.invalidate_cache()
            try:
                return tag_of(files.info(address))[0]
            except FileNotFoundError:
                return None

        found: str | None = _of_store(address, ask)
        return found

    def _is_short(self, name: str, n_bytes: int) -> bool:
        """Whether a file that only grows is here with fewer bytes than at the address."""
        path = self.folder / name
        return not path.is_file() or path.stat().st_size < n_bytes

    def listed(self) -> dict[str, "_Object"]:
        """Every object of the store, by its name in it; one whose name would lead out of a folder is none of it."""
        root = f"{self.address.partition('://')[2]}/"

        def find() -> Mapping[str, Mapping[str, Any]]:
            files = file_system(self.address)
            files.invalidate_cache()
            found: Mapping[str, Mapping[str, Any]] = files.find(f"{self.address}/", detail=True)
            return found

        found = _of_store(self.address, find)
        return {
            name.removeprefix(root): _Object(int(one["size"]), tag_of(one)[0])
            for name, one in found.items()
            if name.startswith(root) and not {"", ".", ".."} & {*name.removeprefix(root).split("/")}
        }

    def fetch(self, names: Sequence[str]) -> None:
        """Fetch files, each whole or not at all."""
        for at in range(0, len(names), _AT_A_TIME):
            part = names[at : at + _AT_A_TIME]
            with staging(self.folder) as fresh:
                places = [fresh / str(number) for number in range(len(part))]
                remote = [f"{self.address}/{name}" for name in part]
                _of_store(
                    self.address,
                    lambda remote=remote, places=places: file_system(self.address).get(remote, list(map(str, places))),
                )
                for name, place in zip(part, places, strict=True):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    place.replace(self.folder / name)

    def put(self, path: Path, name: str | None = None) -> str:
        """Upload a file of the mirror; what comes back changes with its content.

        Args:
            path: the file.
            name: its name at the address, in the store; as in the mirror where None.
        """
        address = self.address_of(path) if name is None else f"{self.address}/{name}"

        def send() -> str:
            files = file_system(address)
            files.put_file(str(path), address)
            files.invalidate_cache()
            return tag_of(files.info(address))[0]

        tag: str = _of_store(address, send, "write to")
        return tag


@dataclass(frozen=True)
class _Object:
    size: int
    tag: str


@dataclass(frozen=True)
class There:
    """What of a slide is at the address of its store.

    Attributes:
        stamp: size and time of its index in the mirror, which is the one at the address as long as they are so.
        tag: what the bucket says of its index, which changes with its content.
        files: the bytes of its features, by the folder that they are in.
    """

    stamp: tuple[int, int]
    tag: str
    files: Mapping[str, int]


def on_disk(store: Path | str) -> Path:
    """The folder of a store: of one in a bucket its mirror, with all settings and indexes as they are there now.

    Raises:
        StoreError: it is on a web server, or the bucket cannot be listed or read.
    """
    address = address_of(store)
    if address is None:
        return Path(store)
    if not has_folders(address):
        raise StoreError(
            f"cannot use {address} as a store: a web server cannot be listed. Name a folder of a disk or of a bucket "
            "(s3://, gs://)."
        )
    mirror = Mirror.of(address)
    mirror.pull()
    return mirror.folder


def holds_store(address: str) -> bool:
    """Whether there is a store, or a set of one, at an address in a bucket.

    Raises:
        StoreError: the bucket cannot be listed.
    """
    root = f"{address.partition('://')[2].rstrip('/')}/"

    def find() -> list[str]:
        files = file_system(address)
        files.invalidate_cache()
        return list(files.find(address.rstrip("/") + "/", maxdepth=2))

    return any(_is_settings(name.removeprefix(root)) for name in _of_store(address, find))


def fetch(path: Path) -> None:
    """Fetch a file of a mirror that is not there; nothing happens for one of a store on a disk.

    Raises:
        StoreError: it cannot be fetched.
    """
    mirror = Mirror.around(path)
    if mirror is not None:
        mirror.fetch([path.relative_to(mirror.folder).as_posix()])


def publish_set(set_path: Path) -> None:
    """Upload the settings of a set of a mirror; those that are there are the same.

    Raises:
        StoreError: the bucket cannot be written to.
    """
    mirror = Mirror.around(set_path)
    if mirror is not None:
        mirror.put(set_path / SETTINGS_FILE)


def publish(set_path: Path, slide: str, beside: Iterable[Path] = ()) -> None:
    """Upload a slide of a mirror that is done, its index last; its features then leave this machine.

    Nothing happens for a store on a disk, and for a slide that is there. One that another machine has uploaded in the
    meantime takes the place of this one.

    Args:
        set_path: the set.
        slide: its id.
        beside: files of the store that belong to the slide, such as a picture.

    Raises:
        StoreError: the bucket cannot be written to; then the slide stays here, and is uploaded by the next run.
    """
    mirror = Mirror.around(set_path)
    if mirror is None:
        return
    index, record = index_path(set_path, slide), there(set_path, slide)
    if not _is_own(set_path, slide, record):
        return
    tag = mirror.tag_at(index)
    if tag is not None and (record is None or record.tag != tag):
        for path in _files_here(set_path, slide):
            path.unlink()
        mirror.pull()
        return
    if tag is not None:  # with more of it read; for a moment the slide is not done
        address = mirror.address_of(index)
        _of_store(address, lambda: file_system(address).rm_file(address), "write to")
    features = [path for path in _files_here(set_path, slide) if path != index]
    for path in (*features, *(one for one in beside if one.is_file())):
        mirror.put(path)
    sizes = {path.relative_to(set_path).parts[0]: path.stat().st_size for path in features}
    before = {} if record is None else record.files
    _note(set_path, slide, mirror.put(index), {**before, **sizes})
    for path in features:
        path.unlink()


def publish_records(store: Path) -> None:
    """Upload what runs on this machine have noted of slides, where a store is a mirror.

    Raises:
        StoreError: the bucket cannot be written to.
    """
    mirror = _read_mark(store)
    if mirror is None:
        return
    listed = mirror.listed()
    for path in (*store.glob("*.jsonl"), *store.glob("failures/*.jsonl"), *store.glob("logs/*.log")):
        name = path.relative_to(store).as_posix()
        name = f"run.{mirror.name}.jsonl" if name == "run.jsonl" else name
        # All of them only grow, and each is written on one machine.
        if name not in listed or listed[name].size < path.stat().st_size:
            mirror.put(path, name)


def there(set_path: Path, slide: str) -> There | None:
    """What of a slide is at the address of its store; None where nothing is known to be, or the store is on a disk."""
    try:
        content = json.loads(_there_path(set_path, slide).read_text())
        size, time = content["stamp"]
        return There((size, time), content["tag"], content["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def bytes_away(set_path: Path, slide: str) -> dict[str, int]:
    """The features of a slide that are at the address alone: their bytes, by the folder that they would be in."""
    record = there(set_path, slide)
    files = {} if record is None else record.files
    return {folder: n for folder, n in files.items() if not (set_path / folder / f"{slide}.h5").exists()}


def _is_settings(name: str) -> bool:
    return name.rpartition("/")[2] == SETTINGS_FILE and name.count("/") <= 1


def _is_report(name: str, own: str) -> bool:
    """Whether another mirror's runs have noted slides in it."""
    is_record = name.startswith("run.") and name.endswith(".jsonl") and name != f"run.{own}.jsonl"
    return is_record or (name.startswith("failures/") and name.endswith(".jsonl"))


def _is_own(set_path: Path, slide: str, record: There | None) -> bool:
    """Whether a slide is done here, and its index is not the one that is at the address."""
    index = index_path(set_path, slide)
    return index.is_file() and (record is None or _stamp(index) != record.stamp)


def _stamp(index: Path) -> tuple[int, int]:
    status = index.stat()
    return status.st_size, status.st_mtime_ns


def _files_here(set_path: Path, slide: str) -> list[Path]:
    """The files of a slide that are on this machine; its index first, as without it the slide is not done."""
    index = index_path(set_path, slide)
    folders = [one for one in set_path.iterdir() if one.is_dir() and not one.name.startswith(".")]
    found = [path for folder in folders if (path := folder / f"{slide}.h5").is_file()]
    return sorted(found, key=lambda path: path != index)


def _there_path(set_path: Path, slide: str) -> Path:
    return set_path / _THERE / f"{slide}.json"


def _recorded(set_path: Path) -> list[str]:
    """The slides that were at the address when it was last looked at."""
    folder = set_path / _THERE
    return [path.relative_to(folder).as_posix().removesuffix(".json") for path in folder.rglob("*.json")]


def _note(set_path: Path, slide: str, tag: str, files: Mapping[str, int]) -> None:
    record = There(_stamp(index_path(set_path, slide)), tag, files)
    with writing(_there_path(set_path, slide)) as temporary:
        temporary.write_text(json.dumps(asdict(record)) + "\n")


def _read_mark(folder: Path) -> Mirror | None:
    try:
        content = json.loads((folder / _MARK).read_text())
        return Mirror(folder, str(content["address"]), str(content["name"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _of_store(address: str, ask: Any, doing: str = "read") -> Any:
    """What a bucket answers; whatever went wrong is a StoreError of one line."""
    try:
        return asked(address, ask, doing)
    except SlideError as error:
        raise StoreError(str(error)) from error
