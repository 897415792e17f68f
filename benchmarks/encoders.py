"""Tiles per second on one core for the encoders that need no hub: `python benchmarks/encoders.py [--seconds 3]`.

Every line is the median over repeated calls of one batch of 32 tiles of 224 px. torch, OpenCV and onnxruntime are
held to one thread, so that the numbers can be multiplied by the cores of a machine that embeds slides side by side.
"""

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from parfocal.encoders import load_tile_encoder
from parfocal.encoders.preset import PRESETS
from parfocal.encoders.timm_encoder import build_timm

BATCH = 32


def tiles_per_second(call: Callable[[], object], seconds: float) -> float:
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return BATCH / statistics.median(times)


def plain_torch(network: nn.Module, tiles: np.ndarray) -> Callable[[], object]:
    """What one writes without care: float32, channels first."""
    images = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous()

    def call() -> object:
        with torch.inference_mode():
            return network((images.float() - 127) / 128)

    return call


def onnx_call(network: nn.Module, tiles: np.ndarray, folder: Path) -> Callable[[], object] | None:
    """The same network through onnxruntime; None where torch's exporter is not installed."""
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(BATCH, 3, 224, 224),),
            str(path),
            input_names=["images"],
            dynamo=False,
            opset_version=17,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(
        None, {"images": np.ascontiguousarray(((tiles.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2))}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each line is measured  [default: 3]")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (BATCH, 14, 14, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    preset = PRESETS["efficientnet-lite0"]
    network = build_timm(preset.architecture, preset.arguments).network.eval()
    calls: dict[str, Callable[[], object] | None] = {
        "filterbank": lambda: load_tile_encoder("filterbank").encode(tiles)
    }
    calls["efficientnet-lite0, plain torch, float32"] = plain_torch(network, tiles)
    for dtype in ("float32", "bfloat16"):
        encoder = load_tile_encoder("efficientnet-lite0", dtype=dtype)
        calls[f"efficientnet-lite0, parfocal, {dtype} channels last"] = lambda encoder=encoder: encoder.encode(tiles)
    with tempfile.TemporaryDirectory() as folder:
        calls["efficientnet-lite0, onnxruntime, float32"] = onnx_call(network, tiles, Path(folder))
        print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, tiles per second:")
        for name, call in calls.items():
            print(f"{name:55s} {'not installed' if call is None else format(tiles_per_second(call, seconds), '.0f')}")


if __name__ == "__main__":
    main()
