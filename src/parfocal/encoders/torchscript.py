"""`.pt`, `.pth`, `.ts`: TorchScript, looked through before torch loads it.

A TorchScript file is a program of its own language, which torch runs, in part while it loads: it cannot reach Python,
but it has operators that read and write files, and objects of classes that other libraries register. A network needs
neither.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from parfocal.encoders.spec_errors import first_line
from parfocal.errors import EncoderError

__all__ = ["load_torchscript"]

_LIBRARIES = frozenset({"aten", "prim", "prims", "quantized", "torchvision"})
_FILES = re.compile(rb"\b(save|load|load_tensor|from_file|read_file|write_file)\s*\(")
_OPERATOR = re.compile(rb"\bops\s*\.\s*(\w+)")
_CLASS = re.compile(rb"torch\.classes\.(\w+)")


def load_torchscript(path: Path, device: torch.device) -> Any:
    """The network in a TorchScript file.

    Raises:
        EncoderError: torch cannot read it, or it holds what a network does not need.
    """
    try:
        reason = _reason_to_refuse(path)
        if reason is None:
            load: Any = torch.jit.load
            with warnings.catch_warnings():
                # torch announces the end of TorchScript; the files that people have must load until it is there.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                return load(str(path), map_location=device).eval()
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise EncoderError(
            f"cannot load {path}: torch cannot read it as an exported network ({first_line(error)}). "
            f"A state_dict is no network: use timm:NAME,checkpoint={path}."
        ) from error
    raise EncoderError(
        f"cannot load {path}: {reason}, which no network needs and which could harm this machine. "
        "Export the network again, best with torch.export.save or as ONNX."
    )


def _reason_to_refuse(path: Path) -> str | None:
    """What is in the file that must not be run; torch's own reader is asked, which is what loads it too."""
    reader = torch._C.PyTorchFileReader(str(path))
    names = reader.get_all_records()
    if "constants.pkl" not in names:
        raise ValueError("it holds no TorchScript")
    for name in names:
        is_code = name.startswith("code/") and name.endswith(".py")
        if not is_code and not name.endswith(".pkl"):
            continue
        content = reader.get_record(name)
        other = {found.decode() for found in _CLASS.findall(content)} - {"quantized"}
        if is_code:
            other |= {found.decode() for found in _OPERATOR.findall(content)} - _LIBRARIES
        if other:
            return f"its {name} uses {min(other)!r}"
        file = _FILES.search(content) if is_code else None
        if file:
            return f"its {name} calls {file[1].decode()}()"
    return None
