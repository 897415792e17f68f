"""B10: a network that sees all visible tiles of a region in their places; no attention, no encoder of its own."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from parfocal.pretrain.data import Regions
from parfocal.pretrain.masks import Masks
from parfocal.studies.proof.data import Standardise
from parfocal.studies.proof.gaussian import Bases
from parfocal.studies.proof.layout import Layout, Query, slot_regions
from parfocal.studies.proof.retraining import train_as_subject
from parfocal.studies.proof.subject import Subject

__all__ = ["RegionNetwork", "fit_region_network"]

_OF_TILE = 64
_HIDDEN = 256
_BLOCKS = 2
_BATCH = 512


class _Network(nn.Module):
    """Tiles in their slots, side by side, through a few residual blocks, and to every slot again."""

    def __init__(self, n_levels: int, n_slots: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.of_tile = nn.ModuleList(nn.Linear(n_inputs, _OF_TILE) for _ in range(n_levels))
        self.into = nn.Linear(n_slots * (_OF_TILE + 1), _HIDDEN)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(_HIDDEN), nn.Linear(_HIDDEN, 2 * _HIDDEN), nn.SiLU(), nn.Linear(2 * _HIDDEN, _HIDDEN)
            )
            for _ in range(_BLOCKS)
        )
        self.out = nn.Linear(_HIDDEN, n_slots * _OF_TILE)
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
        predicted: Float[Tensor, "region slot output"] = torch.cat(found, dim=1)
        return predicted


@dataclass(frozen=True, eq=False)
class RegionNetwork:
    """The trained network with the directions that describe tiles."""

    network: nn.Module
    bases: Bases
    device: torch.device

    def predict(self, query: Query, layout: Layout) -> Float32[np.ndarray, "region slot dim"]:
        """From all visible tiles of each region; 0 where nothing is hidden."""
        predicted = np.zeros_like(query.tokens)
        asked = np.flatnonzero(query.hidden.any(axis=1))
        level = _slices(layout)
        with torch.inference_mode():
            for start in range(0, len(asked), _BATCH):
                rows = asked[start : start + _BATCH]
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
    level = _slices(layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(len(layout.mpps), layout.n_slots, bases.n_predictors, bases.directions.shape[2]).to(device)

    def loss(regions: Regions, masks: Masks, step: int, generator: torch.Generator) -> Tensor:
        # Apart, so that nothing of a hidden tile can come along.
        seen, asked = (slot_regions(regions, layout, of=of) for of in (masks.visible(regions.present), masks.hidden))
        shown, wanted = (
            torch.from_numpy(bases.scores(standardise(one.tokens, layout) * one.present[..., None], layout)).to(device)
            for one in (seen, asked)
        )
        error = network(shown[..., : bases.n_predictors], torch.from_numpy(seen.present).to(device), level) - wanted
        hidden = torch.from_numpy(asked.present).to(device)
        parts = [error[:, own][hidden[:, own]] for own in level]
        return torch.stack([part.square().sum(dim=1).mean() for part in parts if len(part)]).mean()

    train_as_subject(subject, network, loss, steps=steps, seed=seed, device=device)
    return RegionNetwork(network.eval(), bases, device)


def _slices(layout: Layout) -> list[slice]:
    """The slots of each magnification, which lie side by side."""
    bounds = np.searchsorted(layout.level, np.arange(len(layout.mpps) + 1)).tolist()
    return [slice(begin, end) for begin, end in pairwise(bounds)]
