"""The folders of features that other tools have written: which there are, and the file of each slide."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.errors import ParfocalWarning, StoreError
from parfocal.store.formats.format import FORMATS, format_of

_PREFIX = "features_"


@dataclass(frozen=True)
class FeatureFolder:
    """A folder of features of one encoder at one magnification.

    Attributes:
        path: the folder.
        encoder: the encoder's name, what follows `features_` in the folder's name; None in a folder of another name.
        files: the file of each slide, by the slide's id.
    """

    path: Path
    encoder: str | None
    files: dict[str, Path]


def find_feature_folders(sources: Sequence[Path], encoder: str | None = None) -> list[FeatureFolder]:
    """The folders of features in job folders, magnification folders, or as named themselves; links are followed.

    Args:
        sources: TRIDENT job folders (`5x_224px_0px_overlap/features_NAME/` below them), or folders of files.
        encoder: which encoder's, where several are there.

    Raises:
        StoreError: nothing is found, or the features of several encoders are and none is named.
    """
    found: dict[Path, FeatureFolder] = {}
    for source in sources:
        if not source.is_dir():
            what = "is no folder" if source.exists() else "is not there"
            raise StoreError(f"cannot index {source}: it {what}. Name a job folder, or a folder of features.")
        below = [source] if any(map(_is_features, source.iterdir())) else _named_below(source)
        with_files = [folder for folder in map(_folder, below) if folder.files]
        if not with_files:
            raise StoreError(
                f"{source} holds no features: expected are files *{', *'.join(_suffixes())} in it, or folders "
                f"{_PREFIX}NAME below it."
            )
        # A folder that is given twice, by its own name and by that of its job, is one.
        found |= {folder.path.resolve(): folder for folder in with_files if folder.path.resolve() not in found}
    names = list(dict.fromkeys(folder.encoder for folder in found.values() if folder.encoder is not None))
    if encoder is not None:
        # A folder without an encoder in its name is taken at the caller's word.
        chosen = [folder for folder in found.values() if folder.encoder in {encoder, None}]
        if not chosen:
            raise StoreError(f"there are no features of {encoder!r}: found are {', '.join(names)}.")
        return chosen
    if len(names) > 1:
        raise StoreError(f"the features of several encoders are there: {', '.join(names)}. Name one (--encoder NAME).")
    return list(found.values())


def _named_below(folder: Path) -> list[Path]:
    """The folder itself where it is called as one of features, else those below it."""
    if folder.name.startswith(_PREFIX):
        return [folder]
    return [path for path in _walk(folder, is_leaf=_is_named) if _is_named(path)]


def _is_named(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and path.is_dir()


def _suffixes() -> tuple[str, ...]:
    return tuple(each.suffix for each in FORMATS)


def _is_features(path: Path) -> bool:
    return path.name.endswith(_suffixes()) and not path.name.startswith(".")


def _walk(folder: Path, is_leaf: Callable[[Path], bool], above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """What lies below a folder, sorted, without hidden names; links are followed, but not back to where they are."""
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
            yield from _walk(path, is_leaf, above)


def _folder(path: Path) -> FeatureFolder:
    # A folder, a pipe or a dangling link of such a name is a slide too: one that cannot be read, and is named.
    files = [file for file in _walk(path, is_leaf=_is_features) if _is_features(file)]
    return FeatureFolder(
        path,
        path.name.removeprefix(_PREFIX) if path.name.startswith(_PREFIX) else None,
        {file.relative_to(path).as_posix().removesuffix(format_of(file).suffix): file for file in files},
    )
