"""The decoder: each question is answered for itself, and only from what is there."""

import math
from dataclasses import replace

import pytest
import torch

from parfocal.region_encoder.attention import attend_fused, attend_stepwise
from parfocal.region_encoder.position import NearnessBias

from .toy import DIM, batch_of, model_of


def test_the_answer_does_not_depend_on_what_else_is_asked() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(4, absent=0.4)
    encoded = model.encoder.encode(tokens, xy, mpp, present)

    everything = model.decode(encoded, present, xy, mpp)
    one = model.decode(encoded, present, xy[:, 6:7], mpp[:, 6:7])

    torch.testing.assert_close(one.mean, everything.mean[:, 6:7], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.log_variance, everything.log_variance[:, 6:7], atol=1e-5, rtol=1e-5)


def test_questions_that_are_not_asked_have_no_answer_and_no_influence() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(4, absent=0.4)
    encoded = model.encoder.encode(tokens, xy, mpp, present)
    asked = torch.rand(4, 21, generator=torch.Generator().manual_seed(5)) < 0.4
    nan = float("nan")
    poisoned = xy.masked_fill(~asked[..., None], nan), mpp.masked_fill(~asked, nan)

    some = model.decode(encoded, present, *poisoned, query_present=asked)
    everything = model.decode(encoded, present, xy, mpp)

    torch.testing.assert_close(some.mean[asked], everything.mean[asked], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some.log_variance[asked], everything.log_variance[asked], atol=1e-5, rtol=1e-5)
    assert not some.mean[~asked].any()


@pytest.mark.parametrize("bias", ["none", "nearness"])
def test_absent_memory_is_not_read(bias: str) -> None:
    model = model_of(decoder_bias=bias)
    tokens, xy, mpp, present = batch_of(4, absent=0.4)
    encoded = model.encoder.encode(tokens, xy, mpp, present)
    nan = float("nan")
    poisoned = replace(
        encoded,
        tokens=encoded.tokens.masked_fill(~present[..., None], nan),
        xy_um=xy.masked_fill(~present[..., None], nan),
        mpp=mpp.masked_fill(~present, 0.0),
    )

    assert torch.equal(model.decode(poisoned, present, xy, mpp).mean, model.decode(encoded, present, xy, mpp).mean)


def test_the_bottleneck_sees_the_region_only_through_cls_and_registers() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(2)
    encoded = model.encoder.encode(tokens, xy, mpp, present)
    blank = replace(encoded, tokens=torch.zeros_like(encoded.tokens))

    through = model.decode(encoded, present, xy, mpp, bottleneck=True)

    assert torch.equal(model.decode(blank, present, xy, mpp, bottleneck=True).mean, through.mean)
    assert not torch.allclose(model.decode(encoded, present, xy, mpp).mean, through.mean)


def test_from_the_start_a_question_looks_at_what_lies_over_and_beside_its_place() -> None:
    torch.manual_seed(0)
    bias = NearnessBias(4, 2, tile_px=224, unit_um=112.0)
    torch.nn.init.zeros_(bias.out.weight)
    torch.nn.init.zeros_(bias.out.bias)
    # Asked: a 20x tile. Seen: the 5x tile over it, its neighbour at 20x, the 20x tile in the far corner.
    asked = torch.tensor([[[-168.0, -168.0]]]), torch.tensor([[0.5]])
    seen = torch.tensor([[[0.0, 0.0], [-56.0, -168.0], [168.0, 168.0]]]), torch.tensor([[2.0, 0.5, 0.5]])

    found = bias(*asked, *seen)[0, :, 0]

    # By hand: 168 um are log2(2.5) steps along either axis, one tile is 1, 336 um are 2; what overlaps counts 4 more.
    first = [0.0, 0.0, 4 - 2 * math.log2(2.5), -1.0, -4.0]
    torch.testing.assert_close(found, 0.5 ** torch.arange(4)[:, None] * torch.tensor(first))


def test_only_a_decoder_that_knows_what_is_near_asks_where_the_visible_tiles_lie() -> None:
    for bias, knows in (("none", False), ("nearness", True)):
        model = model_of(decoder_bias=bias)
        tokens, xy, mpp, present = batch_of(2)
        encoded = model.encoder.encode(tokens, xy, mpp, present)
        moved = replace(encoded, xy_um=xy.flip(1))
        asked = xy[:, 6:8] + 20.0, mpp[:, 6:8]

        first, second = (model.decode(one, present, *asked).mean for one in (encoded, moved))

        assert torch.allclose(first, second) is not knows
        through = [model.decode(one, present, *asked, bottleneck=True).mean for one in (encoded, moved)]
        assert torch.equal(*through)


def test_each_magnification_is_answered_in_its_own_width() -> None:
    model = model_of(encoders=("coarse", "fine", "fine"), dims=(17, DIM, DIM))
    tokens, xy, mpp, present = batch_of(2)
    decoded = model.decode(model.encoder.encode(tokens, xy, mpp, present), present, xy, mpp)

    assert not decoded.mean[:, 0, 17:].any()
    assert decoded.mean[:, 0, :17].all()
    assert decoded.mean[:, 1:].all()


def test_a_magnification_between_two_is_answered_by_the_nearest() -> None:
    model = model_of()
    with torch.no_grad():
        for k, output in enumerate(model.decoder.outputs):
            output.weight.zero_()
            output.bias.fill_(float(k))
    encoded = model.encoder.encode(*batch_of(1))
    asked = torch.tensor([[3.0, 1.5, 1.4, 0.75, 0.6]])

    decoded = model.decode(encoded, torch.ones(1, 21, dtype=torch.bool), torch.zeros(1, 5, 2), asked)

    assert decoded.mean[0, :, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("bias", ["none", "nearness"])
def test_gradients_are_right(bias: str) -> None:
    model = model_of(width=8, depth=1, heads=2, dims=(3, 3, 3), registers=1, decoder_depth=1, decoder_bias=bias)
    model = model.double()
    _, xy, mpp, present = batch_of(2, absent=0.7)
    memory = torch.randn(2, 23, 8, dtype=torch.float64, requires_grad=True)
    there, places = torch.cat([present.new_ones(2, 2), present], dim=1), (xy.double(), mpp.double())
    asked = ~present

    def run(memory: torch.Tensor) -> tuple[torch.Tensor, ...]:
        decoded = model.decoder(memory, there, *places, *places, asked)
        return decoded.mean, decoded.log_variance

    assert torch.autograd.gradcheck(run, (memory,), fast_mode=True)


@pytest.mark.parametrize("keys", [7, 19])
@pytest.mark.parametrize("with_bias", [True, False])
def test_both_ways_of_attention_are_the_same_function(with_bias: bool, keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 5, 2, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 3, keys, 2, 8, generator=generator, dtype=torch.float64).unbind(0)
    bias = torch.randn(3, 2, 5, keys, generator=generator, dtype=torch.float64) if with_bias else None

    stepwise, fused = attend_stepwise(query, key, value, bias), attend_fused(query, key, value, bias)

    torch.testing.assert_close(stepwise.values, fused.values)
    torch.testing.assert_close(stepwise.cls_weights, fused.cls_weights)
    torch.testing.assert_close(fused.cls_weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
