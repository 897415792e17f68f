"""Files of one bare PyTorch tensor: what they hold is looked at without running anything that they say.

A `.pt` is a pickle, which can name any function of any package. `torch.load(weights_only=True)` calls only those that
make tensors; whether a file holds a tensor at all is seen in the text of the pickle, before anything is made of it.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from parfocal.errors import StoreError
from parfocal.files import check_permission

if TYPE_CHECKING:
    from torch import Tensor

_TENSORS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
# How torch.save began files before it wrote zip archives (torch 1.6): a pickle of this number.
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BEFORE_ZIP = 3  # the number, a version, and facts of the machine
_LARGEST_PICKLE = 1 << 20
# What torch, pickle and zipfile raise on files that are cut, damaged or something else.
_FOREIGN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def holds_tensor(path: Path) -> bool:
    """Whether a file is one bare tensor; nothing is unpickled, and no rows are read.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _first_global(_pickle(file)) in _TENSORS
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, NotImplementedError):
            return False


def read_tensor(path: Path, remedy: str) -> Float[np.ndarray, "tile dim"]:
    """The rows of a bare tensor; a leading axis of one does not count.

    Raises:
        StoreError: the file is absent, damaged, or anything else than a tensor (N, D) of floats.
    """
    array = read_array(path, remedy)
    return array.reshape(_rows_of(array.shape, path, remedy))


def look_at_tensor(path: Path, remedy: str) -> tuple[int, int, bool]:
    """How many rows a bare tensor has, how wide they are, and whether they are float16; they stay on disk.

    Raises:
        StoreError: the file is absent, damaged, or anything else than a tensor (N, D) of floats.
    """
    shape, n_bytes = look_at_array(path, remedy)
    return *_rows_of(shape, path, remedy), n_bytes == 2


def _rows_of(shape: tuple[int, ...], path: Path, remedy: str) -> tuple[int, int]:
    rows = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(rows) != 2 or rows[1] == 0:
        raise StoreError(f"cannot use {path}: its tensor is {shape}; expected are rows (N, D). {remedy}")
    return rows[0], rows[1]


def read_array(path: Path, remedy: str) -> Float[np.ndarray, "..."]:
    """A bare tensor of any number of axes.

    Raises:
        StoreError: the file is absent, damaged, or anything else than a tensor of floats.
    """
    import torch  # most runs have no such file, and importing it takes seconds

    with _opened(path, remedy) as tensor:
        # numpy has no bfloat16; float32 holds all of its values.
        array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()
        return array


def look_at_array(path: Path, remedy: str) -> tuple[tuple[int, ...], int]:
    """The shape of a bare tensor, and the bytes of a value as it is read; its values stay on disk.

    Raises:
        StoreError: the file is absent, damaged, or anything else than a tensor of floats.
    """
    import torch

    with _opened(path, remedy) as tensor:
        return tuple(tensor.shape), 4 if tensor.dtype == torch.bfloat16 else tensor.dtype.itemsize


@contextmanager
def _opened(path: Path, remedy: str) -> "Iterator[Tensor]":
    """The tensor of a file, whose values are read as they are asked for."""
    import torch

    try:
        if not holds_tensor(path):
            raise StoreError(
                f"cannot use {path}: it is no file of one tensor, and nothing else is unpickled, as a pickle may run "
                "any program. Save the rows alone (torch.save(rows, path)), or leave it out."
            )
        # Files of before zip archives cannot be mapped.
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)).detach()
        if tensor.layout != torch.strided or not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1:
            raise StoreError(f"cannot use {path}: its tensor is {tensor.dtype}; expected are floats. {remedy}")
        if tensor.numel() * tensor.dtype.itemsize > tensor.untyped_storage().nbytes():
            raise StoreError(f"cannot use {path}: its tensor repeats fewer values than it has. {remedy}")
        yield tensor
    except FileNotFoundError as error:
        raise StoreError(f"cannot read {path}: it is absent. {remedy}") from error
    except _FOREIGN as error:
        check_permission(error, path)
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"cannot read {path}: it is damaged or no file of one tensor ({text}). {remedy}") from error


def write_tensor(rows: np.ndarray, path: Path) -> None:
    """Save a bare tensor, as torch.save does."""
    import torch

    buffer = BytesIO()
    torch.save(torch.from_numpy(rows), buffer)
    path.write_bytes(buffer.getvalue())


def _pickle(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]:
    """The steps of the pickle that says what is saved."""
    start = file.read(len(_MAGIC))
    file.seek(0)
    if start == _MAGIC:
        for _ in range(_BEFORE_ZIP):
            for _step in pickletools.genops(file):
                pass
        return pickletools.genops(file)
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
        if archive.getinfo(name).file_size > _LARGEST_PICKLE:
            raise ValueError("a pickle of a tensor has a few hundred bytes")
        return pickletools.genops(archive.read(name))


def _first_global(steps: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]) -> str | None:
    """What the pickle calls first, which for a bare tensor makes the whole of it; None where it begins otherwise."""
    texts: list[object] = []
    for step, value, _ in steps:
        if step.name == "GLOBAL" and isinstance(value, str):
            module, _, name = value.partition(" ")
            return name if module == "torch._utils" else None
        if step.name == "STACK_GLOBAL":
            return str(texts[-1]) if texts[-2:-1] == ["torch._utils"] else None
        if step.name in {"SHORT_BINUNICODE", "BINUNICODE"}:
            texts.append(value)
        elif step.name not in {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT"}:
            return None
    return None
