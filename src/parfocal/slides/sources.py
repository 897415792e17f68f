"""Which slides a run is about: from files, folders and manifests to a list of ids and paths."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.errors import ConfigError
from parfocal.slides.calibration import check_slide_mpp

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
        ConfigError: an input is absent, a folder holds no slide, two slides have one id, or a file is given twice with
            two ids or two resolutions.
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
        csv_path: a CSV with the columns `slide` (id), `path`, and optionally `mpp` (empty: what the file says), in
            any case. Paths are relative to the manifest. Other columns are not read.

    Raises:
        ConfigError: it is absent or no such table, or a row of it makes no sense; the text names the line.
    """
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = [name.lower() for name in columns]
            twice = [name for name in ("slide", "path", "mpp") if reader.fieldnames.count(name) > 1]
            if twice:
                raise ConfigError(f"{csv_path} has the column {twice[0]} twice: {', '.join(columns)}. Keep one.")
            missing = [name for name in ("slide", "path") if name not in reader.fieldnames]
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


def _row(csv_path: Path, line: int, row: dict[str, Any]) -> SlideSource:
    # What stands beyond the header's columns; a decimal comma ends there too.
    beyond = row.pop(None, [])  # type: ignore[call-overload]
    if any(value.strip() for value in beyond):
        raise ConfigError(
            f"{csv_path}, line {line}: {','.join(beyond)!r} stands beyond the last column. "
            "Name the column in the header, or quote a value that holds a comma."
        )
    slide, path, mpp = ((row.get(name) or "").strip() for name in ("slide", "path", "mpp"))
    if not slide or not path:
        raise ConfigError(f"{csv_path}, line {line}: slide and path must not be empty, found {slide!r} and {path!r}.")
    problem = _id_problem(slide)
    if problem:
        raise ConfigError(f"{csv_path}, line {line}: the slide id {slide!r} cannot name a file: {problem}.")
    try:
        slide_mpp = float(mpp) if mpp else None
    except ValueError as error:
        raise ConfigError(
            f"{csv_path}, line {line}: mpp of {slide} is {mpp!r}; expected is a number such as 0.5, or nothing."
        ) from error
    check_slide_mpp(slide_mpp, f"{csv_path}, line {line}: mpp of {slide}")
    return SlideSource(slide, csv_path.parent / path, slide_mpp)


def _id_problem(slide: str) -> str | None:
    """Why files of a store cannot be called so; None where they can. Names that begin with a dot are hidden there."""
    if "\\" in slide:
        return "leave out \\"
    if any(not part or part.startswith(".") for part in slide.split("/")):
        return "no part of it may be empty or start with a dot"
    return None


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
    seen: dict[tuple[Path, bytes], SlideSource] = {}
    kept = []
    for source in sources:
        series = _dicom_series(source.path) if source.path.suffix.lower() in {".dcm", ""} else None
        if series is not None:
            key = (source.path.resolve().parent, series)
            before = seen.setdefault(key, source)
            if before.slide_mpp != source.slide_mpp:
                raise ConfigError(
                    f"{before.path} and {source.path} are one DICOM series and are given as {_mention(before)} and as "
                    f"{_mention(source)}. Give one file of it."
                )
            if before.path.resolve() != source.path.resolve():
                continue
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
    """Each file once; two files under one id, and one file under two ids or resolutions, are refused."""
    by_file: dict[Path, SlideSource] = {}
    by_id: dict[str, SlideSource] = {}
    for source in sources:
        problem = _id_problem(source.slide)
        if problem:
            raise ConfigError(
                f"{source.path} cannot have the id {source.slide!r}: {problem}. "
                "Name it in a manifest (slide,path) with an id of its own."
            )
        before = by_file.setdefault(source.path.resolve(), source)
        if (before.slide, before.slide_mpp) != (source.slide, source.slide_mpp):
            raise ConfigError(
                f"{source.path} is given twice: as {_mention(before)} and as {_mention(source)}. Give it once."
            )
        if before is not source:
            continue
        other = by_id.setdefault(source.slide, source)
        if other is not source:
            raise ConfigError(
                f"two slides have the id {source.slide!r}: {other.path} and {source.path}. "
                "Give one folder above both, or a manifest with ids of your own."
            )
    return list(by_file.values())


def _mention(source: SlideSource) -> str:
    return f"{source.slide!r} ({'no mpp' if source.slide_mpp is None else f'mpp {source.slide_mpp:g}'})"
