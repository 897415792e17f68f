"""What a linear readout of a region encoder says about hidden tiles: one protocol for every cell.

A cell's own decoder cannot be the common measure: contrastive cells train none, those with latent targets predict
something else, and that of random weights says nothing. So the encoder is frozen, and a ridge regression predicts the
standardised embedding of each hidden tile from what the encoder made of the visible ones:

    CLS, and for each magnification the mean of the contextual tokens that overlap the hidden tile, and of all tokens

With the tile embeddings themselves in place of contextual tokens it is the best that a linear reader of these sums can
do without any region encoder.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from parfocal.pretrain import R2Sums
from parfocal.pretrain.evaluation import HeldOut
from parfocal.region_encoder.batch import RegionBatch
from parfocal.stats.regression import fit_ridge

Contextualise = Callable[
    [RegionBatch, Bool[Tensor, "region token"]],
    tuple[Float[Tensor, "region cls"], Float[Tensor, "region token width"]],
]
"""Regions and which of their tokens are visible -> a vector of each region, and a vector at each visible token."""

_BATCH = 256
MOST_ROWS = 2048
"""Hidden tiles that one readout is fitted on, at most."""

_FEWEST_ROWS = 16
# The largest predicts hardly more than the mean: a readout that has nothing to say must not be forced to speak.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Of the ridge regression on standardised inputs."""

_VALIDATION = 0.25


def linear_r2(
    contextualise: Contextualise,
    standardise: Callable[[RegionBatch], Float[Tensor, "region token dim"]],
    fit: HeldOut,
    score: HeldOut,
    mpps: Sequence[float],
    *,
    tile_px: int,
    dims: Sequence[int],
    device: torch.device,
) -> R2Sums:
    """R2 of hidden tiles of the regions `score`, by readouts that were fitted on the regions `fit`.

    Each mask pattern and magnification has its own readout. Its penalty is chosen on a quarter of the fitted slides
    (or of the regions, where there is one slide).

    Args:
        contextualise: the frozen encoder.
        standardise: the targets of all tokens.
        fit: training regions, with what is hidden in them.
        score: held-out regions, with what is hidden in them.
        mpps: the magnifications.
        tile_px: side of a tile, in pixels.
        dims: width of a tile embedding at each magnification.
        device: where to encode.
    """
    sums = R2Sums()
    for pattern in score.hidden:
        seen = [_encode(contextualise, one, pattern, device) for one in (fit, score)]
        for mpp, dim in zip(mpps, dims, strict=True):
            asked = [_asked(one, pattern, mpp) for one in (fit, score)]
            if len(asked[0]) < _FEWEST_ROWS or not len(asked[1]):
                continue
            (x, y), (new_x, new_y) = (
                _rows(encoded, standardise, one, pattern, places, mpps, tile_px=tile_px)
                for encoded, one, places in zip(seen, (fit, score), asked, strict=True)
            )
            is_validation = validation_rows(fit.regions.slide, asked[0][:, 0]).numpy()
            ridge = fit_ridge(x.numpy(), y[:, :dim].numpy(), is_validation, PENALTIES, standardised=True)
            sums.add(pattern, mpp, torch.from_numpy(ridge.predict(new_x.numpy())), new_y[:, :dim])
    return sums


def summaries(
    cls: Float[Tensor, "region cls"],
    tokens: Float[Tensor, "region token width"],
    regions: RegionBatch,
    visible: Bool[Tensor, "region token"],
    asked: Int[Tensor, "query 2"],
    mpps: Sequence[float],
    *,
    tile_px: int,
) -> Float[Tensor, "query feature"]:
    """What the readout sees of each asked tile; `asked` is its region and its token.

    A magnification of which nothing is visible, or nothing that overlaps, adds zeros and a flag that says so.
    """
    row, column = asked.unbind(dim=1)
    offset = (regions.xy_um[row] - regions.xy_um[row, column][:, None]).abs().amax(dim=2)  # (query, token)
    reach = tile_px * (regions.mpp[row] + regions.mpp[row, column][:, None]) / 2
    overlaps = offset < reach - 1e-3 * tile_px
    parts = [cls[row]]
    for mpp in mpps:
        of_level = visible[row] & (regions.mpp[row] == mpp)
        for chosen in (of_level & overlaps, of_level):
            count = chosen.sum(dim=1, keepdim=True)
            kept = torch.where(chosen[..., None], tokens[row], 0.0)
            parts += [kept.sum(dim=1) / count.clamp(min=1), (count > 0).to(tokens.dtype)]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def _encode(
    contextualise: Contextualise, looked_at: HeldOut, pattern: str, device: torch.device
) -> tuple[Float[Tensor, "region cls"], Float[Tensor, "region token width"]]:
    """What the encoder makes of all regions when the pattern hides tokens, on the CPU."""
    seen_cls, seen_tokens = [], []
    for start in range(0, len(looked_at.regions), _BATCH):
        rows = torch.arange(start, min(start + _BATCH, len(looked_at.regions)))
        some = looked_at.regions.take(rows).to(device)
        cls, tokens = contextualise(some, some.present & ~looked_at.hidden[pattern][rows].to(device))
        seen_cls.append(cls.float().cpu())
        seen_tokens.append(tokens.float().cpu())
    return torch.cat(seen_cls), torch.cat(seen_tokens)


def _asked(looked_at: HeldOut, pattern: str, mpp: float) -> Int[Tensor, "query 2"]:
    """Region and token of the hidden tiles of one magnification; evenly spread ones where there are very many."""
    asked = (looked_at.hidden[pattern] & (looked_at.regions.mpp == mpp)).nonzero()
    return asked[:: max(1, -(-len(asked) // MOST_ROWS))]


def _rows(
    encoded: tuple[Float[Tensor, "region cls"], Float[Tensor, "region token width"]],
    standardise: Callable[[RegionBatch], Float[Tensor, "region token dim"]],
    looked_at: HeldOut,
    pattern: str,
    asked: Int[Tensor, "query 2"],
    mpps: Sequence[float],
    *,
    tile_px: int,
) -> tuple[Float[Tensor, "query feature"], Float[Tensor, "query dim"]]:
    """Inputs and targets of the asked tiles."""
    cls, tokens = encoded
    regions = looked_at.regions
    visible = regions.present & ~looked_at.hidden[pattern]
    inputs, targets = [], []
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        inputs.append(summaries(cls, tokens, regions, visible, some, mpps, tile_px=tile_px))
        row, column = some.unbind(dim=1)
        targets.append(standardise(regions.take(row))[torch.arange(len(row)), column].float())
    return torch.cat(inputs), torch.cat(targets)


def validation_rows(slide: Int[Tensor, " region"], region: Int[Tensor, " query"]) -> Bool[Tensor, " query"]:
    """A quarter of the slides, evenly spread; of the regions where there are too few slides."""
    slides = torch.unique(slide)
    group = slide if len(slides) >= 4 else torch.arange(len(slide))
    _, number = torch.unique(group, return_inverse=True)
    every = round(1 / _VALIDATION)
    is_chosen: Bool[Tensor, " region"] = number % every == every - 1
    return is_chosen[region]
