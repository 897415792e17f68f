"""The slides in a folder and everything below it, and what was passed over."""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.addresses import address_of
from parfocal.slides.dicom import read_dicom_header
from parfocal.slides.ome_zarr import is_ome_zarr
from parfocal.slides.on_disk import real_path

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi", ".qptiff"}
)
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
# Never opened to see whether they are DICOM files.
# fmt: off
_OTHER_SUFFIXES = frozenset({
    ".txt", ".csv", ".tsv", ".xls", ".xlsx", ".json", ".geojson", ".xml", ".yaml", ".yml", ".log", ".md", ".pdf",
    ".html", ".zip", ".gz", ".tar", ".7z", ".h5", ".hdf5", ".npy", ".npz", ".pt", ".pth", ".pkl", ".safetensors",
    ".py", ".r", ".ipynb", ".sh", ".db", ".gif", ".bmp", ".svg", ".md5", ".sha256",
})
# fmt: on
# What belongs to a slide or to the system and is nobody's input.
_COMPANIONS = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})
_OF_HAMAMATSU = PICTURE_SUFFIXES | {".opt", ".ngr"}
_KINDS_NAMED = 6
_SLIDE, _PICTURE, _CLOSED = "slide", "picture", "folder that cannot be searched"


@dataclass
class FolderSearch:
    """What a folder holds.

    Attributes:
        slides: files that are slides or, in a folder without slides, pictures; also links with such a name that lead
            nowhere and folders that cannot be searched, which fail when they are opened. In the order of their paths.
        others: how many files of each other kind there are.
        pictures: how many pictures lie beside slides, where they are taken for thumbnails.
        links: how many links lead to what is searched already.
    """

    slides: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    links: int = 0

    def kinds(self) -> str:
        """The other kinds with their counts, the most frequent first."""
        named = sorted(self.others.items(), key=lambda one: (-one[1], one[0]))[:_KINDS_NAMED]
        rest = len(self.others) - len(named)
        return ", ".join(f"{kind} {count}" for kind, count in named) + (f" and {rest} more kinds" if rest else "")

    def notice(self) -> str:
        """What was passed over, as the rest of a sentence; empty where that is nothing."""
        parts = []
        if self.others:
            count = self.others.total()
            parts.append(f"{count} file{'s' * (count > 1)} of other kinds passed over ({self.kinds()})")
        if self.pictures:
            parts.append(f"{self.pictures} picture{'s' * (self.pictures > 1)} beside slides taken for their thumbnails")
        if self.links:
            parts.append(f"{self.links} link{'s' * (self.links > 1)} to what is searched already")
        return "; ".join(parts)


def search_folder(folder: Path, *, named: Collection[Path] = ()) -> FolderSearch:
    """Search a folder and everything below it, through links too, each real folder once; hidden ones are left out.

    What lies below the folder itself is found under that path, whatever links lead to it from elsewhere.

    Args:
        folder: where to look.
        named: real paths of files that are given by themselves, so that they are not passed over.
    """
    found = FolderSearch()
    files: list[tuple[Path, str]] = []
    for path, kind in _contents(folder, found):
        if kind in {_SLIDE, _PICTURE, _CLOSED}:
            files.append((path, kind))
        elif real_path(path) not in named:
            found.others[kind] += 1
    own: dict[Path, tuple[Path, str]] = {}
    for path, kind in sorted(files, key=lambda one: (one[0].is_symlink(), one[0])):
        real = real_path(path)
        found.links += real in own
        own.setdefault(real, (path, kind))
    with_slides = {path.parent for path, kind in own.values() if kind == _SLIDE}
    for path, kind in sorted(own.values()):
        if kind == _PICTURE and path.parent in with_slides:
            found.pictures += 1
        else:
            found.slides.append(path)
    return found


def slide_name(path: Path) -> str:
    """The name of a slide without its suffix; a DICOM file without a known suffix keeps its whole name.

    What looks like a suffix there is the end of a unique identifier, or the number of one of many files.
    """
    if address_of(path) or is_ome_zarr(path) or path.suffix.lower() in SLIDE_SUFFIXES | PICTURE_SUFFIXES:
        return path.stem
    return path.name if read_dicom_header(path) is not None or os.path.isdir(path) else path.stem


def _contents(folder: Path, found: FolderSearch) -> Iterator[tuple[Path, str]]:
    """Every visible file below a folder with its kind, and every folder that cannot be searched."""
    seen = {real_path(folder)}
    pending, linked = [folder], list[Path]()  # links wait until all that lies below the folder itself is searched
    while pending:
        here = pending.pop()
        try:
            with os.scandir(here) as listed:
                names = sorted(entry.name for entry in listed)
        except OSError:
            yield here, _CLOSED
            names = []
        for name in _visible(here, names):
            path = here / name
            if not os.path.isdir(path):
                yield path, _kind(path)
            elif is_ome_zarr(path):
                yield path, _SLIDE
            elif path.suffix.lower() == ".zarr":
                found.others[".zarr"] += 1
            elif path.is_symlink():
                linked.append(path)
            elif real_path(path) not in seen:
                seen.add(real_path(path))
                pending.append(path)
            else:
                found.links += 1
        while linked and not pending:
            path = linked.pop(0)
            real = real_path(path)
            if real in seen or real in real_path(path.parent).parents:
                found.links += 1
            else:
                seen.add(real)
                pending.append(path)


def _visible(folder: Path, names: list[str]) -> list[str]:
    """The names without hidden ones and without what only accompanies a slide."""
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    ignored: frozenset[str] = _OF_HAMAMATSU if suffixes & {".vms", ".vmu"} else frozenset()
    if os.path.exists(folder.with_name(f"{folder.name}.mrxs")):
        return []
    return [
        name
        for name in names
        if not name.startswith(".")
        and name.lower() not in _COMPANIONS
        and os.path.splitext(name)[1].lower() not in ignored
    ]


def _kind(path: Path) -> str:
    """Slide, picture, or what else a file is, as its suffix where it has one."""
    suffix = path.suffix.lower()
    if suffix in SLIDE_SUFFIXES:
        return _SLIDE
    if suffix in PICTURE_SUFFIXES:
        return _PICTURE
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return "dangling link"
    if not regular:
        return "pipe, socket or device"
    header = read_dicom_header(path) if suffix not in _OTHER_SUFFIXES else None
    if header is not None:
        return _SLIDE if header.is_slide else "DICOM of another kind"
    return suffix or "without suffix"
