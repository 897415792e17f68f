"""A training step never reads what it hides, trains what it says, and undoes its own transforms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parfocal.pretrain.masks import MaskSettings, draw_masks
from parfocal.pretrain.moments import whitening_of
from parfocal.pretrain.settings import PretrainSettings
from parfocal.pretrain.setup import learning_rate, start_weights
from parfocal.pretrain.trainee import LOSS_PARTS, Trainee
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.region_encoder.batch import RegionBatch, gather_regions

from .conftest import MPPS, toy_tokens

DIM = 6


def trainee_of(**changes: object) -> Trainee:
    torch.manual_seed(0)
    model = RegionModel(
        RegionEncoderConfig(width=16, depth=2, heads=2, mpps=MPPS, dims=(DIM,) * 3, encoders=("a",) * 3, drop_path=0)
    )
    start_weights(model)
    return Trainee(model, PretrainSettings(**changes))  # type: ignore[arg-type]


def some_regions(n: int = 5, absent: float = 0.3) -> RegionBatch:
    return gather_regions(toy_tokens("s", n, dim=DIM, seed=0, absent=absent), np.arange(n), slide=0, dim=DIM)


def masks_of(regions: RegionBatch, seed: int) -> tuple[Tensor, Tensor]:
    masks = draw_masks(
        regions.xy_um,
        regions.mpp,
        regions.present,
        MaskSettings(token_dropout=0.3),
        tile_px=224,
        generator=torch.Generator().manual_seed(seed),
    )
    return masks.hidden, masks.visible(regions.present)


def parts_of(trainee: Trainee, regions: RegionBatch, seeds: tuple[int, ...] = (0,), **changes: bool) -> Tensor:
    drawn = [masks_of(regions, seed) for seed in seeds]
    hidden, visible = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    flags = {"bottleneck": False, "with_variance": True} | changes
    return trainee(
        regions.tokens,
        regions.xy_um,
        regions.mpp,
        regions.present,
        regions.slide,
        regions.region,
        hidden,
        visible,
        flags["bottleneck"],
        flags["with_variance"],
    )


TRAINEE = trainee_of()


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_hidden_and_dropped_tokens_do_not_leak(seed: int) -> None:
    regions = some_regions()
    _, visible = masks_of(regions, seed)
    poisoned = RegionBatch(
        regions.tokens.masked_fill(~visible[..., None], float("nan")),
        regions.xy_um.masked_fill(~visible[..., None], float("nan")),
        regions.mpp.masked_fill(~visible, float("nan")),
        regions.present,
        regions.slide,
        regions.region,
    )

    clean, other = TRAINEE.encode(regions, visible), TRAINEE.encode(poisoned, visible)
    for a, b in ((clean.cls, other.cls), (clean.registers, other.registers), (clean.tokens, other.tokens)):
        assert torch.isfinite(b).all()
        # Positions are summed in another order where the batch has other distinct places.
        assert torch.allclose(a, b, atol=1e-5)


def test_a_prediction_sees_only_cls_and_registers_in_a_bottleneck_step() -> None:
    trainee, regions = trainee_of(), some_regions()
    hidden, visible = masks_of(regions, 0)
    encoded = trainee.encode(regions, visible)
    changed = replace(encoded, tokens=encoded.tokens.roll(1, dims=2))

    def predicted(source: object, bottleneck: bool) -> Tensor:
        return trainee.predict(regions, source, visible, hidden, bottleneck=bottleneck).predicted  # type: ignore[arg-type]

    assert torch.equal(predicted(encoded, True), predicted(changed, True))
    assert not torch.allclose(predicted(encoded, False), predicted(changed, False))


def test_targets_are_the_standardised_hidden_tokens() -> None:
    trainee, regions = trainee_of(), some_regions()
    trainee.model.encoder.standardiser.set(
        {mpp: np.full(DIM, 5 * mpp) for mpp in MPPS}, {mpp: np.full(DIM, 2.0) for mpp in MPPS}
    )
    hidden, visible = masks_of(regions, 3)
    found = trainee.predict(regions, trainee.encode(regions, visible), visible, hidden, bottleneck=False)

    expected = ((regions.tokens.float() - 5 * regions.mpp[..., None]) / 2).clamp(-5, 5)[hidden]
    assert sorted(map(tuple, found.target.tolist())) == [
        pytest.approx(row, abs=1e-5) for row in sorted(map(tuple, expected.tolist()))
    ]
    counts = [int((regions.mpp[hidden] == mpp).sum()) for mpp in MPPS]
    assert torch.bincount(found.level, minlength=3).tolist() == counts


def test_what_is_said_of_a_region_does_not_depend_on_the_regions_asked_about_with_it() -> None:
    trainee, regions = trainee_of(), some_regions(70)
    hidden, visible = masks_of(regions, 3)
    encoded = trainee.encode(regions, visible)
    found = trainee.predict(regions, encoded, visible, hidden, bottleneck=False)

    assert len({int(count) for count in hidden.sum(dim=1)}) > 5
    assert sorted(found.region.tolist()) == hidden.nonzero()[:, 0].tolist()
    for own in range(0, 70, 9):
        alone = torch.tensor([own])
        only = trainee.predict(
            regions.take(alone), encoded.take(alone), visible[alone], hidden[alone], bottleneck=False
        )
        mine = found.region == own
        assert torch.equal(found.target[mine], only.target)
        assert torch.allclose(found.predicted[mine], only.predicted, atol=1e-5)


def test_whitened_targets_come_back_to_standardised_ones() -> None:
    trainee, regions = trainee_of(targets="whitened"), some_regions()
    rng = np.random.default_rng(0)
    plain = trainee_of()
    covariances = {mpp: np.cov(rng.normal(size=(50, DIM)).T, bias=True) for mpp in MPPS}
    trainee.set_whitening(
        {mpp: whitening_of(c, np.sqrt(c.diagonal()), shrinkage=0.1) for mpp, c in covariances.items()}
    )
    hidden, visible = masks_of(regions, 3)

    found = trainee.predict(regions, trainee.encode(regions, visible), visible, hidden, bottleneck=False)
    reference = plain.predict(regions, plain.encode(regions, visible), visible, hidden, bottleneck=False)
    assert not torch.allclose(found.target, reference.target, atol=1e-2)
    assert torch.allclose(trainee.in_standard_space(found)[1], reference.target, atol=1e-4)


def test_the_variance_moves_no_prediction_and_the_output_learns_it() -> None:
    trainee, regions = trainee_of(variance_weight=1.0), some_regions()
    with_variance = dict(zip(LOSS_PARTS, parts_of(trainee, regions), strict=True))
    (gradient,) = torch.autograd.grad(with_variance["loss_variance"], trainee.model.decoder.outputs[2].weight)

    # The first half of an output's rows is the mean, the second the log-variance.
    assert not gradient[:DIM].any()
    assert gradient[DIM:].any()


@pytest.mark.parametrize(
    ("changes", "seeds", "expected"),
    [
        ({}, (0,), {"loss_tokens": 1.0, "loss_variance": 0.1}),
        (
            {"objective": "cmem", "contrast_weight": 0.4},
            (0, 1),
            {"loss_tokens": 1, "loss_variance": 0.1, "loss_contrast": 0.4},
        ),
        ({"objective": "contrastive"}, (0, 1), {"loss_contrast": 1.0}),
        ({"targets": "latent"}, (0,), {"loss_tokens": 1.0, "loss_guard": 0.1}),
    ],
)
def test_the_loss_is_the_weighted_sum_of_its_parts(
    changes: dict[str, object], seeds: tuple[int, ...], expected: dict[str, float]
) -> None:
    parts = dict(zip(LOSS_PARTS, parts_of(trainee_of(**changes), some_regions(), seeds).tolist(), strict=True))

    assert parts["loss"] == pytest.approx(sum(weight * parts[name] for name, weight in expected.items()))
    assert {name for name, value in parts.items() if value != 0} == {"loss", *expected}


def test_the_teacher_has_no_gradient_and_follows_slowly() -> None:
    trainee = trainee_of(targets="latent")
    before = trainee.teacher.encoder.norm.weight.clone()  # type: ignore[union-attr]
    with torch.no_grad():
        trainee.model.encoder.norm.weight += 1
    trainee.follow(0.0)
    trainee.train()

    # By hand: 1 - 0.996 of the way at the start.
    assert torch.allclose(trainee.teacher.encoder.norm.weight, before + 0.004)  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in trainee.teacher.parameters())  # type: ignore[union-attr]
    assert not any(module.training for module in trainee.teacher.modules())  # type: ignore[union-attr]


def test_latent_targets_are_the_mean_of_the_last_three_blocks() -> None:
    trainee, regions = trainee_of(targets="latent"), some_regions(absent=0.0)
    given = regions.tokens.float(), regions.xy_um, regions.mpp, regions.present
    seen: list[Tensor] = []
    encoder = trainee.model.encoder.eval()
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0].detach()))
    with torch.no_grad():
        encoder(*given)
        found = trainee.teacher(*given)  # type: ignore[misc]

    # The model has two blocks, so both count. All tokens are present: a region's rows are CLS, registers, then tiles.
    assert len(seen) == 2
    norm = torch.nn.functional.layer_norm
    mean = torch.stack([norm(rows[: 5 * 26], (16,)) for rows in seen]).mean(dim=0).view(5, 26, 16)[:, 5:]
    assert torch.allclose(found, norm(encoder.norm(mean), (16,)), atol=1e-5)


def test_the_learning_rate_rises_and_falls() -> None:
    chosen = PretrainSettings(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, chosen) for step in range(100)]

    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    # Half a cosine: half the rate in the middle.
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
