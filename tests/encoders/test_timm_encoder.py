from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from parfocal.encoders import EncoderSpec, load_tile_encoder
from parfocal.encoders.network import CHUNK, Backbone, NetworkEncoder, choose_device
from parfocal.errors import EncoderError

Tiles = Callable[..., np.ndarray]


def test_a_network_saved_to_disk_gives_what_timm_gives(tmp_path: Path, tiles: Tiles) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "network.pth")
    batch = tiles(3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.from_numpy(batch).float() / 255 - mean) / std
    with torch.inference_mode():
        expected = network(images.permute(0, 3, 1, 2)).numpy()

    encoder = load_tile_encoder(f"timm:resnet10t,checkpoint={tmp_path / 'network.pth'}", dtype="float32")

    np.testing.assert_allclose(encoder.encode(batch), expected, atol=1e-4)
    assert encoder.name == "timm-resnet10t"


def test_random_weights_must_be_asked_for_and_are_named() -> None:
    with pytest.raises(EncoderError, match="say once which weights"):
        load_tile_encoder("timm:resnet18")
    with pytest.raises(EncoderError, match="say once which weights"):
        load_tile_encoder("timm:resnet18,random=0,pretrained")

    first, again = (load_tile_encoder("timm:test_resnet,random=0") for _ in range(2))
    other = load_tile_encoder("timm:test_resnet,random=1")

    assert first.describe()["random"] == 0
    assert first.digest == again.digest != other.digest


def test_loading_leaves_torch_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_tile_encoder("timm:test_resnet,random=0")

    assert torch.equal(torch.rand(1), expected)


def test_a_row_does_not_depend_on_its_batch(tiles: Tiles) -> None:
    encoder = load_tile_encoder("timm:test_resnet,random=0", dtype="float32")
    batch = tiles(4)

    # Other batch sizes may take other kernels: float32 rounding.
    np.testing.assert_allclose(encoder.encode(batch)[2:3], encoder.encode(batch[2:3]), atol=1e-4)
    assert encoder.encode(batch[:0]).shape == (0, 96)


def test_tiles_that_may_not_be_written_are_taken(tiles: Tiles) -> None:
    batch = tiles(2)
    batch.setflags(write=False)
    encoder = load_tile_encoder("timm:test_resnet,random=0")

    assert np.array_equal(encoder.encode(batch), encoder.encode(batch.copy()))
    assert np.array_equal(encoder.encode(batch[:, ::-1]), encoder.encode(batch[:, ::-1].copy()))


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224", "test_mambaout"])
def test_grid_cells_average_to_the_mean_of_the_map(name: str, tiles: Tiles) -> None:
    batch = tiles(1)
    encoder = load_tile_encoder(f"timm:{name},random=0+grid2", dtype="float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0).eval()
    mean, std = timm.get_pretrained_cfg(name).mean, timm.get_pretrained_cfg(name).std
    images = ((torch.from_numpy(batch).float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        features = network.forward_features(images)[0]
    width = network.num_features
    side = {"test_resnet": 7, "vit_tiny_patch16_224": 14, "test_mambaout": 7}[name]
    grid = features if features.shape[0] != width else features.permute(1, 2, 0)  # channels last
    grid = (grid[1:] if grid.ndim == 2 else grid).reshape(side, side, width).numpy()
    half = (side + 1) // 2
    expected = [grid[rows, columns].mean(axis=(0, 1)) for rows in (slice(half), slice(-half, None))
                for columns in (slice(half), slice(-half, None))]  # fmt: skip

    np.testing.assert_allclose(encoder.encode(batch)[0].reshape(4, -1), expected, atol=1e-4)


def test_another_tile_side_is_built_on_request() -> None:
    encoder = load_tile_encoder("timm:vit_tiny_patch16_224,random=0,tile_px=96")

    assert encoder.encode(np.zeros((1, 96, 96, 3), dtype=np.uint8)).shape == (1, 192)
    with pytest.raises(EncoderError, match="--tile-px 96"):
        encoder.encode(np.zeros((1, 224, 224, 3), dtype=np.uint8))
    with pytest.raises(EncoderError, match="100 px are not a whole number of its 16-px patches"):
        load_tile_encoder("timm:vit_tiny_patch16_224,random=0,tile_px=100")


def test_normalisation_can_be_named_or_given_in_numbers(tiles: Tiles) -> None:
    spec = "timm:resnet10t,random=0,tile_px=64"
    named = load_tile_encoder(f"{spec},norm=half")
    given = load_tile_encoder(f"{spec},norm=0.5/0.5/0.5/0.5/0.5/0.5")

    assert np.array_equal(named.encode(tiles(1, 64)), given.encode(tiles(1, 64)))
    assert named.digest != load_tile_encoder(spec).digest
    with pytest.raises(EncoderError, match="norm=fancy"):
        load_tile_encoder(f"{spec},norm=fancy")


def test_an_unknown_network_lists_close_ones() -> None:
    with pytest.raises(EncoderError, match="Close: resnet"):
        load_tile_encoder("timm:resnet1,random=0")


def test_a_wrong_tag_of_weights_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"nonsense.*Close: resnet18"):
        load_tile_encoder("timm:resnet18.nonsense,random=0")


@pytest.mark.parametrize("device", ["tpu9", "cuda:77", "meta"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(EncoderError, match="device"):
        choose_device(device)


class _Probe(Backbone):
    """Gives the mean colour, and remembers how many tiles came at once."""

    prefix_tokens = 0
    width = 3

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.batches: list[int] = []

    def features(self, images: Tensor) -> Tensor:
        return images

    def pooled(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images.mean(dim=(2, 3)) * self.factor


def _probe_encoder(backbone: Backbone) -> NetworkEncoder:
    return NetworkEncoder(
        backbone,
        EncoderSpec("probe", "timm", "probe"),
        name="probe",
        dim=3,
        tile_px=16,
        normalisation=((0.5, 0.25, 0.0), (0.5, 1.0, 1.0)),
        device="cpu",
        dtype="float32",
    )


def test_huge_batches_go_through_in_parts_and_in_order() -> None:
    backbone = _Probe()
    tiles = np.zeros((2 * CHUNK + 5, 16, 16, 3), dtype=np.uint8)
    tiles[..., 2] = (np.arange(len(tiles)) % 256)[:, None, None]
    rows = _probe_encoder(backbone).encode(tiles)

    assert backbone.batches == [CHUNK, CHUNK, 5]
    np.testing.assert_allclose(rows[:, 2], (np.arange(len(tiles)) % 256) / 255, atol=1e-6)
    # (0 - mean) / std of the two other channels, by hand.
    np.testing.assert_allclose(rows[0, :2], [-1.0, -0.25], atol=1e-6)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"not finite for 2 of 2 tiles.*--encoder-dtype float32"):
        _probe_encoder(_Probe(float("nan"))).encode(np.zeros((2, 16, 16, 3), dtype=np.uint8))
