"""Which slides a run is about: from files, folders and manifests to a list of ids and paths."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from parfocal.addresses import address_of, below, has_folders
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.slides.calibration import check_slide_mpp
from parfocal.slides.dicom import read_dicom_header
from parfocal.slides.folders import PICTURE_SUFFIXES, SLIDE_SUFFIXES, search_folder, slide_name
from parfocal.slides.ome_zarr import is_ome_zarr
from parfocal.slides.on_disk import path_problem, real_path
from parfocal.slides.remote import list_below
from parfocal.table import read_lines
from parfocal.terminal import printable

SlideIds = Literal["path", "name"]
"""How files in a folder are called: by their path below it, or by their own name alone."""

_COLUMNS = ("slide", "path", "mpp", "scan")


@dataclass(frozen=True)
class SlideSource:
    """A slide to work on.

    Attributes:
        slide: its id.
        path: its file.
        slide_mpp: its resolution, where the caller knows better than the file.
        scan: which scan of a file that holds several, numbered from 0 in the order of the file; None leaves it open.
    """

    slide: str
    path: Path
    slide_mpp: float | None = None
    scan: int | None = None


def find_slides(inputs: Sequence[Path | str], *, ids: SlideIds = "path") -> list[SlideSource]:
    """List the slides in files, folders and manifests.

    A folder is searched with everything below it, through links too: files with a slide's suffix and DICOM slides of
    any name, hidden ones left out. Pictures (PNG, JPEG) count only in a folder that holds no slide, where they cannot
    be a slide's thumbnails. How much is passed over is a warning. A file that is named itself is always taken,
    whatever its suffix; a `.csv` is read as a manifest. A DICOM series is one slide, under the name of its first file.

    What cannot be opened (a link that leads nowhere, a pipe, a folder without permission) is listed like a slide and
    fails alone when it is opened.

    An address (`s3://`, `gs://`, `https://`, `http://`) with the suffix of a slide, or `.zarr`, is a slide; nobody asks
    whether it is there. Another one in a bucket is a folder, of which everything below is listed; on a web
    server it is a slide too.

    Args:
        inputs: files, folders, manifests, addresses, in any mixture.
        ids: `path` takes for the id of a slide in a folder its path below the folder without the suffix; `name` the
            file's name without the suffix, for archives that keep a folder for each slide. A manifest has its own ids.

    Returns:
        In the order of `inputs`, a folder's slides sorted by path. The id of a file that is named itself is its name
        without the suffix. Characters that do not print are written as `%0A` and so on.

    Raises:
        ConfigError: an input is absent, a folder holds no slide, two slides have one id, or a file is given twice with
            two ids or two resolutions, or an address cannot name a slide.
        UnreadableSlideError: a bucket cannot be listed.
    """
    found: list[SlideSource] = []
    paths = [Path(given) for given in inputs]
    named = {real_path(given) for given in paths}
    for given in paths:
        address = address_of(given)
        if address is not None:
            found += _at_address(given, address, ids)
        elif os.path.isdir(given) and not is_ome_zarr(given):
            found += _slides_below(given, named, ids)
        elif not os.path.lexists(given):
            raise ConfigError(f"cannot find {given}: there is no such file or folder.")
        elif given.suffix.lower() == ".csv":
            found += read_manifest(given)
        else:
            found.append(SlideSource(_as_id(slide_name(given)), given))
    return _checked(_one_per_series(found))


def read_manifest(csv_path: Path) -> list[SlideSource]:
    """Read a table of slides.

    Args:
        csv_path: a table as those of labels, with the columns `slide` (id), `path`, and optionally `mpp` (empty: what
            the file says) and `scan` (which one of a file that holds several, from 0), in any case. Paths are relative
            to the manifest, addresses stand as they are. Other columns are not read, and named in a warning:
            `slide_mpp` is none of these words.

    Raises:
        ConfigError: it is absent or no such table, or a row of it makes no sense; the text names the line.
    """
    problem = path_problem(csv_path)
    if problem:
        raise ConfigError(f"cannot read the manifest {csv_path}: {problem}.")
    (_, header), *lines = read_lines(csv_path) or [(1, [])]
    shown = [name.strip() for name in header]
    columns = [name.lower() for name in shown]
    twice = [name for name in _COLUMNS if columns.count(name) > 1]
    if twice:
        raise ConfigError(f"{csv_path} has the column {twice[0]} twice: {', '.join(shown)}. Keep one.")
    missing = [name for name in ("slide", "path") if name not in columns]
    if missing:
        raise ConfigError(
            f"{csv_path} lacks the column {' and '.join(missing)}: it has {', '.join(shown) or 'nothing'}. "
            "Expected are slide,path and optionally mpp,scan."
        )
    unread = [name for name in shown if name and name.lower() not in _COLUMNS]
    if unread:
        warnings.warn(
            f"{csv_path}: the manifest's column{'s' * (len(unread) > 1)} {printable(', '.join(unread))} "
            f"{'are' if len(unread) > 1 else 'is'} not read; those that are: {', '.join(_COLUMNS)}.",
            ParfocalWarning,
            stacklevel=3,
        )
    sources = [_row(csv_path, line, columns, cells) for line, cells in lines]
    if not sources:
        raise ConfigError(f"{csv_path} lists no slide. Expected is one line per slide under slide,path[,mpp][,scan].")
    paths = [str(s.path) if s.scan is None else f"{s.path} (scan {s.scan})" for s in sources]
    for what, values in (("slide", [s.slide for s in sources]), ("path", paths)):
        twice = sorted(value for value, count in Counter(values).items() if count > 1)
        if twice:
            raise ConfigError(f"{csv_path} has the {what} {twice[0]!r} on several lines; each must stand there once.")
    return sources


def _row(csv_path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> SlideSource:
    beyond = cells[len(columns) :]  # a decimal comma ends there too
    if any(cell.strip() for cell in beyond):
        raise ConfigError(
            f"{csv_path}, line {line}: {','.join(beyond)!r} stands beyond the last column. "
            "Name the column in the header, or quote a value that holds a comma."
        )
    row = dict(zip(columns, cells, strict=False))
    slide, path, mpp, scan = (row.get(name, "").strip() for name in _COLUMNS)
    if not slide or not path:
        raise ConfigError(f"{csv_path}, line {line}: slide and path must not be empty, found {slide!r} and {path!r}.")
    if "\0" in path:
        raise ConfigError(f"{csv_path}, line {line}: the path of {slide} holds a NUL character. Correct it.")
    address = address_of(path)
    if address and (problem := _address_problem(address)):
        raise ConfigError(f"{csv_path}, line {line}: {address} is no address of a slide: {problem}.")
    problem = _id_problem(slide)
    if problem:
        raise ConfigError(f"{csv_path}, line {line}: the slide id {slide!r} cannot name a file: {problem}.")
    try:
        slide_mpp = float(mpp.replace(",", ".")) if mpp else None  # no slide has thousands of microns per pixel
    except ValueError as error:
        raise ConfigError(
            f"{csv_path}, line {line}: mpp of {slide} is {mpp!r}; expected is a number such as 0.5, or nothing."
        ) from error
    check_slide_mpp(slide_mpp, f"{csv_path}, line {line}: mpp of {slide}")
    if scan and not (scan.isascii() and scan.isdigit()):
        raise ConfigError(
            f"{csv_path}, line {line}: scan of {slide} is {scan!r}; expected is a whole number from 0, or nothing."
        )
    return SlideSource(slide, below(csv_path.parent, path), slide_mpp, int(scan) if scan else None)


def _id_problem(slide: str) -> str | None:
    """Why files of a store cannot be called so; None where they can. Names that begin with a dot are hidden there."""
    if "\\" in slide:
        return "leave out \\"
    if _as_id(slide) != slide:
        return "leave out characters that do not print"
    if any(not part or part.startswith(".") for part in slide.split("/")):
        return "no part of it may be empty or start with a dot"
    return None


def _slides_below(folder: Path, named: set[Path], ids: SlideIds) -> list[SlideSource]:
    search = search_folder(folder, named=named)
    if not search.slides:
        others = f" It holds {search.notice()}." if search.notice() else ""
        raise ConfigError(
            f"{folder} holds no slide: no file below it ends in one of {' '.join(sorted(SLIDE_SUFFIXES))} "
            f"or, as a picture, {' '.join(sorted(PICTURE_SUFFIXES))}, or is a DICOM slide.{others} "
            "Name the file itself if it is one."
        )
    if search.notice():
        warnings.warn(f"{printable(str(folder))}: {search.notice()}.", ParfocalWarning, stacklevel=3)
    return [SlideSource(_id_below(folder, path, ids), path) for path in search.slides]


def _at_address(given: Path, address: str, ids: SlideIds) -> list[SlideSource]:
    """One slide, or all that lie below an address of a bucket."""
    problem = _address_problem(address)
    if problem:
        raise ConfigError(f"cannot take {address} for a slide: {problem}.")
    if given.suffix.lower() == ".csv":
        raise ConfigError(f"cannot read the manifest {address}: manifests are read from a disk only; copy it first.")
    if is_ome_zarr(given) or given.suffix.lower() in SLIDE_SUFFIXES | PICTURE_SUFFIXES or not has_folders(address):
        return [SlideSource(_as_id(slide_name(given)), given)]
    listed = list_below(address)
    for one in listed:
        if (problem := _address_problem(one)) is not None and Path(one).suffix.lower() in SLIDE_SUFFIXES:
            raise ConfigError(f"cannot take {one} for a slide: {problem}. Copy the object to another name.")
    paths = sorted({_slide_above(Path(one)) for one in listed})
    slides = [
        path for path in paths if path.suffix.lower() in {*SLIDE_SUFFIXES, ".zarr"} and not _is_hidden(path, given)
    ]
    if not slides:
        raise ConfigError(
            f"{address} holds no slide: none of {len(paths)} objects below it ends in one of .zarr "
            f"{' '.join(sorted(SLIDE_SUFFIXES))}. Name the object itself if it is one."
        )
    if len(slides) < len(paths):
        others = len(paths) - len(slides)
        warnings.warn(
            f"{printable(address)}: {others} object{'s' * (others > 1)} of other kinds passed over.",
            ParfocalWarning,
            stacklevel=3,
        )
    return [SlideSource(_id_below(given, path, ids), path) for path in slides]


def _address_problem(address: str) -> str | None:
    """Why no slide can lie at an address, as a clause; None where one can."""
    bucket, _, key = address.partition("://")[2].partition("/")
    if not bucket or (not key and not has_folders(address)):
        return "expected is an address such as s3://bucket/scans/case1.svs or https://host/case1.svs"
    if any(char in address for char in "?#*"):
        return "it holds one of ? # *; a signed address would be kept in the store with its signature"
    if "@" in bucket:
        return "it holds a name or a password, which would be kept in the store"
    if address_of(Path(address)) != address.rstrip("/"):
        return "a part of it is empty or a dot"
    return None


def _slide_above(path: Path) -> Path:
    """The OME-Zarr that an object of a bucket belongs to, else the object."""
    return next((above for above in reversed(path.parents) if above.suffix.lower() == ".zarr"), path)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _id_below(folder: Path, path: Path, ids: SlideIds) -> str:
    if path == folder:
        return _as_id(real_path(folder).name)
    name = Path(slide_name(path))
    return _as_id((name if ids == "name" else path.relative_to(folder).parent / name).as_posix())


def _as_id(name: str) -> str:
    """A name with what a terminal or a table would act on, and the backslash, as the percent signs of an address."""
    return "".join(
        char if char != "\\" and printable(char) == char else quote(char, safe="", errors="surrogateescape")
        for char in name
    )


def _one_per_series(sources: Iterable[SlideSource]) -> list[SlideSource]:
    """Keep one file of each DICOM series, the first that ends in .dcm if one does; OpenSlide finds the others."""
    series: dict[tuple[Path, str] | int, list[SlideSource]] = {}
    for number, source in enumerate(sources):
        suffix = source.path.suffix.lower()
        known = address_of(source.path) or (suffix in SLIDE_SUFFIXES | PICTURE_SUFFIXES and suffix != ".dcm")
        header = None if known else read_dicom_header(source.path)
        key = (real_path(source.path).parent, header.series) if header is not None and header.series else number
        files = series.setdefault(key, [])
        if files and (files[0].slide_mpp, files[0].scan) != (source.slide_mpp, source.scan):
            raise ConfigError(
                f"{files[0].path} and {source.path} are one DICOM series and are given as {_mention(files[0])} and as "
                f"{_mention(source)}. Give one file of it."
            )
        files.append(source)
    kept = []
    for files in series.values():
        first = next((source for source in files if source.path.suffix.lower() == ".dcm"), files[0])
        # The same file once more is looked at with all the others, where it may have another id.
        kept += [source for source in files if real_path(source.path) == real_path(first.path)]
    return kept


def _checked(sources: Iterable[SlideSource]) -> list[SlideSource]:
    """Each scan of a file once; two under one id, and one under two ids or resolutions, are refused."""
    by_file: dict[Path, list[SlideSource]] = {}
    by_id: dict[str, SlideSource] = {}
    for source in sources:
        problem = _id_problem(source.slide)
        if problem:
            raise ConfigError(
                f"{source.path} cannot have the id {source.slide!r}: {problem}. "
                "Name it in a manifest (slide,path) with an id of its own."
            )
        # Without a number it is one of the file's scans too.
        known = by_file.setdefault(real_path(source.path), [])
        before = next((one for one in known if one.scan == source.scan or None in (one.scan, source.scan)), source)
        if (before.slide, before.slide_mpp, before.scan) != (source.slide, source.slide_mpp, source.scan):
            raise ConfigError(
                f"{source.path} is given twice: as {_mention(before)} and as {_mention(source)}. Give it once."
            )
        if before is not source:
            continue
        known.append(source)
        other = by_id.setdefault(source.slide, source)
        if other is not source:
            remedy = "Give one folder above both with ids by path (--ids path), or a manifest with ids of your own."
            if other.path.parent == source.path.parent:
                remedy = (
                    "They lie in one folder and differ in their suffix only, which --ids path does not tell apart: "
                    "list both in a manifest (slide,path) with ids of your own, or move one of them away."
                )
            raise ConfigError(f"two slides have the id {source.slide!r}: {other.path} and {source.path}. {remedy}")
    return list(by_id.values())


def _mention(source: SlideSource) -> str:
    scan = "" if source.scan is None else f", scan {source.scan}"
    return f"{source.slide!r} ({'no mpp' if source.slide_mpp is None else f'mpp {source.slide_mpp:g}'}{scan})"
