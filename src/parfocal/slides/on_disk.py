"""What lies at a path, before anything is read, and which files a slide consists of.

A link that leads nowhere and a pipe are told and not waited for. Some formats keep the pixels beside the file that is
opened.
"""

import os
import stat
from pathlib import Path

from parfocal.addresses import address_of
from parfocal.errors import UnreadableSlideError
from parfocal.slides.dicom import dicom_series
from parfocal.slides.ome_zarr import is_ome_zarr
from parfocal.slides.remote import remote_exists, remote_state

# Text that names the other files, one of them a line; it is a few KiB long.
_LISTS = {".vms", ".vmu"}
_LIST_BYTES = 1 << 20


def real_path(path: Path) -> Path:
    """The path without links; of a link that leads nowhere or back to itself the place where it stops.

    An address is no path of a disk and stays what it is.
    """
    if address_of(path):
        return path
    return Path(os.path.realpath(path))


def path_problem(path: Path) -> str | None:
    """Why there is no file to read at `path`, as a clause that begins with `it`; None where there is one."""
    address = address_of(path)
    if address is not None:
        try:
            remote_state(address)
        except UnreadableSlideError as error:
            return f"it cannot be reached ({str(error).partition(f'{address}: ')[2].rstrip('.')})"
        return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"it is a dangling link to {os.readlink(path)}"
        return "it does not exist: there is no such file"
    except (OSError, ValueError) as error:
        if path.is_symlink():
            return f"it is a link to {os.readlink(path)} that leads to no file ({_reason(error)})"
        return f"it cannot be reached ({_reason(error)})"
    if stat.S_ISDIR(mode) and is_ome_zarr(path):
        return None
    if stat.S_ISDIR(mode):
        try:
            os.scandir(path).close()
        except OSError as error:
            return f"it is a folder that cannot be searched ({_reason(error)})"
        return "it is a folder; name the slide's file in it"
    if not stat.S_ISREG(mode):
        return "it is a pipe, a socket or a device, not a file"
    return None


def check_openable(path: Path) -> None:
    """Refuse what is no file that can be read, without waiting for it.

    Raises:
        UnreadableSlideError: there is no file, or no permission to read it, or it is at an address.
    """
    if (address := address_of(path)) is not None:
        raise UnreadableSlideError(f"cannot open {address}: it can be read from a disk only; copy it first.")
    problem = path_problem(path)
    if problem is None:
        try:
            with path.open("rb") as file:
                problem = None if file.read(1) else "it is empty; copy the file again"
        except OSError as error:
            problem = f"it cannot be read ({_reason(error)})"
    if problem is not None:
        raise UnreadableSlideError(f"cannot open {path}: {problem}.")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def slide_files(path: Path) -> tuple[Path, ...]:
    """The files of a slide, sorted; for most formats the file itself.

    A DICOM series is all of its files in the folder, an MRXS slide its folder of the same name, and a VMS or VMU slide
    the files that it lists; an OME-Zarr slide all files of its folder. At an address it is one file.
    """
    if address_of(path):
        return (path,)
    if is_ome_zarr(path):
        return tuple(sorted(file for file in path.rglob("*") if file.is_file()))
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        below = path.with_suffix("")
        return tuple(sorted({path, *(file for file in below.rglob("*") if file.is_file())}))
    if suffix in _LISTS:
        return tuple(sorted({path, *_listed(path)}))
    return dicom_series(path)


def slide_bytes(path: Path) -> int:
    """How many bytes the files of a slide have together, wherever they lie."""
    address = address_of(path)
    return remote_state(address).n_bytes if address else sum(file.stat().st_size for file in slide_files(path))


def slide_exists(path: Path) -> bool:
    """Whether a slide's file is there, on a disk or at its address.

    Raises:
        UnreadableSlideError: an address cannot be asked.
    """
    address = address_of(path)
    return remote_exists(address) if address else path.exists()


def _listed(path: Path) -> list[Path]:
    with path.open("rb") as file:
        text = file.read(_LIST_BYTES).decode("latin-1")
    names = [line.partition("=")[2].strip() for line in text.splitlines()]
    return [path.parent / name for name in names if name and (path.parent / name).is_file()]
