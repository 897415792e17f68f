"""The features that other tools have written: which folders hold them, in which format, and those of each slide."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase, translate
from pathlib import Path

from parfocal.errors import ConfigError, ParfocalError, ParfocalWarning, StoreError
from parfocal.store.formats.format import FORMATS, FeatureFile, FeatureFormat, FeatureSource
from parfocal.store.h5 import opened_h5
from parfocal.table import some_of


@dataclass(frozen=True)
class FeatureFolder:
    """The features of one encoder at one magnification.

    Attributes:
        path: the folder.
        format: their layout.
        part: which of the features of each file, where files hold several.
        encoder: the encoder's name; None where neither the folder nor the files say it.
        sources: those of each slide, by the slide's id.
    """

    path: Path
    format: FeatureFormat
    part: str
    encoder: str | None
    sources: dict[str, FeatureSource]

    def __str__(self) -> str:
        return f"{self.path} ({self.part})" if self.part else str(self.path)

    def read_places(self, slide: str) -> FeatureFile:
        """Where the tiles of a slide lie.

        Raises:
            StoreError: its file is none of the format, or not even a file.
        """
        source = self.sources[slide]
        if not _is_readable(source.path, self.format):
            what = "is not there" if not source.path.exists() else "is no regular file"
            raise StoreError(f"cannot read {source.path}: it {what}. Extract it again, or leave it out.")
        return self.format.read_places(source)


def find_feature_folders(
    sources: Sequence[Path], encoder: str | None = None, format: str | None = None
) -> list[FeatureFolder]:
    """The features in the folders that are named and in those below them; links are followed.

    The format of a file is recognised by what is in it. One that cannot be read is taken for one of its folder's.

    Args:
        sources: the folders that a tool has written to, or folders of files.
        encoder: which encoder's, where several are there.
        format: the only format that is looked for; all where None.

    Raises:
        StoreError: nothing is found, or the features of several encoders are and none is named.
        ConfigError: there is no such format.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"there is no feature format {format!r}. Name one of {', '.join(FORMATS.names)}.")
    formats = list(FORMATS) if format is None else [FORMATS.get(format)]
    found: dict[tuple[Path, str, str], FeatureFolder] = {}
    beside: dict[tuple[str, str], list[Path]] = {}
    for source in sources:
        if not source.exists():
            raise StoreError(f"cannot index {source}: it is not there. Name a folder of features.")
        if not source.is_dir():
            raise StoreError(f"cannot index {source}: it is no folder. Name the folder that it lies in.")
        with_files = _folders(source, formats, beside)
        if not with_files and not beside:
            endings = ", ".join(f"*{suffix}" for suffix in _suffixes(formats))
            raise StoreError(f"{source} holds no features: expected are files {endings} in it or in folders below it.")
        # A folder that is given twice, by its own name and by that of its job, is one.
        for one in with_files:
            found.setdefault((one.path.resolve(), one.format.name, one.part), one)
    names = list(dict.fromkeys(folder.encoder for folder in found.values() if folder.encoder is not None))
    chosen = list(found.values())
    if encoder is not None:
        # Features without the name of an encoder are taken at the caller's word.
        chosen = [folder for folder in chosen if folder.encoder in {encoder, None}]
        if not chosen:
            raise StoreError(f"there are no features of {encoder!r}: found are {', '.join(names)}.")
    elif len(names) > 1:
        raise StoreError(f"the features of several encoders are there: {', '.join(names)}. Name one (--encoder NAME).")
    if not chosen:
        raise StoreError(
            f"{', '.join(map(str, sources))} hold the places of tiles and no features (a .pt whose rows are there as "
            ".h5 too counts as none). Name the folder of features too."
        )
    return [_with_places(folder, beside) for folder in chosen]


def _with_places(folder: FeatureFolder, beside: dict[tuple[str, str], list[Path]]) -> FeatureFolder:
    """The folder, each of whose sources knows the files of its slide that hold no rows."""
    named = {
        slide: replace(one, beside=tuple(beside.get((folder.format.name, Path(slide).name), ())))
        for slide, one in folder.sources.items()
    }
    return replace(folder, sources=named)


@dataclass(eq=False)
class _Kind:
    """What was found in one folder in one format, before it is known what the files there mostly are."""

    parts: dict[str, str | None] = field(default_factory=dict)
    sources: dict[str, dict[str, Path]] = field(default_factory=dict)


def _folders(
    source: Path, formats: Sequence[FeatureFormat], beside: dict[tuple[str, str], list[Path]]
) -> list[FeatureFolder]:
    """The features in a folder and below it; files without rows are added to `beside`."""
    kinds: dict[tuple[Path, str], _Kind] = {}
    unknown: list[Path] = []
    with_rows: dict[tuple[Path, str], set[str]] = {}
    without_rows: list[tuple[str, Path]] = []
    by_name, suffixes = {one.name: one for one in formats}, _suffixes(formats)
    files = walk(source, is_leaf=lambda path: path.name.endswith(suffixes))
    if any(one.is_folder and source.name.endswith(one.suffixes) for one in formats):
        files, source = iter([source]), source.parent  # the features of one slide, named themselves
    for file in files:
        if not file.name.endswith(suffixes):
            continue
        recognised = _recognise(file, formats)
        if recognised is None:
            unknown.append(file)
            continue
        name, parts = recognised
        if not parts:
            beside.setdefault((name, _stem(file, by_name[name])), []).append(file)
            without_rows.append((name, file))
            continue
        with_rows.setdefault((file.parent, name), set()).add(_stem(file, by_name[name]))
        top = _top(file, source, by_name[name], parts.values())
        kind = kinds.setdefault((top, name), _Kind())
        for part, encoder in parts.items():
            kind.parts.setdefault(part, encoder)
            kind.sources.setdefault(part, {})[_slide(file, top, by_name[name])] = file
    # Among the features of other slides lies what was to have some, and not where tiles were to be cut.
    for name, file in without_rows:
        stems = with_rows.get((file.parent, name))
        if stems is not None and _stem(file, by_name[name]) not in stems and _has_places(file):
            unknown.append(file)
    _assign(unknown, source, formats, kinds)
    return [
        FeatureFolder(
            top,
            by_name[name],
            part,
            kind.parts.get(part) or _encoder(top, by_name[name]),
            {slide: FeatureSource(path, part) for slide, path in files.items()},
        )
        for (top, name), kind in kinds.items()
        for part, files in kind.sources.items()
    ]


