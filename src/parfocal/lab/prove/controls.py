"""Controls of a proof: somebody else's context, and models that are trained as the checkpoint was.

C1 and C2 ask the same question with somebody else's context: what a model still knows then, it did not get from the
region. The others are trained on the same regions in the same order, with the same masks, optimiser and number
of steps.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from parfocal.lab.prove.layout import Layout, Regions, Slots, Tiles
from parfocal.lab.prove.subject import Predictor, Subject
from parfocal.pretrain.augment import SquareSymmetries, declared_symmetries
from parfocal.pretrain.data import RegionStream
from parfocal.pretrain.masks import Masks, draw_masks
from parfocal.pretrain.optimiser import new_optimizer
from parfocal.pretrain.setup import derived_seed, learning_rate, new_model, new_order, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder.batch import RegionBatch

CONTROLS = {
    "C1": "the model, shown the visible tiles of another region of the same slide",
    "C1x": "the model, shown those of other magnifications only from that other region",
    "C2": "the model, shown the visible tiles of a region of another slide",
    "C3": "an encoder with random weights that mixes tiles fully (LayerScale 1), and a decoder trained on it",
    "C3s": "the same with the LayerScale that training starts from: tiles are hardly mixed",
    "E1": "a ridge regression on the model's tokens, no decoder",
    "E0": "the same ridge on tokens of the encoder of C3",
    "E0s": "the same ridge on tokens of the encoder of C3s",
}
"""What each control is."""


def other_region(slide: Regions, rng: np.random.Generator) -> Regions:
    """For each region another one of its slide; the region itself where it is alone."""
    other = np.arange(len(slide))
    for one in np.unique(slide):
        own = rng.permutation(np.flatnonzero(slide == one))
        other[own] = np.roll(own, 1)
    return other


def other_slide(slide: Regions, rng: np.random.Generator) -> Regions | None:
    """For each region one of another slide; None where there is one slide only."""
    if len(np.unique(slide)) < 2:
        return None
    return np.array([rng.choice(np.flatnonzero(slide != one)) for one in slide])


def show(
    regions: RegionBatch,
    hidden: Slots,
    context: Regions | None = None,
    *,
    foreign: Bool[np.ndarray, " slot"] | None = None,
) -> RegionBatch:
    """What a model sees when it is asked for the hidden tiles: the region's own visible tiles, or another one's.

    Args:
        regions: in their slots, as stored.
        hidden: what is asked for.
        context: for each region, whose tiles are shown at the places that are not hidden; None for its own.
        foreign: the slots that are taken from there; all when None.
    """
    allowed = torch.from_numpy(~hidden)
    if context is None:
        return replace(regions, present=regions.present & allowed)
    other = regions.take(torch.from_numpy(context))
    taken = torch.ones(hidden.shape[1], dtype=torch.bool) if foreign is None else torch.from_numpy(foreign)
    swapped = (taken & allowed)[..., None]
    return replace(
        regions,
        tokens=torch.where(swapped, other.tokens, regions.tokens),
        xy_um=torch.where(swapped, other.xy_um, regions.xy_um),
        present=torch.where(taken, other.present, regions.present) & allowed,
    )


def predict_with_foreign_scales(
    predictor: Predictor, regions: RegionBatch, hidden: Slots, context: Regions, layout: Layout
) -> Tiles:
    """C1x: each magnification is predicted with its own visible tiles, and those of the others from another region."""
    predicted = np.zeros(regions.tokens.shape, dtype=np.float32)
    for level in range(len(layout.mpps)):
        mine = layout.level == level
        if hidden[:, mine].any():
            mean, _ = predictor.predict(show(regions, hidden, context, foreign=~mine), hidden)
            predicted[:, mine] = mean[:, mine]
    return predicted


Loss = Callable[[RegionBatch, Masks, int, torch.Generator], Tensor]
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

    def loss(regions: RegionBatch, masks: Masks, step: int, generator: torch.Generator) -> Tensor:
        here, visible = regions.to(device), masks.visible(regions.present)
        parts: Tensor = trainee(
            *vars(here).values(),
            masks.hidden[None].to(device),
            visible[None].to(device),
            bool(torch.rand((), generator=generator) < settings.bottleneck),
            step >= settings.variance_from * steps,
        )
        return parts[0]

    inputs = [trainee.model.digest, steps, seed]

    def train() -> None:
        train_as_subject(subject, trainee, loss, steps=steps, seed=seed, device=device)

    train_once(partial(subject.step, "decoder on random weights", inputs), trainee, train)
    return trainee.eval()


def train_once(
    step: Callable[[Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]],
    module: nn.Module,
    train: Callable[[], None],
) -> None:
    """Train what of a module has a gradient, or give it the weights that an earlier run came to.

    Args:
        step: gives the kept weights, or those that its argument makes, which it keeps.
        module: is changed.
        train: trains it.
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]

    def weights() -> dict[str, np.ndarray]:
        train()
        state = module.state_dict()
        return {name: state[name].cpu().numpy() for name in names}

    module.load_state_dict({name: torch.from_numpy(array) for name, array in step(weights).items()}, strict=False)


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
    symmetries = SquareSymmetries.of(declared, dim=max(subject.tiles.dims.values()), wanted=settings.symmetry)
    order = new_order(subject.tiles, subject.split, settings, stream=0, world=1)
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
