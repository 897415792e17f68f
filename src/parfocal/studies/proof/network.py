"""B8: a multilayer perceptron from one relative and the position to a hidden tile; no attention, no other tile."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from parfocal.region_encoder.position import fourier_features
from parfocal.studies.proof.layout import Layout, Query
from parfocal.studies.proof.patterns import draw_hidden, patterns_of
from parfocal.studies.proof.relatives import nearest_relatives

__all__ = ["RelativeNetwork", "fit_relative_network"]

_HIDDEN = 512
_BATCH = 256
_LR = 1e-3
_REGIONS_PER_STEP = 64


@dataclass(frozen=True, eq=False)
class RelativeNetwork:
    """The trained network with what it needs to be asked."""

    network: nn.Module

    def predict(self, query: Query, layout: Layout) -> Float32[np.ndarray, "region slot dim"]:
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
    tokens: Float32[np.ndarray, "region slot dim"],
    present: Bool[np.ndarray, "region slot"],
    layout: Layout,
    *,
    steps: int,
    rate: tuple[float, float],
    seed: int,
) -> RelativeNetwork:
    """Train on training regions, hidden by all patterns in turn; each magnification weighs the same.

    Args:
        tokens: standardised tiles.
        present: which there are.
        layout: where slots lie.
        steps: optimiser steps, of 256 tiles each.
        rate: what the random pattern hides.
        seed: of weights, regions and masks.
    """
    rng = np.random.default_rng([seed, 8])
    patterns = patterns_of(layout)
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
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = rng.integers(0, len(tokens), _REGIONS_PER_STEP)
        pattern = patterns[step % len(patterns)]
        hidden = draw_hidden(pattern, layout, present[rows], rate=rate, seed=int(rng.integers(2**31)))
        visible = present[rows] & ~hidden
        source, level = nearest_relatives(np.where(visible[..., None], tokens[rows], np.float32(0)), visible, layout)
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