def _recognise(file: Path, formats: Sequence[FeatureFormat]) -> tuple[str, dict[str, str | None]] | None:
    """The format of a file and its parts; None where no format knows it, or it cannot be read."""
    for one in formats:
        if file.name.endswith(one.suffixes) and _is_readable(file, one):
            with suppress(ParfocalError, OSError):
                parts = one.parts(file)
                if parts is not None:
                    return one.name, dict(parts)
    return None


def _has_places(file: Path) -> bool:
    with suppress(ParfocalError, OSError), opened_h5(file, checked=True) as opened:
        return "coords" in opened
    return False


def _is_readable(file: Path, format: FeatureFormat) -> bool:
    """Whether it may be opened at all: a pipe would wait for ever."""
    return file.is_dir() if format.is_folder else file.is_file()


def _assign(
    unknown: Sequence[Path],
    source: Path,
    formats: Sequence[FeatureFormat],
    kinds: dict[tuple[Path, str], _Kind],
) -> None:
    """Give files that nothing could be made of to the features of their folder: slides that cannot be read are named.

    Where nothing at all was recognised, the first format of such files is taken, which says what it expects.
    """
    lost = []
    names = {name for _, name in kinds}
    for file in unknown:
        fitting = [one for one in formats if file.name.endswith(one.suffixes)]
        tops = {one.name: _known_top(file, one, kinds) or _top(file, source, one) for one in fitting}
        known = [one for one in fitting if (tops[one.name], one.name) in kinds]
        expected = [
            one
            for one in fitting
            if (not names or one.name in names) and any(fnmatchcase(tops[one.name].name, each) for each in one.folders)
        ]
        chosen = [*known, *expected, *([] if names else fitting)]
        if not chosen:
            lost.append(str(file))
            continue
        top = tops[chosen[0].name]
        kind = kinds.setdefault((top, chosen[0].name), _Kind())
        for part in kind.sources or {"": {}}:
            kind.sources.setdefault(part, {})[_slide(file, top, chosen[0])] = file
    if lost:
        warnings.warn(
            f"{len(lost)} files are of no known layout and are not used: {some_of(lost)}.",
            ParfocalWarning,
            stacklevel=5,
        )


def _known_top(file: Path, format: FeatureFormat, kinds: Mapping[tuple[Path, str], object]) -> Path | None:
    return next((folder for folder in file.parents if (folder, format.name) in kinds), None)


def _top(file: Path, source: Path, format: FeatureFormat, encoders: Collection[str | None] = ()) -> Path:
    """The folder that a file's slide is named from, or the source.

    It is the last one that is called as the format's are, or as the encoder that the file names.
    """
    above = [folder for folder in file.parents if folder == source or source in folder.parents]
    # The source may itself lie in such a folder, of which it is a part.
    named = (
        folder
        for folder in above
        if folder.name in encoders or any(fnmatchcase(folder.name, each) for each in format.folders)
    )
    return next(named, source)


def _encoder(top: Path, format: FeatureFormat) -> str | None:
    """What a `*` stands for in the name of a folder."""
    for pattern in format.folders:
        match = re.fullmatch(translate(pattern).replace(".*", "(.*)", 1), top.name)
        if match and match.groups():
            return match[1]
    return None


def _stem(file: Path, format: FeatureFormat) -> str:
    suffix = max((one for one in format.suffixes if file.name.endswith(one)), key=len)
    return file.name.removesuffix(suffix)


def _slide(file: Path, top: Path, format: FeatureFormat) -> str:
    return file.relative_to(top).with_name(_stem(file, format)).as_posix()


def _suffixes(formats: Sequence[FeatureFormat]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(suffix for one in formats for suffix in one.suffixes))


def walk(
    folder: Path, is_leaf: Callable[[Path], bool] = lambda _: False, above: frozenset[Path] = frozenset()
) -> Iterator[Path]:
    """What lies below a folder, sorted, without hidden names; links are followed, but not back to where they are.

    Args:
        folder: the folder.
        is_leaf: which folders are not looked into.
        above: the folders that it was reached through.
    """
    above = above | {folder.resolve()}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        warnings.warn(f"cannot look into {folder} ({error.strerror}); it is left out.", ParfocalWarning, stacklevel=2)
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        yield path
        if is_leaf(path) or not path.is_dir():
            continue
        real = path.resolve()
        if not any(real == one or real in one.parents for one in above):
            yield from walk(path, is_leaf, above)
