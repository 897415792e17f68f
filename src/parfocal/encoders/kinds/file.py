"""`file:PATH`: a network that was exported elsewhere; nothing of its training code is needed.

| suffix | what | run by |
|---|---|---|
| `.onnx` | ONNX | onnxruntime, or OpenVINO with `runtime=openvino` |
| `.xml` | OpenVINO | OpenVINO |
| `.pt2` | exported program (`torch.export.save`) | torch |
| `.pt`, `.pth`, `.ts` | TorchScript (`torch.jit.save`) | torch |

It takes float32 images (tile, 3, y, x), normalised as `norm=` says, or with `input=uint8` the tiles as they are
(tile, y, x, 3); its first output is (tile, dim).

The weights of an ONNX model may lie outside of it, at paths that the model names. To find which files it reads, the
model is read as what it is, nested messages of numbered fields (protocol buffers), as far as tensors can lie in it;
the package `onnx` is not needed.
"""

import hashlib
import importlib
import importlib.util
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import cv2
import numpy as np

from parfocal.encoders.base import CalledEncoder, TileEncoder
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.encoders.loading import NORMALISATIONS, Normalisation, first_line, read_normalisation
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


def _fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
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


def _number(content: mmap.mmap, place: int, stop: int) -> tuple[int, int]:
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


# The images of one call, in the file's own layout, to its first output.
Run = Callable[[np.ndarray], np.ndarray]
CHUNK = 64
RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "export", ".pt": "torchscript", ".ts": "torchscript"}
RUNTIMES[".pth"] = RUNTIMES[".pt"]


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    """The encoder of a `file:` spec.

    Raises:
        EncoderError: the file is absent, of an unknown kind, or what runs it is not installed.
    """
    path = Path(spec.target)
    if not path.is_file():
        raise EncoderError(f"cannot load {spec.text}: there is no file {path}.")
    suffix = path.suffix.lower()
    runtime = RUNTIMES.get(suffix)
    if runtime is None:
        raise EncoderError(f"cannot load {path}: its suffix is none of {', '.join(RUNTIMES)}. Rename or export it.")
    asked = spec.options.get("runtime", runtime)
    if asked != runtime and (runtime, asked) != ("onnxruntime", "openvino"):
        raise EncoderError(f"cannot load {spec.text}: a {path.suffix} file is run by {runtime}, not by {asked}.")
    if asked != "openvino" and dtype not in ("auto", "float32"):
        raise EncoderError(f"cannot load {spec.text} in {dtype}: an exported file keeps the precision it was made in.")
    kind = spec.options.get("input", "float")
    if kind not in ("float", "uint8"):
        raise EncoderError(f"cannot load {spec.text}: input={kind} is neither float nor uint8.")
    if kind == "uint8" and "norm" in spec.options:
        raise EncoderError(f"cannot load {spec.text}: norm= scales a float input, and this one takes bytes. Drop one.")
    normalisation = None if kind == "uint8" else read_normalisation(spec) or NORMALISATIONS["imagenet"]
    beside = external_files(path) if suffix == ".onnx" else ()
    loaders = {"onnxruntime": _load_onnx, "openvino": _load_openvino, "export": _load_torch, "torchscript": _load_torch}
    run, shape = loaders[asked](path, device, dtype)
    # A fixed input shape in the file is (tile, 3, y, x) or (tile, y, x, 3).
    fixed_batch, fixed_side = (shape[0], shape[2]) if len(shape) == 4 else (None, None)
    batch = spec.whole_number("batch") or fixed_batch
    return CalledEncoder(
        _prepared(run, batch, normalisation),
        f"file-{path.stem}",
        spec.text,
        spec.whole_number("tile_px") or fixed_side or 224,
        {
            "file": _digest(path, beside),
            "runtime": asked,
            "input": kind,
            "dtype": "bfloat16" if dtype == "bfloat16" else "float32",
            "normalisation": None if normalisation is None else [list(part) for part in normalisation],
        },
        at_once=batch or CHUNK,
        hints=(
            " A file exported for another side or a fixed batch needs tile_px=... or batch=...; one that takes bytes, "
            "input=uint8.",
            " Export it with its pooling.",
        ),
    )


