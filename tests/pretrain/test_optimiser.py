from pathlib import Path

import pytest
import torch
from torch import nn

from parfocal.pretrain import PretrainSettings, pretrain_encoder, read_metrics
from parfocal.pretrain.optimiser import MuonAdamW, new_optimizer
from parfocal.run.events import Event, Progress

from .conftest import MakeSet


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_all_singular_values_of_a_step_become_alike_and_the_vectors_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(shape[0], 24, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], 24, generator=generator, dtype=torch.float64))
    layer = nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = (u * torch.logspace(0, -2, 24, dtype=torch.float64)) @ v.T

    MuonAdamW(layer, lr=1.0, weight_decay=0.0).step()
    found = -u.T @ layer.weight.detach() @ v / (0.2 * max(shape) ** 0.5)

    # The quintic's range; what is left off the diagonal is rounding of bfloat16, in which torch iterates.
    assert float(found.diagonal().min()) > 0.65
    assert float(found.diagonal().max()) < 1.25
    assert (found - found.diagonal().diag()).abs().max() < 0.06


def former_steps(weights: list[torch.Tensor], gradients: list[list[torch.Tensor]], *, lr: float, decay: float) -> dict:
    """What this package did before torch had Muon, written down again: one matrix, then one vector; and its state."""
    matrix, vector = (one.clone() for one in weights)
    momentum, first, second = torch.zeros_like(matrix), torch.zeros_like(vector), torch.zeros_like(vector)
    for number, (of_matrix, of_vector) in enumerate(gradients, start=1):
        matrix *= 1 - lr * decay
        momentum.lerp_(of_matrix, 0.05)
        ahead = of_matrix.lerp(momentum, 0.95)
        x = (ahead if len(ahead) <= ahead.shape[1] else ahead.T).double()
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x if len(ahead) <= ahead.shape[1] else x.T
        matrix -= lr * 0.2 * max(matrix.shape) ** 0.5 * x.float()
        first.lerp_(of_vector, 0.1)
        second.mul_(0.999).addcmul_(of_vector, of_vector, value=0.001)
        spread = (second / (1 - 0.999**number)).sqrt() + 1e-8
        vector -= lr / (1 - 0.9**number) * first / spread
    groups = [
        {"lr": lr, "weight_decay": decay, "orthogonal": True, "params": [0]},
        {"lr": lr, "weight_decay": 0.0, "orthogonal": False, "params": [1]},
    ]
    of_vector = {"step": torch.tensor(float(len(gradients))), "first": first, "second": second}
    state = {"state": {0: {"momentum": momentum}, 1: of_vector}, "param_groups": groups}
    return {"weights": [matrix, vector], "state": state}


def test_steps_are_those_of_before_torch_had_muon_and_a_run_from_then_goes_on() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(40, 24)
    start = [one.detach().clone() for one in (layer.weight, layer.bias)]
    gradients = [[torch.randn(one.shape, generator=generator) for one in start] for _ in range(8)]
    before = former_steps(start, gradients[:5], lr=0.02, decay=0.1)
    expected = former_steps(start, gradients, lr=0.02, decay=0.1)["weights"]

    def step_on(optimizer: MuonAdamW, some: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        for one in some:
            layer.weight.grad, layer.bias.grad = one
            optimizer.step()
        return [layer.weight.detach().clone(), layer.bias.detach().clone()]

    whole = step_on(MuonAdamW(layer, lr=0.02, weight_decay=0.1), gradients)
    with torch.no_grad():
        layer.weight.copy_(before["weights"][0])
        layer.bias.copy_(before["weights"][1])
    resumed = MuonAdamW(layer, lr=1.0, weight_decay=1.0)
    resumed.load_state_dict(before["state"])

    for moved in (whole, step_on(resumed, gradients[5:])):
        # torch iterates in bfloat16, of which three digits are left; weights moved by about 0.1.
        assert torch.allclose(moved[0], expected[0], atol=2e-3)
        assert torch.allclose(moved[1], expected[1], atol=1e-6)


def test_a_step_of_a_matrix_has_the_size_that_adamw_would_give_it() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    before = layer.weight.detach().clone()
    optimizer = MuonAdamW(layer, lr=0.01, weight_decay=0.0)
    layer(torch.randn(100, 64)).square().sum().backward()
    optimizer.step()

    # Liu et al. 2025: the numbers of AdamW's steps have a root mean square of 0.2 to 0.4 learning rates.
    moved = (layer.weight.detach() - before).square().mean().sqrt() / 0.01
    assert 0.14 < float(moved) < 0.25


def test_what_is_no_matrix_moves_as_with_adamw() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    # A map from four numbers is too small to have a spectrum, so all of it is AdamW's; without decay both are one.
    mine = MuonAdamW(layers[0], lr=0.02, weight_decay=0.3)
    its = torch.optim.AdamW(layers[1].parameters(), lr=0.02, weight_decay=0.0)
    rows = torch.randn(30, 4)
    for _ in range(5):
        for layer, optimizer in zip(layers, (mine, its), strict=True):
            optimizer.zero_grad()
            (layer(rows) - 1).abs().sum().backward()
            optimizer.step()

    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_matrices_decay_and_a_closure_is_refused() -> None:
    layer = nn.Linear(32, 32)
    before = layer.weight.detach().clone()
    optimizer = MuonAdamW(layer, lr=0.1, weight_decay=0.5)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()

    assert torch.allclose(layer.weight.detach(), 0.95 * before)
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


def test_weak_directions_are_learnt_sooner_than_with_adamw() -> None:
    """A linear map of inputs whose variance falls as k^-2, as that of embeddings does; the weakest quarter of them."""
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    truth, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    scale = torch.arange(1, 33) ** -1.0

    def left(name: str) -> float:
        layer = nn.Linear(32, 32, bias=False)
        nn.init.zeros_(layer.weight)
        settings = PretrainSettings(optimizer=name, weight_decay=0.0)
        optimizer = new_optimizer(layer, settings, device=torch.device("cpu"))
        draws = torch.Generator().manual_seed(1)
        for step in range(100):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - step / 100)
            x = torch.randn(128, 32, generator=draws) * scale @ rotation.T
            noise = 0.1 * torch.randn(128, 32, generator=draws)
            optimizer.zero_grad()
            (layer(x) - x @ truth.T + noise).square().mean().backward()
            optimizer.step()
        wrong = ((layer.weight.detach() - truth) @ rotation)[:, 24:]
        return float(wrong.square().sum() / 8)  # the truth's columns have length 1

    assert left("muon") < 0.3 * left("adamw")


def test_a_run_with_muon_learns_and_resumes_exactly(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((12,) * 3, dim=24, mpps=(2.0, 1.0))
    settings = PretrainSettings(
        size="T",
        steps=8,
        batch=8,
        lr=2e-2,
        optimizer="muon",
        precision="float32",
        monitor_regions=8,
        log_every=2,
        monitor_every=8,
        checkpoint_every=4,
    )
    pretrain_encoder(tiles, tmp_path / "whole", settings)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_encoder(tiles, tmp_path / "parts", settings, on_event=stop)
    pretrain_encoder(tiles, tmp_path / "parts", settings)
    losses = [[row["loss"] for row in read_metrics(tmp_path / one / "metrics.csv")] for one in ("whole", "parts")]

    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
