"""Readouts: what stands for a region, and what does not."""

from dataclasses import replace

import pytest
import torch

from parfocal.region_encoder import EncodedRegions

from .toy import batch_of, model_of


def test_the_attention_readout_is_cls_and_a_weighted_mean_for_each_magnification() -> None:
    model = model_of()
    encoded = EncodedRegions(
        cls=torch.tensor([[9.0]]),
        registers=torch.zeros(1, 4, 1),
        tokens=torch.tensor([[[1.0], [2.0], [4.0], [8.0]]]),
        cls_weights=torch.tensor([[0.1, 0.1, 0.3, 0.2]]),
        xy_um=torch.zeros(1, 4, 2),
        mpp=(mpp := torch.tensor([[2.0, 1.0, 1.0, 0.5]])),
    )
    present = torch.ones(1, 4, dtype=torch.bool)

    # By hand: (0.1 * 2 + 0.3 * 4) / 0.4 = 3.5
    read = model.encoder.readout(encoded, mpp, present, "attention")

    torch.testing.assert_close(read, torch.tensor([[9.0, 1.0, 3.5, 8.0]]))


def test_a_magnification_without_tokens_takes_what_is_known_of_the_region() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(3)
    present[1, mpp[1] == 1.0] = False
    encoded = model.encoder.encode(tokens, xy, mpp, present)

    read = model.encoder.readout(encoded, mpp, present, "attention").view(3, 4, 32)

    weights = encoded.cls_weights[1, present[1]]
    expected = (weights[:, None] * encoded.tokens[1, present[1]]).sum(0) / weights.sum()
    torch.testing.assert_close(read[1, 2], expected, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(read).all()
    assert read.abs().sum(dim=2).min() > 0


def test_values_at_absent_tokens_are_not_read() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(3, absent=0.5)
    encoded = model.encoder.encode(tokens, xy, mpp, present)
    usual = model.encoder.readout(encoded, mpp, present, "attention")
    nan = float("nan")
    poisoned = replace(
        encoded,
        tokens=encoded.tokens.masked_fill(~present[..., None], nan),
        cls_weights=encoded.cls_weights.masked_fill(~present, nan),
    )

    assert torch.equal(model.encoder.readout(poisoned, mpp.masked_fill(~present, nan), present, "attention"), usual)


def test_a_region_without_any_tile_has_no_attention_readout() -> None:
    model = model_of()
    tokens, xy, mpp, present = batch_of(3)
    present[2] = False
    encoded = model.encoder.encode(tokens, xy, mpp, present)

    with pytest.raises(ValueError, match=r"regions \[2\] have no tile present; drop them"):
        model.encoder.readout(encoded, mpp, present, "attention")
    assert torch.equal(model.encoder.readout(encoded, mpp, present, "cls"), encoded.cls)
    assert torch.equal(model.encoder.readout(encoded, mpp, present, "tokens"), encoded.tokens)


def test_what_cls_looked_at_adds_up_with_itself_and_the_registers_to_one() -> None:
    model = model_of(registers=0)
    encoded = model.encoder.encode(*batch_of(4, absent=0.3))

    total = encoded.cls_weights.sum(dim=1)

    assert ((total > 0) & (total < 1)).all()
