"""Which slides a run is about: from files, folders and manifests to a list of ids and paths."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.errors import ConfigError

__all__ = ["PICTURE_SUFFIXES", "SLIDE_SUFFIXES", "SlideSource", "find_slides", "read_manifest"]

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi", ".qptiff"}
)
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
# Where the header of a DICOM file says which series it belongs to: tag (0020,000E), explicit VR UI.
_SERIES_TAG = re.compile(rb"\x20\x00\x0e\x00UI(..)", re.DOTALL)
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class SlideSource:
    """A slide to work on: its id, its file, and its resolution where the caller knows better than the file."""

    slide: str
    path: Path
    slide_mpp: float | None = None


def find_slides(inputs: Sequence[Path | str]) -> list[SlideSource]:
    """List the slides in files, folders and manifests.

    A folder is searched with everything below it: files with a slide's suffix, hidden ones left out. Pictures (PNG,
    JPEG) count only in a folder that holds no slide, where they cannot be a slide's thumbnails. A file that is named
    itself is always taken, whatever its suffix; a `.csv` is read as a manifest. A DICOM series is one slide, under
    the name of its first file.

    Args:
        inputs: files, folders, manifests, in any mixture.

    Returns:
        In the order of `inputs`, a folder's slides sorted by path. The id of a slide is its path below the folder
        without the suffix, for a file its stem.

    Raises:
        ConfigError: an input is absent, a folder holds no slide, or two slides have one id.
    """
    found: list[SlideSource] = []
    for given in map(Path, inputs):
        if given.is_dir():
            below = [SlideSource(_id_below(given, path), path) for path in _slides_below(given)]
            if not below:
                raise ConfigError(
                    f"{given} holds no slide: no file below it ends in one of {' '.join(sorted(SLIDE_SUFFIXES))} "
                    f"or, as a picture, {' '.join(sorted(PICTURE_SUFFIXES))}. Name the file itself if it is one."
                )
            found += below
        elif not given.exists():
            raise ConfigError(f"cannot find {given}: there is no such file or folder.")
        elif given.suffix.lower() == ".csv":
            found += read_manifest(given)
        else:
            found.append(SlideSource(given.stem, given))
    return _checked(_one_per_series(found))


def read_manifest(csv_path: Path) -> list[SlideSource]:
    """Read a table of slides.

    Args:
        csv_path: a CSV with the columns `slide` (id), `path`, and optionally `mpp` (empty: what the file says). Paths
            are relative to the manifest. Other columns are not read.

    Raises:
        ConfigError: it is absent or no such table, or a row of it makes no sense; the text names the line.
    """
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [name for name in ("slide", "path") if name not in columns]
            if missing:
                raise ConfigError(
                    f"{csv_path} lacks the column {' and '.join(missing)}: it has {', '.join(columns) or 'nothing'}. "
                    "Expected are slide,path and optionally mpp."
                )
            sources = [_row(csv_path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the manifest {csv_path}: {error}.") from error
    if not sources:
        raise ConfigError(f"{csv_path} lists no slide. Expected is one line per slide under slide,path[,mpp].")
    for what, values in (("slide", [s.slide for s in sources]), ("path", [str(s.path) for s in sources])):
        twice = sorted(value for value, count in Counter(values).items() if count > 1)
        if twice:
            raise ConfigError(f"{csv_path} has the {what} {twice[0]!r} on several lines; each must stand there once.")
    return sources


def _row(csv_path: Path, line: int, row: dict[str, str | None]) -> SlideSource:
    slide, path, mpp = ((row.get(name) or "").strip() for name in ("slide", "path", "mpp"))
    if not slide or not path:
        raise ConfigError(f"{csv_path}, line {line}: slide and path must not be empty, found {slide!r} and {path!r}.")
    if slide.startswith("/") or ".." in slide.split("/") or "\\" in slide:
        raise ConfigError(f"{csv_path}, line {line}: the slide id {slide!r} cannot name a file; leave out / .. and \\.")
    try:
        slide_mpp = float(mpp) if mpp else None
    except ValueError as error:
        raise ConfigError(
            f"{csv_path}, line {line}: mpp of {slide} is {mpp!r}; expected is a number such as 0.5, or nothing."
        ) from error
    return SlideSource(slide, csv_path.parent / path, slide_mpp)


def _slides_below(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix.lower() in SLIDE_SUFFIXES | PICTURE_SUFFIXES
        and path.is_file()
    ]
    with_slides = {path.parent for path in files if path.suffix.lower() in SLIDE_SUFFIXES}
    return [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES or path.parent not in with_slides]


def _id_below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _one_per_series(sources: Iterable[SlideSource]) -> list[SlideSource]:
    """Keep the first file of each DICOM series; OpenSlide finds the others beside it."""
    seen: set[tuple[Path, bytes]] = set()
    kept = []
    for source in sources:
        series = _dicom_series(source.path) if source.path.suffix.lower() in {".dcm", ""} else None
        if series is not None:
            key = (source.path.resolve().parent, series)
            if key in seen:
                continue
            seen.add(key)
        kept.append(source)
    return kept


def _dicom_series(path: Path) -> bytes | None:
    """The series that a DICOM file belongs to; None where it is no DICOM file or does not say."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    match = _SERIES_TAG.search(header) if header[128:132] == b"DICM" else None
    if match is None:
        return None
    length = int.from_bytes(match.group(1), "little")
    return header[match.end() : match.end() + length].strip(b"\0 ")


def _checked(sources: Iterable[SlideSource]) -> list[SlideSource]:
    """Each file once, under the id of its first mention; two files under one id are refused."""
    by_file: dict[Path, SlideSource] = {}
    by_id: dict[str, SlideSource] = {}
    for source in sources:
        if source.path.resolve() in by_file:
            continue
        by_file[source.path.resolve()] = source
        other = by_id.setdefault(source.slide, source)
        if other is not source:
            raise ConfigError(
                f"two slides have the id {source.slide!r}: {other.path} and {source.path}. "
                "Give one folder above both, or a manifest with ids of your own."
            )
    return list(by_file.values())
