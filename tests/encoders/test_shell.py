import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from parfocal.encoders import load_tile_encoder
from parfocal.encoders.preset import PRESETS
from parfocal.encoders.shell import ShellBackbone, stain_image
from parfocal.encoders.weights import package_file
from parfocal.errors import EncoderError

Tiles = Callable[..., np.ndarray]
SLIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides" / "cmu-1-small-region.svs"
needs_wheel = pytest.mark.skipif(importlib.util.find_spec("shell") is None, reason="lavlab-shell is not installed")


@pytest.fixture(scope="module")
def real_tiles() -> np.ndarray:
    """Three tiles of a real section: epithelium, stroma, and the edge of the tissue."""
    openslide = pytest.importorskip("openslide")
    if not SLIDE.is_file():
        pytest.skip(f"{SLIDE} is not here")
    with openslide.OpenSlide(str(SLIDE)) as slide:
        places = ((1000, 700), (1200, 900), (780, 2000))
        return np.stack([np.array(slide.read_region(place, 0, (224, 224)).convert("RGB")) for place in places])


def published_image(tile: np.ndarray) -> np.ndarray:
    """Eosin, haematoxylin and optical density of one tile (3, y, x), step by step as Macenko's paper has it."""
    density = -np.log10(np.clip(tile.astype(np.float64), 1, 240) / 240)
    pixels = density[::2, ::2].reshape(-1, 3)
    plane = np.linalg.svd(pixels, full_matrices=False)[2][:2]
    plane[0] *= np.sign(plane[0].sum())
    flat = pixels @ plane.T
    flat = flat[np.hypot(*flat.T) > 0.15]
    angles = np.percentile(np.arctan2(flat[:, 1], flat[:, 0]), (1, 99))
    one, other = (np.array([np.cos(angle), np.sin(angle)]) @ plane for angle in angles)
    # Eosin takes more green and less red than haematoxylin.
    eosin, haematoxylin = (one, other) if one[0] < other[0] else (other, one)
    third = np.cross(eosin, haematoxylin)
    amounts = density @ np.linalg.inv(np.stack([eosin, haematoxylin, third], axis=1)).T
    channels = np.stack([amounts[..., 0], amounts[..., 1], density.mean(axis=2)])
    low, high = np.percentile(channels[:, ::2, ::2], (1, 99), axis=(1, 2))[..., None, None]
    return np.clip((channels - low) / (high - low), 0, 1).astype(np.float32)


@needs_wheel
def test_rows_are_those_of_the_published_graph(real_tiles: np.ndarray) -> None:
    # Independent: onnxruntime runs the wheel's own graph, cut at the map that its decoder starts from.
    ort: Any = pytest.importorskip("onnxruntime")
    preset = PRESETS["shell"]
    model = onnx.load(package_file(preset.packages[0], preset.files[0], encoder="shell", install=preset.install))
    bottleneck = next(node.input[0] for node in model.graph.node if "up_samples.0.0.conv.weight" in node.input)
    model.graph.output.append(helper.make_tensor_value_info(bottleneck, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = session.run([bottleneck], {"input": np.stack([published_image(tile) for tile in real_tiles])})[0]
    expected = np.concatenate([maps.mean(axis=(2, 3)), maps.std(axis=(2, 3))], axis=1)

    encoder = load_tile_encoder("shell", dtype="float32")
    rows = encoder.encode(real_tiles)

    assert (encoder.dim, encoder.tile_px, encoder.trained_mpps) == (256, 224, (1.0,))
    assert rows.shape == expected.shape == (3, 256)
    # Rows reach about 5; float32 against float64 moves a percentile, and with it the image, by 1e-5 or so.
    np.testing.assert_allclose(rows, expected, atol=0.01)


@needs_wheel
def test_half_precision_stays_close_to_full(real_tiles: np.ndarray) -> None:
    full = load_tile_encoder("shell", dtype="float32").encode(real_tiles)
    half = load_tile_encoder("shell", dtype="bfloat16").encode(real_tiles)

    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("colour", [(255, 255, 255), (243, 243, 243), (0, 0, 0), (150, 80, 160)])
def test_a_tile_of_one_colour_has_a_finite_row(colour: tuple[int, int, int]) -> None:
    encoder = load_tile_encoder("shell,random=0", dtype="float32")

    rows = encoder.encode(np.full((2, 224, 224, 3), colour, dtype=np.uint8))

    assert np.isfinite(rows).all()
    assert (rows[:, 128:] >= 0).all()  # standard deviations


def test_the_batch_does_not_matter(tiles: Tiles) -> None:
    encoder = load_tile_encoder("shell,random=0", dtype="float32")
    batch = tiles(3)

    # Matrix products of another size round otherwise.
    np.testing.assert_allclose(encoder.encode(batch)[1:2], encoder.encode(batch[1:2]), atol=1e-4)


def test_a_stronger_stain_gives_the_same_image(tiles: Tiles) -> None:
    # Twice the optical density of every pixel: what Macenko's vectors and the percentiles take out.
    pale = torch.from_numpy(tiles(1)).permute(0, 3, 1, 2) / 255 * 0.3 + 0.3
    strong = pale**2 * 255 / 240

    torch.testing.assert_close(stain_image(pale), stain_image(strong), atol=1e-3, rtol=0)


def test_weights_come_from_a_model_in_its_own_order(tmp_path: Path, tiles: Tiles) -> None:
    backbone = ShellBackbone()
    path = tmp_path / "model.onnx"
    weights = [value.numpy().copy() for value in backbone.state_dict().values()]
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.1, weight.shape).astype(np.float32) for weight in weights]
    write_model(path, weights)

    encoder = load_tile_encoder(f"shell,checkpoint={path}", dtype="float32")
    backbone.load_state_dict(dict(zip(backbone.state_dict(), map(torch.from_numpy, weights), strict=True)))
    with torch.inference_mode():
        maps = backbone.features(torch.from_numpy(tiles(2)).permute(0, 3, 1, 2) / 255).flatten(2)

    expected = torch.cat([maps.mean(dim=2), maps.std(dim=2, correction=0)], dim=1)
    np.testing.assert_allclose(encoder.encode(tiles(2)), expected.numpy(), atol=1e-3)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_model(path, [np.zeros((16, 3, 5, 5), np.float32)])

    with pytest.raises(EncoderError, match=r"other weights than model_v1.onnx of lavlab-shell 0.9.1"):
        load_tile_encoder(f"shell,checkpoint={path}")
    with pytest.raises(EncoderError, match=r"no file of weights .*absent.onnx"):
        load_tile_encoder(f"shell,checkpoint={tmp_path / 'absent.onnx'}")


def write_model(path: Path, weights: list[np.ndarray]) -> None:
    """A chain of operators over the weights, with their names shuffled and the larger ones beside the model."""
    names = [f"w{len(weights) - number}" for number in range(len(weights))]
    kinds = ["Conv" if weight.ndim == 4 else "Mul" for weight in weights]
    nodes = [
        helper.make_node(kind, [f"x{number}", name], [f"x{number + 1}"])
        for number, (kind, name) in enumerate(zip(kinds, names, strict=True))
    ]
    tensors = [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x0", f"x{len(weights)}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors[::-1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=512)
