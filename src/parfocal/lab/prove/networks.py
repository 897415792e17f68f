"""Baselines that are small networks, without attention and without an encoder of their own.

B8 goes from one relative and the position to a hidden tile; B10 sees all visible tiles of a region in their places.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.lab.prove.controls import train_as_subject, train_once
from parfocal.lab.prove.data import Standardise
from parfocal.lab.prove.gaussian import Bases
from parfocal.lab.prove.layout import (
    Layout,
    Query,
    Slots,
    Tiles,
    draw_hidden,
    nearest_relatives,
    patterns_of,
    slot_regions,
)
from parfocal.lab.prove.subject import Subject
from parfocal.pretrain.masks import Masks
from parfocal.region_encoder.batch import RegionBatch
from parfocal.region_encoder.position import fourier_features
from parfocal.run.cache import StepCache

_HIDDEN = 512
_BATCH = 256
_LR = 1e-3
_REGIONS_PER_STEP = 64


@dataclass(frozen=True, eq=False)
class RelativeNetwork:
    """The trained network with what it needs to be asked."""

    network: nn.Module

    def predict(self, query: Query, layout: Layout) -> Tiles:
        """From the nearest relatives of each hidden tile; 0 at all others."""
        predicted = np.zeros_like(query.tokens)
        row, slot = np.nonzero(query.hidden)
        if len(row):
            source, level = nearest_relatives(query.tokens, query.visible, layout)
            with torch.inference_mode():
                inputs = _inputs(source[row, slot], level[row, slot], slot, layout)
                found = [self.network(part) for part in torch.split(inputs, 8192)]
            predicted[row, slot] = torch.cat(found).numpy()
        return predicted


def fit_relative_network(
    tokens: Tiles,
    present: Slots,
    layout: Layout,
    *,
    steps: int,
    rate: tuple[float, float],
    seed: int,
    kept: StepCache | None = None,
) -> RelativeNetwork:
    """Train on training regions, hidden by all patterns in turn; each magnification weighs the same.

    Args:
        tokens: standardised tiles.
        present: which there are.
        layout: where slots lie.
        steps: optimiser steps, of 256 tiles each.
        rate: what the random pattern hides.
        seed: of weights, regions and masks.
        kept: where the trained weights are kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n_inputs = _inputs(tokens[:1, 0], np.zeros(1, np.int64), np.zeros(1, np.int64), layout).shape[1]
        network = nn.Sequential(
            nn.Linear(n_inputs, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, layout.dim),
        )

    def train() -> None:
        rng = np.random.default_rng([seed, 8])
        patterns = patterns_of(layout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            rows = rng.integers(0, len(tokens), _REGIONS_PER_STEP)
            pattern = patterns[step % len(patterns)]
            hidden = draw_hidden(pattern, layout, present[rows], rate=rate, seed=int(rng.integers(2**31)))
            visible = present[rows] & ~hidden
            source, level = nearest_relatives(
                np.where(visible[..., None], tokens[rows], np.float32(0)), visible, layout
            )
            row, slot = np.nonzero(hidden)
            if len(row):
                chosen = rng.permutation(len(row))[:_BATCH]
                row, slot = row[chosen], slot[chosen]
                target = torch.from_numpy(tokens[rows][row, slot])
                found = network(_inputs(source[row, slot], level[row, slot], slot, layout))
                of = layout.level[slot]
                weight = torch.from_numpy((1 / np.bincount(of)[of] / len(np.unique(of))).astype(np.float32))
                loss = (weight * (found - target).square().mean(dim=1)).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()

    inputs = [tokens, present, layout, steps, rate, seed]
    train_once(partial((kept or StepCache(None)).step, "B8", inputs), network, train)
    return RelativeNetwork(network.eval())


def _inputs(
    source: np.ndarray, source_level: np.ndarray, slot: np.ndarray, layout: Layout
) -> Float[Tensor, "tile input"]:
    """The relative, which magnification it has (or that there is none), and where the hidden tile lies."""
    n_levels = len(layout.mpps)
    # Place 0 stands for no relative.
    which = nn.functional.one_hot(torch.from_numpy(source_level + 1), n_levels + 1).float()
    own = nn.functional.one_hot(torch.from_numpy(layout.level[slot]), n_levels).float()
    place = fourier_features(torch.from_numpy(layout.xy_um[slot]), torch.from_numpy(layout.mpp[slot]))
    return torch.cat([torch.from_numpy(source), which, own, place], dim=1)


_OF_TILE = 64
_REGION_HIDDEN = 256
_BLOCKS = 2
_REGION_BATCH = 512


class _Network(nn.Module):
    """Tiles in their slots, side by side, through a few residual blocks, and to every slot again."""

    def __init__(self, n_levels: int, n_slots: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.of_tile = nn.ModuleList(nn.Linear(n_inputs, _OF_TILE) for _ in range(n_levels))
        self.into = nn.Linear(n_slots * (_OF_TILE + 1), _REGION_HIDDEN)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(_REGION_HIDDEN),
                nn.Linear(_REGION_HIDDEN, 2 * _REGION_HIDDEN),
                nn.SiLU(),
                nn.Linear(2 * _REGION_HIDDEN, _REGION_HIDDEN),
            )
            for _ in range(_BLOCKS)
        )
        self.out = nn.Linear(_REGION_HIDDEN, n_slots * _OF_TILE)
        self.to_tile = nn.ModuleList(nn.Linear(_OF_TILE, n_outputs) for _ in range(n_levels))

    def forward(
        self, seen: Float[Tensor, "region slot input"], visible: Bool[Tensor, "region slot"], level: list[slice]
    ) -> Float[Tensor, "region slot output"]:
        """The expected directions of every slot."""
        tiles = torch.cat([one(seen[:, own]) for one, own in zip(self.of_tile, level, strict=True)], dim=1)
        flags = visible[..., None].to(seen.dtype)
        # A straight way through for what is linear, as B5 has it; the blocks add the rest.
        hidden = self.into(torch.cat([tiles * flags, flags], dim=2).flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        slots = self.out(hidden).view(len(seen), -1, _OF_TILE)
        found = [one(slots[:, own]) for one, own in zip(self.to_tile, level, strict=True)]
        return torch.cat(found, dim=1)


@dataclass(frozen=True, eq=False)
class RegionNetwork:
    """The trained network with the directions that describe tiles."""

    network: nn.Module
    bases: Bases
    device: torch.device

    def predict(self, query: Query, layout: Layout) -> Tiles:
        """From all visible tiles of each region; 0 where nothing is hidden."""
        predicted = np.zeros_like(query.tokens)
        asked = np.flatnonzero(query.hidden.any(axis=1))
        level = layout.slots
        with torch.inference_mode():
            for start in range(0, len(asked), _REGION_BATCH):
                rows = asked[start : start + _REGION_BATCH]
                seen = self.bases.scores(query.tokens[rows], layout)[..., : self.bases.n_predictors]
                visible = torch.from_numpy(query.visible[rows]).to(self.device)
                along = self.network(torch.from_numpy(seen).to(self.device), visible, level).cpu().numpy()
                for number, own in enumerate(level):
                    predicted[rows, own] = along[:, own] @ self.bases.directions[number].T
        return np.where(query.hidden[..., None], predicted, np.float32(0))


def fit_region_network(
    subject: Subject,
    layout: Layout,
    bases: Bases,
    standardise: Standardise,
    *,
    steps: int,
    seed: int,
    device: torch.device,
) -> RegionNetwork:
    """Train it as the checkpoint was trained, for the squared error that R2 is made of.

    Each magnification weighs the same, whatever the number of its hidden tiles.
    """
    level = layout.slots
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(len(layout.mpps), layout.n_slots, bases.n_predictors, bases.directions.shape[2]).to(device)

    def loss(regions: RegionBatch, masks: Masks, step: int, generator: torch.Generator) -> Tensor:
        # Apart, so that nothing of a hidden tile can come along.
        seen, asked = (slot_regions(regions, layout, of=of) for of in (masks.visible(regions.present), masks.hidden))
        shown, wanted = (torch.from_numpy(bases.scores(standardise(part), layout)).to(device) for part in (seen, asked))
        error = network(shown[..., : bases.n_predictors], seen.present.to(device), level) - wanted
        hidden = asked.present.to(device)
        parts = [error[:, own][hidden[:, own]] for own in level]
        return torch.stack([part.square().sum(dim=1).mean() for part in parts if len(part)]).mean()

    def train() -> None:
        train_as_subject(subject, network, loss, steps=steps, seed=seed, device=device)

    train_once(partial(subject.step, "B10", [bases, steps, seed]), network, train)
    return RegionNetwork(network.eval(), bases, device)
