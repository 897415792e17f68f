"""What is trained as the checkpoint was: the same regions in the same order, masks, optimiser and number of steps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from parfocal.pretrain.augment import SquareSymmetries, declared_symmetries
from parfocal.pretrain.data import Regions, RegionStream
from parfocal.pretrain.masks import Masks, draw_masks
from parfocal.pretrain.optimiser import new_optimizer
from parfocal.pretrain.setup import derived_seed, learning_rate, new_model, new_order, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.studies.proof.subject import Subject

__all__ = ["Loss", "random_control", "train_as_subject", "train_decoder"]

Loss = Callable[[Regions, Masks, int, torch.Generator], Tensor]
"""A batch on the CPU, what is hidden in it, the number of the step and its random numbers -> what is minimised."""


def random_control(subject: Subject, *, mixes: bool, seed: int) -> Trainee:
    """The model with random weights and with the statistics of its training regions.

    Args:
        subject: whose architecture and regions.
        mixes: whether the blocks mix tokens with full weight (LayerScale 1), or hardly, as when training begins.
        seed: of the weights.
    """
    settings = subject.settings.model_copy(update={"objective": "mem"})
    # Without steps a model is made to be left untrained: it mixes with full weight.
    made_for = settings.model_copy(update={"steps": 0 if mixes else max(settings.steps or 1, 1)})
    trainee = Trainee(new_model(subject.tiles, made_for, seed=derived_seed(seed, 3, int(mixes))), settings)
    take_statistics(trainee, subject.split, subject.cache)
    trainee.model.encoder.requires_grad_(False)
    return trainee.eval()


def train_decoder(subject: Subject, trainee: Trainee, *, steps: int, seed: int, device: torch.device) -> Trainee:
    """C3: train the decoder on a frozen encoder as the model's own was trained.

    What it reaches is what mixing tiles at random allows; the rest is what pretraining of the encoder has brought.
    """
    settings = trainee.settings
    trainee.to(device).train()
    trainee.model.encoder.eval()

    def loss(regions: Regions, masks: Masks, step: int, generator: torch.Generator) -> Tensor:
        here, visible = regions.to(device), masks.visible(regions.present)
        parts: Tensor = trainee(
            here.tokens,
            here.xy_um,
            here.mpp,
            here.present,
            here.slide,
            here.region,
            masks.hidden[None].to(device),
            visible[None].to(device),
            bool(torch.rand((), generator=generator) < settings.bottleneck),
            step >= settings.variance_from * steps,
        )
        return parts[0]

    train_as_subject(subject, trainee, loss, steps=steps, seed=seed, device=device)
    return trainee.eval()


def train_as_subject(
    subject: Subject, module: nn.Module, loss: Loss, *, steps: int, seed: int, device: torch.device
) -> None:
    """Train what of a module has a gradient.

    Args:
        subject: whose regions, settings and masks.
        module: is changed.
        loss: of a batch.
        steps: how many.
        seed: of masks and symmetries.
        device: where the module is.
    """
    settings = subject.settings
    declared = declared_symmetries(subject.tiles)
    symmetries = SquareSymmetries.chosen(settings.symmetry, declared, dim=max(subject.tiles.dims.values()))
    order = new_order(subject.tiles, subject.split, settings, rank=0, world=1)
    optimizer = new_optimizer(module, settings, device=device)
    trained = [one for one in module.parameters() if one.requires_grad]
    with RegionStream(order, subject.cache, workers=0) as stream:
        for step, regions in enumerate(stream.batches(0, steps)):
            generator = torch.Generator().manual_seed(derived_seed(seed, 4, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, settings)
            moved = symmetries.apply(regions, generator)
            masks = draw_masks(
                moved.xy_um,
                moved.mpp,
                moved.present,
                settings,
                tile_px=subject.trainee.model.encoder.config.tile_px,
                generator=generator,
            )
            loss(moved, masks, step, generator).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
