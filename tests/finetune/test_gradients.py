"""Gradients by way of the embeddings are those of full back-propagation, in the memory of one chunk."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parfocal.encoders import load_tile_encoder
from parfocal.encoders.network import NetworkEncoder
from parfocal.finetune.gradients import cached_backward
from parfocal.finetune.reading import PreparedRegion, regrouped
from parfocal.finetune.scorer import Layout, Scorer, part_widths
from parfocal.finetune.tuning import Tune, TunedEncoder
from parfocal.heads.finetune import PoolingHead
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig

MPPS = (2.0, 1.0)


def tile_encoder(name: str) -> NetworkEncoder:
    encoder = load_tile_encoder(f"timm:{name},random=0", dtype="float32")
    assert isinstance(encoder, NetworkEncoder)
    return encoder


@pytest.mark.parametrize(
    ("name", "tune"), [("test_efficientnet", "last-stages:2"), ("test_resnet", "last-stages:1"), ("test_vit", "lora:2")]
)
def test_gradients_are_those_of_full_back_propagation(name: str, tune: str) -> None:
    encoder = tile_encoder(name)
    tuned = TunedEncoder(encoder, Tune.of(tune))
    if tune.startswith("lora"):  # with the second matrix at 0 the first one would have no gradient
        for parameter in tuned.trained:
            nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (n, encoder.tile_px, encoder.tile_px, 3), dtype=np.uint8) for n in (3, 2)]
    places = [
        (np.array([(0, 0), (-56, -56), (56, 56)], np.float32), np.array([2, 1, 1], np.float32)),
        (np.array([(0, 0), (56, -56)], np.float32), np.array([2, 1], np.float32)),
    ]
    config = RegionEncoderConfig(width=8, depth=2, heads=2, mpps=MPPS, dims=(encoder.dim,) * 2, layer_scale=1.0)
    torch.manual_seed(0)
    region = RegionEncoder(config)
    width = sum(part_widths(region, "tokens+mixed"))
    scorer = Scorer(region, "tokens+mixed", PoolingHead(width, 1, 1)).double().eval()
    weight = torch.randn(width, dtype=torch.float64)
    # What is prepared (pixels are normalised in float32) is taken as given; all that follows is in float64.
    prepared = [tuned.prepare(part) for part in pixels]
    if tune.startswith("lora"):
        prepared = [encoder.images(part) for part in prepared]
    regions = [PreparedRegion(one.double(), *place) for one, place in zip(prepared, places, strict=True)]
    layout = Layout.of(regions, MPPS, at_places=False)
    encoder.backbone.double()

    def encode(chunk: Tensor) -> Tensor:
        if tuned.tail is None:
            return encoder.read(chunk)
        return tuned.network.forward_head(tuned.tail(chunk), pre_logits=True)  # type: ignore[no-any-return]

    def loss_of(rows: Tensor) -> Tensor:
        return (scorer.vectors(rows, layout) @ weight).sin().mean()

    parameters = [*tuned.trained, *region.parameters()]
    assert tuned.trained
    whole = loss_of(torch.cat([encode(one.tiles) for one in regions]))
    whole.backward()  # type: ignore[no-untyped-call]
    wanted = [None if one.grad is None else one.grad.clone() for one in parameters]
    for one in parameters:
        one.grad = None
    found = cached_backward(encode, lambda: regrouped((one.tiles for one in regions), 2), loss_of)

    assert found.dtype == torch.float64
    assert torch.allclose(found, whole.detach(), rtol=1e-12)
    for one, expected in zip(parameters, wanted, strict=True):
        assert (one.grad is None) == (expected is None)
        if expected is not None and one.grad is not None:
            assert float((one.grad - expected).abs().max()) <= 1e-5 * float(expected.abs().max().clamp(min=1e-12))


@pytest.mark.parametrize("tiles", [50, 2000])
def test_the_graph_holds_one_chunk_however_many_tiles_there_are(tiles: int) -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    given = torch.randn(tiles, 4, generator=torch.Generator().manual_seed(0))
    held: list[int] = []
    alive = 0

    class Counted:
        """A saved tensor, counted while it lives."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive
            self.tensor, self.size = tensor, tensor.numel()
            alive += self.size
            held.append(alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.size

    def read() -> Iterator[Tensor]:
        return iter(given.split(10))

    def encode(chunk: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
            return network(chunk)  # type: ignore[no-any-return]

    cached_backward(encode, read, lambda rows: rows.square().mean())

    # Of a chunk of ten: its input, what the tanh gives (which it and the second product save), and a weight.
    assert max(held) == 10 * (4 + 16 + 16) + 16 * 2
