"""The encoder: what is absent cannot matter, order cannot matter, and a batch is its regions one by one."""

from typing import Any

import pytest
import torch

from parfocal.region_encoder import EncodedRegions, RegionEncoder, RegionEncoderConfig
from parfocal.region_encoder import encoder as encoder_module

from .toy import DIM, batch_of, model_of, raster

VARIANTS: list[dict[str, Any]] = [
    {},
    {"trunk": "separate", "projector": "separate"},
    {"encoders": ("coarse", "fine", "fine"), "dims": (17, DIM, DIM)},
]


def assert_same(a: EncodedRegions, b: EncodedRegions, tolerance: float = 1e-5) -> None:
    for name in ("cls", "registers", "tokens", "cls_weights"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("settings", VARIANTS)
def test_absent_tokens_are_as_if_they_had_never_been_listed(settings: dict[str, Any]) -> None:
    encoder = model_of(**settings).encoder
    tokens, xy, mpp, present = batch_of(7, absent=0.5)

    together = encoder.encode(tokens, xy, mpp, present)

    for r, kept in enumerate(present):
        own = slice(r, r + 1)
        alone = encoder.encode(tokens[own, kept], xy[own, kept], mpp[own, kept], present[own, kept])
        torch.testing.assert_close(together.cls[own], alone.cls, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.registers[own], alone.registers, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.tokens[own, kept], alone.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.cls_weights[own, kept], alone.cls_weights, atol=1e-5, rtol=1e-5)
        assert not together.tokens[r, ~kept].any()


@pytest.mark.parametrize("settings", VARIANTS)
def test_poison_in_absent_tokens_changes_nothing(settings: dict[str, Any]) -> None:
    encoder = model_of(**settings).encoder
    tokens, xy, mpp, present = batch_of(5, absent=0.4)
    nan = float("nan")
    poisoned = (
        tokens.masked_fill(~present[..., None], nan),
        xy.masked_fill(~present[..., None], nan),
        mpp.masked_fill(~present, nan),
    )

    assert_same(encoder.encode(*poisoned, present), encoder.encode(tokens, xy, mpp, present), tolerance=1e-6)


def test_features_beyond_the_width_of_a_magnification_are_not_read() -> None:
    encoder = model_of(encoders=("coarse", "fine", "fine"), dims=(17, DIM, DIM)).encoder
    tokens, xy, mpp, present = batch_of(3)
    other = tokens.clone()
    other[:, 0, 17:] = 1e3  # the first token is the 2 mpp tile

    assert_same(encoder.encode(other, xy, mpp, present), encoder.encode(tokens, xy, mpp, present), tolerance=1e-6)


def test_the_order_of_the_tokens_does_not_matter() -> None:
    encoder = model_of().encoder
    tokens, xy, mpp, present = batch_of(6, absent=0.3)
    order = torch.stack([torch.randperm(21, generator=torch.Generator().manual_seed(r)) for r in range(6)])
    rows = torch.arange(6)[:, None]

    usual = encoder.encode(tokens, xy, mpp, present)
    shuffled = encoder.encode(tokens[rows, order], xy[rows, order], mpp[rows, order], present[rows, order])

    torch.testing.assert_close(shuffled.cls, usual.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.tokens, usual.tokens[rows, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.cls_weights, usual.cls_weights[rows, order], atol=1e-5, rtol=1e-5)


def test_regions_of_different_sizes_in_one_batch_are_as_one_by_one() -> None:
    encoder = model_of().encoder
    small, large, odd = raster(448.0), raster(896.0), raster(336.0, (1.5, 0.75))
    width = len(large[1])
    tokens = torch.randn(3, width, DIM, generator=torch.Generator().manual_seed(1))
    xy, mpp, present = torch.zeros(3, width, 2), torch.ones(3, width), torch.zeros(3, width, dtype=torch.bool)
    for r, (one_xy, one_mpp) in enumerate((small, large, odd)):
        n = len(one_mpp)
        xy[r, :n], mpp[r, :n], present[r, :n] = one_xy, one_mpp, True

    together = encoder.encode(tokens, xy, mpp, present)

    for r, (one_xy, one_mpp) in enumerate((small, large, odd)):
        n = len(one_mpp)
        alone = encoder.encode(tokens[r : r + 1, :n], one_xy[None], one_mpp[None], present[r : r + 1, :n])
        torch.testing.assert_close(together.cls[r], alone.cls[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.tokens[r, :n], alone.tokens[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("absent", [0.0, 0.6])
def test_chunks_change_nothing(absent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = model_of(trunk="separate").encoder
    batch = batch_of(9, absent=absent)
    whole = encoder.encode(*batch)
    monkeypatch.setattr(encoder_module, "_CPU_ROWS", 30)

    assert_same(encoder.encode(*batch), whole)


def test_tiles_at_places_of_their_own_get_the_same_bias_as_tiles_on_a_raster() -> None:
    # With every tile at another place the bias is computed pair by pair instead of looked up in a table.
    encoder = model_of().encoder
    tokens, xy, mpp, present = batch_of(2)
    generator = torch.Generator().manual_seed(3)
    jittered = xy + torch.randn(xy.shape, generator=generator)

    together = encoder.encode(tokens, jittered, mpp, present)
    repeated = encoder.encode(
        tokens.repeat(40, 1, 1), jittered.repeat(40, 1, 1), mpp.repeat(40, 1), present.repeat(40, 1)
    )

    torch.testing.assert_close(repeated.cls[:2], together.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(repeated.tokens[-2:], together.tokens, atol=1e-5, rtol=1e-5)


def test_where_a_tile_lies_and_how_sharp_it_is_changes_the_region() -> None:
    encoder = model_of().encoder
    tokens, xy, mpp, present = batch_of(2)
    usual = encoder.encode(tokens, xy, mpp, present).cls

    swapped = xy.clone()
    swapped[:, [5, 20]] = xy[:, [20, 5]]

    assert (encoder.encode(tokens, swapped, mpp, present).cls - usual).abs().max() > 1e-3
    assert (encoder.encode(tokens, xy, mpp * 1.3, present).cls - usual).abs().max() > 1e-3


def test_a_region_without_any_tile_is_what_the_model_knows_without_looking() -> None:
    encoder = model_of().encoder
    tokens, xy, mpp, present = batch_of(3, absent=0.2)
    present[1] = False
    none = encoder.encode(tokens[:1, :0], xy[:1, :0], mpp[:1, :0], present[:1, :0])

    encoded = encoder.encode(tokens, xy, mpp, present)

    assert torch.isfinite(encoded.cls).all()
    torch.testing.assert_close(encoded.cls[1], none.cls[0], atol=1e-5, rtol=1e-5)


def test_no_region_gives_no_row() -> None:
    encoded = model_of().encoder.encode(*batch_of(0))

    assert encoded.cls.shape == (0, 32)
    assert encoded.tokens.shape == (0, 21, 32)


def test_bfloat16_stays_close_to_float32() -> None:
    # bfloat16 has 8 bits: 0.4 % a rounding, and a few roundings a block.
    encoder = model_of().encoder
    batch = batch_of(16, absent=0.3)
    exact = encoder.encode(*batch)
    rough = encoder.to(torch.bfloat16).encode(*batch)

    assert rough.cls.dtype == torch.float32
    for name in ("cls", "tokens"):
        a, b = getattr(exact, name), getattr(rough, name)
        assert ((a - b).norm() / a.norm()) < 0.03


def test_size_s_has_the_width_depth_and_heads_of_its_name() -> None:
    encoder = RegionEncoder(RegionEncoderConfig.of_size("S", dims=(8, 8, 8)))

    # 6 blocks of 12 w^2 weights; the rest (biases, norms, positions, projector) is small beside them.
    trunk = sum(p.numel() for p in encoder.blocks.parameters())
    assert trunk == pytest.approx(6 * 12 * 384**2, rel=0.01)


def test_drop_path_happens_in_training_only_and_follows_its_generator() -> None:
    encoder = model_of(drop_path=0.6).encoder
    batch = batch_of(12, absent=0.3)
    quiet = encoder(*batch).cls

    encoder.train()
    one, same, other = (encoder(*batch, generator=torch.Generator().manual_seed(s)).cls for s in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, quiet)
    assert torch.allclose(encoder.encode(*batch).cls, quiet, atol=1e-5)
    assert encoder.training


def test_gradients_are_right() -> None:
    encoder = model_of(width=8, depth=1, heads=2, dims=(3, 3, 3), registers=1, trunk="separate").encoder.double()
    tokens, xy, mpp, present = batch_of(2, dim=3, absent=0.8)
    tokens = (0.3 * tokens).double().requires_grad_()
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in encoder.named_parameters()
        if name in {"specials", "relative.out.weight", "relative.tile_to_special", "blocks.0.mlp_scale"}
    }

    def run(tokens: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(leaves, values, strict=True))
        encoded = torch.func.functional_call(encoder, given, (tokens, xy.double(), mpp.double(), present))
        return encoded.cls, encoded.registers, encoded.tokens

    assert torch.autograd.gradcheck(run, (tokens, *leaves.values()), fast_mode=True)


def test_every_weight_gets_a_gradient() -> None:
    encoder = model_of(trunk="separate", projector="separate").encoder.train()
    encoded = encoder(*batch_of(4, absent=0.3))
    (encoded.cls.square().sum() + encoded.registers.square().sum() + encoded.tokens.square().sum()).backward()

    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_autocast_runs_forward_and_backward() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(20, absent=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encoder(tokens, xy, mpp, present)
        decoded = model.decode(encoded, present, xy, mpp)
    decoded.mean.float().square().sum().backward()

    exact = model.encoder.encode(tokens, xy, mpp, present)
    assert (encoded.cls.float() - exact.cls).norm() / exact.cls.norm() < 0.03
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