def _prepared(run: Run, batch: int | None, normalisation: Normalisation | None) -> Run:
    """The network on tiles as they are.

    Args:
        run: on images in the file's own layout.
        batch: how many it takes at once, where that number is fixed in the file.
        normalisation: of the float input; None where it takes bytes.
    """

    def call(tiles: np.ndarray) -> np.ndarray:
        missing = max((batch or 0) - len(tiles), 0)
        # A file of fixed batch: filled up with the last tile, whose extra rows are dropped.
        images = np.concatenate([tiles, np.repeat(tiles[-1:], missing, axis=0)]) if missing else tiles
        if normalisation is not None:
            mean, std = (np.array(part, dtype=np.float32) * 255 for part in normalisation)
            images = np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2))
        rows = run(images)
        return rows[: len(rows) - missing]

    return call


def _load_onnx(path: Path, device: str, dtype: str) -> tuple[Run, tuple[int | None, ...]]:
    ort: Any = _need("onnxruntime", path, "pip install 'parfocal[onnx]'")
    provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise EncoderError(f"cannot run {path} on {device}: onnxruntime has no {provider}. Install onnxruntime-gpu.")
    options = ort.SessionOptions()
    # onnxruntime takes every core by itself; the number that OpenCV may use is what this process was given, and a
    # worker that shares the machine with others has set it.
    options.intra_op_num_threads = max(cv2.getNumThreads(), 1)
    failures: Any = ort.capi.onnxruntime_pybind11_state
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise EncoderError(f"cannot load {path}: onnxruntime cannot read it ({first_line(error)}).") from error
    entry = session.get_inputs()[0]

    def run(images: np.ndarray) -> np.ndarray:
        if (entry.type == "tensor(uint8)") != (images.dtype == np.uint8):
            raise EncoderError(f"cannot run {path}: its input is {entry.type}. Add or drop input=uint8.")
        if entry.type == "tensor(float16)":
            images = images.astype(np.float16)
        try:
            return np.asarray(session.run(None, {entry.name: images})[0])
        except (failures.InvalidArgument, failures.RuntimeException, failures.Fail) as error:
            # These are no RuntimeError of Python's, which is what the caller explains.
            raise RuntimeError(" ".join(str(error).split())) from error

    return run, tuple(side if isinstance(side, int) else None for side in entry.shape)


def _load_openvino(path: Path, device: str, dtype: str) -> tuple[Run, tuple[int | None, ...]]:
    openvino: Any = _need("openvino", path, "pip install openvino")
    if device != "cpu":
        raise EncoderError(f"cannot run {path} on {device}: through OpenVINO it runs on the CPU. Use --device cpu.")
    if dtype == "float16":
        raise EncoderError(f"cannot run {path} in float16: OpenVINO computes in float32 or bfloat16 on a CPU.")
    precision = "bf16" if dtype == "bfloat16" else "f32"
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise EncoderError(f"cannot load {path}: OpenVINO cannot read it ({first_line(error)}).") from error
    shape = compiled.input(0).get_partial_shape()

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(images)[compiled.output(0)])

    return run, tuple(side.get_length() if side.is_static else None for side in shape)


def _load_torch(path: Path, device: str, dtype: str) -> tuple[Run, tuple[int | None, ...]]:
    import torch

    from parfocal.encoders.network import choose_device

    place = choose_device(device)
    if path.suffix.lower() == ".pt2":
        from parfocal.encoders.exported import load_exported

        module: Any = load_exported(path).module().to(place)
    else:
        from parfocal.encoders.exported import load_torchscript

        module = load_torchscript(path, place)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = module(torch.from_numpy(np.require(images, requirements=["C", "W"])).to(place))
            return np.asarray(rows.float().cpu().numpy())

    return run, ()


def _need(package: str, path: Path, install: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise EncoderError(
            f"cannot load {path}: it needs the package {package}, which is not installed. Run: {install}."
        )
    return importlib.import_module(package)


def _digest(path: Path, beside: Sequence[Path]) -> str:
    """Sixteen hexadecimal digits over the file and the files of weights that some formats keep beside it."""
    digest = hashlib.sha256()
    usual = (path, path.with_name(path.name + ".data"), *([path.with_suffix(".bin")] if path.suffix == ".xml" else ()))
    for part in dict.fromkeys((*usual, *beside)):
        if part.is_file():
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


FILE = EncoderKind(
    "file",
    _load,
    options={"tile_px": True, "norm": True, "input": True, "batch": True, "runtime": True},
    target="path",
    runs_on_devices=True,
)
