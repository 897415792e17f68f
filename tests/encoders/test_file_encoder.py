import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from parfocal.encoders import load_tile_encoder
from parfocal.errors import EncoderError

Tiles = Callable[..., np.ndarray]


class Network(nn.Module):
    """A small convolutional network with a pooled output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 5, 7, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).relu().mean(dim=(2, 3))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network().eval()


def expected_rows(network: Network, tiles: np.ndarray) -> np.ndarray:
    """ImageNet's normalisation written out, then the network itself."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.from_numpy(tiles).float() / 255 - mean) / std
    with torch.inference_mode():
        return network(images.permute(0, 3, 1, 2)).numpy()


def write_onnx(network: Network, path: Path, batch: int | str = "tile") -> Path:
    """The network written node by node, so that no exporter stands between the test and the file."""
    weight, bias = (parameter.detach().numpy() for parameter in network.convolution.parameters())
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight", "bias"], ["map"], strides=[4, 4]),
            helper.make_node("Relu", ["map"], ["positive"]),
            helper.make_node("ReduceMean", ["positive"], ["rows"], axes=[2, 3], keepdims=0),
        ],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 224, 224])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def write_exported(network: Network, path: Path) -> Path:
    tiles = torch.export.Dim("tiles", min=1, max=64)
    program = torch.export.export(network, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: tiles},))
    torch.export.save(program, path)
    return path


def write_torchscript(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        # torch calls TorchScript deprecated; the files that people have stay readable.
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(1, 3, 224, 224)).save(str(path))
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_onnx, "network.onnx"), (write_exported, "network.pt2"), (write_torchscript, "network.pt")],
)
def test_an_exported_network_gives_what_the_network_gives(
    write: Callable[[Network, Path], Path], name: str, network: Network, tmp_path: Path, tiles: Tiles
) -> None:
    encoder = load_tile_encoder(f"file:{write(network, tmp_path / name)}")
    batch = tiles(5)

    assert (encoder.name, encoder.dim, encoder.tile_px) == ("file-network", 5, 224)
    np.testing.assert_allclose(encoder.encode(batch), expected_rows(network, batch), atol=1e-5)
    assert encoder.encode(batch[:0]).shape == (0, 5)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_runs_the_same_file(network: Network, tmp_path: Path, tiles: Tiles) -> None:
    path = write_onnx(network, tmp_path / "network.onnx")
    encoder = load_tile_encoder(f"file:{path},runtime=openvino")

    np.testing.assert_allclose(encoder.encode(tiles(3)), expected_rows(network, tiles(3)), atol=1e-4)
    assert encoder.digest != load_tile_encoder(f"file:{path}").digest


def test_a_file_of_fixed_batch_is_filled_up(network: Network, tmp_path: Path, tiles: Tiles) -> None:
    encoder = load_tile_encoder(f"file:{write_onnx(network, tmp_path / 'four.onnx', batch=4)}")

    np.testing.assert_allclose(encoder.encode(tiles(6)), expected_rows(network, tiles(6)), atol=1e-5)


def test_a_file_that_takes_bytes_gets_bytes(tmp_path: Path, tiles: Tiles) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["tiles"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["rows"], axes=[1, 2], keepdims=0),
        ],
        "bytes",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["tile", 224, 224, 3])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["tile", 3])],
    )
    path = tmp_path / "bytes.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)

    encoder = load_tile_encoder(f"file:{path},input=uint8")

    np.testing.assert_allclose(encoder.encode(tiles(3)), tiles(3).mean(axis=(1, 2)), rtol=1e-5)
    with pytest.raises(EncoderError, match="input=uint8"):
        load_tile_encoder(f"file:{path}")


def test_normalisation_is_the_users_to_say(network: Network, tmp_path: Path, tiles: Tiles) -> None:
    path = write_onnx(network, tmp_path / "network.onnx")
    encoder = load_tile_encoder(f"file:{path},norm=bytes")
    with torch.inference_mode():
        raw = network(torch.from_numpy(tiles(2)).float().permute(0, 3, 1, 2)).numpy()

    np.testing.assert_allclose(encoder.encode(tiles(2)), raw, rtol=1e-4, atol=1e-3)
    assert encoder.digest != load_tile_encoder(f"file:{path}").digest


def test_the_digest_is_of_the_content_and_not_of_the_path(network: Network, tmp_path: Path) -> None:
    first = write_onnx(network, tmp_path / "network.onnx")
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "network.onnx"
    moved.write_bytes(first.read_bytes())
    with torch.no_grad():
        other = Network()
        other.convolution.bias.add_(1)
    (tmp_path / "changed").mkdir()
    changed = write_onnx(other, tmp_path / "changed" / "network.onnx")

    digests = [load_tile_encoder(f"file:{path}").digest for path in (first, moved, changed)]

    assert digests[0] == digests[1] != digests[2]


def test_files_that_cannot_be_used_are_refused_with_the_remedy(network: Network, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf at all")
    (tmp_path / "notes.txt").write_text("")
    path = write_onnx(network, tmp_path / "network.onnx")

    for spec, part in [
        (f"file:{tmp_path / 'absent.onnx'}", "no file"),
        (f"file:{tmp_path / 'notes.txt'}", "suffix is none of"),
        (f"file:{tmp_path / 'broken.onnx'}", "it is no ONNX model"),
        (f"file:{tmp_path / 'weights.pt'}", "timm:NAME,checkpoint="),
        (f"file:{path},tile_px=128", "tile_px="),
        (f"file:{path},runtime=torchscript", "run by onnxruntime"),
        (f"file:{path},input=float16", "neither float nor uint8"),
        (f"file:{path},input=uint8,norm=half", "Drop one"),
        (f"file:{path},norm=imagenette", "not one of imagenet"),
    ]:
        with pytest.raises(EncoderError, match=part):
            load_tile_encoder(spec)
    with pytest.raises(EncoderError, match="keeps the precision"):
        load_tile_encoder(f"file:{path}", dtype="bfloat16")
    with pytest.raises(EncoderError, match="no CUDAExecutionProvider"):
        load_tile_encoder(f"file:{path}", device="cuda")


class MapOnly(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::32, ::32]


def test_a_file_without_pooling_is_refused(tmp_path: Path) -> None:
    path = write_torchscript(MapOnly(), tmp_path / "map.pt")

    with pytest.raises(EncoderError, match=r"output of shape \(1, 3, 7, 7\).*with its pooling"):
        load_tile_encoder(f"file:{path}")
