"""Which files a slide consists of: some formats keep the pixels beside the file that is opened."""

from functools import lru_cache
from pathlib import Path

from parfocal.slides.dicom import read_dicom_header

__all__ = ["slide_files"]

# Text that names the other files, one of them a line; it is a few KiB long.
_LISTS = {".vms", ".vmu"}
_LIST_BYTES = 1 << 20


def slide_files(path: Path) -> tuple[Path, ...]:
    """The files of a slide, sorted; for most formats the file itself.

    A DICOM series is all of its files in the folder, an MRXS slide its folder of the same name, and a VMS or VMU slide
    the files that it lists.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        below = path.with_suffix("")
        return tuple(sorted({path, *(file for file in below.rglob("*") if file.is_file())}))
    if suffix in _LISTS:
        return tuple(sorted({path, *_listed(path)}))
    header = read_dicom_header(path)
    if header is None or not header.series:
        return (path,)
    series = _series_in(path.parent, path.parent.stat().st_mtime_ns).get(header.series, ())
    return tuple(sorted({path, *series}))


def _listed(path: Path) -> list[Path]:
    with path.open("rb") as file:
        text = file.read(_LIST_BYTES).decode("latin-1")
    names = [line.partition("=")[2].strip() for line in text.splitlines()]
    return [path.parent / name for name in names if name and (path.parent / name).is_file()]


@lru_cache(maxsize=4)
def _series_in(folder: Path, mtime_ns: int) -> dict[str, tuple[Path, ...]]:
    """The files of each DICOM series in a folder; a folder of many series is looked through once, while it is as it is.

    `mtime_ns` is the time when a file was last added to the folder or taken away.
    """
    found: dict[str, list[Path]] = {}
    for file in folder.iterdir():
        header = read_dicom_header(file)
        if header is not None and header.series:
            found.setdefault(header.series, []).append(file)
    return {series: tuple(files) for series, files in found.items()}
