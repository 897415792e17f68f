"""What lies in an ONNX model: the files of weights beside it, and its weights in the order the network uses them.

The first may lie at any path that the model names. The model is read as what it is, nested messages of numbered fields
(protocol buffers), as far as tensors can lie in it; the package `onnx` is not needed.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from jaxtyping import Float32

from parfocal.errors import EncoderError

# For each message the fields that hold messages in which tensors can lie (onnx.proto).
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 100
# Operators whose inputs are a network's own weights.
_WEIGHTED = (b"Conv", b"Mul", b"Add")


def external_files(path: Path) -> tuple[Path, ...]:
    """The files of weights beside an ONNX model, each once, in the order of their names.

    Raises:
        EncoderError: the file is no ONNX model, or names a file outside its own folder, or one that is not there.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            places = sorted(set(_locations(content, "model", 0, len(content), 0)))
    except (ValueError, IndexError) as error:
        raise EncoderError(f"cannot load {path}: it is no ONNX model ({error}).") from error
    files = []
    for place in places:
        parts = PurePosixPath(place.replace("\\", "/")).parts
        absolute = PurePosixPath(place).is_absolute() or PureWindowsPath(place).drive or place[:1] == "\\"
        if absolute or ".." in parts or not parts:
            raise EncoderError(
                f"cannot load {path}: it reads weights from {place!r}, outside its own folder. Save the model again "
                "with its weights inside, or beside it."
            )
        beside = path.parent / place
        if not beside.is_file():
            raise EncoderError(f"cannot load {path}: its weights {place!r} are not beside it. Copy them too.")
        files.append(beside)
    return tuple(files)


def weights_in_order(path: Path) -> list[Float32[np.ndarray, "number"]]:
    """Every weight of a network's convolutions, scales and shifts, flat, in the order in which the graph uses them.

    Exporters fold normalisations into tensors without a telling name; their order is that of the network.

    Raises:
        EncoderError: as for `external_files`, or the file is cut off.
    """
    beside = {file.name: file.read_bytes() for file in external_files(path)}
    content = path.read_bytes()
    weights: dict[bytes, bytes] = {}
    nodes: list[tuple[bytes, list[bytes]]] = []
    for start, stop in _inside(content, 7, 0, len(content)):
        for first, last in _inside(content, 5, start, stop):
            name, place = _only(content, 8, first, last), _external(content, first, last)
            if place is None:
                weights[name] = _only(content, 9, first, last)
            else:
                file, offset, length = place
                weights[name] = beside[file][offset : offset + length]
        for first, last in _inside(content, 1, start, stop):
            inputs = [content[begin:end] for begin, end in _inside(content, 1, first, last)]
            nodes.append((_only(content, 4, first, last), inputs))
    used = [name for kind, inputs in nodes if kind in _WEIGHTED for name in inputs if name in weights]
    try:
        return [np.frombuffer(weights[name], dtype="<f4") for name in used]
    except ValueError as error:
        raise EncoderError(f"cannot load {path}: its weights are no whole float32 numbers ({error}).") from error


def _inside(content: bytes | mmap.mmap, number: int, start: int, stop: int) -> list[tuple[int, int]]:
    """Where the fields of one number lie in a message."""
    return [(begin, end) for field, begin, end in _fields(content, start, stop) if field == number]


def _only(content: bytes, number: int, start: int, stop: int) -> bytes:
    return b"".join(content[begin:end] for begin, end in _inside(content, number, start, stop))


def _external(content: bytes, start: int, stop: int) -> tuple[str, int, int] | None:
    """File, offset and length in bytes of a tensor that lies outside the model."""
    entries = _inside(content, 13, start, stop)
    if not entries:
        return None
    said = {_only(content, 1, *entry): _only(content, 2, *entry).decode() for entry in entries}
    return said[b"location"], int(said.get(b"offset", "0")), int(said[b"length"])


def _locations(content: mmap.mmap, kind: str, start: int, stop: int, depth: int) -> Iterator[str]:
    """The places of external weights in a message that takes the bytes from `start` to `stop`."""
    if depth > _DEEPEST:
        raise ValueError("its messages are nested too deeply")
    for number, begin, end in _fields(content, start, stop):
        inner = _INSIDE[kind].get(number)
        if inner == "entry":
            entry = {field: content[first:last] for field, first, last in _fields(content, begin, end)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif inner is not None:
            yield from _locations(content, inner, begin, end, depth + 1)


def _fields(content: bytes | mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that have a length: number, first byte, and the one after the last."""
    place = start
    while place < stop:
        tag, place = _number(content, place, stop)
        wire = tag & 7
        if wire == 0:
            _, place = _number(content, place, stop)
            continue
        if wire == 2:
            length, place = _number(content, place, stop)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("a field has no known type")
        if place + length > stop:
            raise ValueError("it ends too early")
        if wire == 2:
            yield tag >> 3, place, place + length
        place += length


def _number(content: bytes | mmap.mmap, place: int, stop: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            raise ValueError("it ends too early")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number in it is too long")
