"""A look at the held-out regions: R2 by pattern and magnification, and the monitors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parfocal.geometry import format_mpp
from parfocal.pretrain.data import SlideCache
from parfocal.pretrain.holdout import SlidePart
from parfocal.pretrain.losses import contrast_accuracy
from parfocal.pretrain.masks import PATTERNS, MaskSettings, draw_masks
from parfocal.pretrain.monitors import (
    R2Sums,
    halves_by_slide,
    intra_region_cosine,
    rank_me,
    ridge_r2,
    slide_probe,
)
from parfocal.pretrain.trainee import HiddenTokens, Trainee
from parfocal.region_encoder.batch import RegionBatch, TokenMask
from parfocal.store import LeftOut

_BATCH = 256
_PROBE_ROWS = 8192


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The regions that are looked at, and what is hidden in them: the same at every look.

    Attributes:
        regions: on the CPU.
        hidden: for each mask pattern, what it hides in each region; nothing where it is impossible.
    """

    regions: RegionBatch
    hidden: dict[str, TokenMask]


def choose_held_out(
    parts: Sequence[SlidePart],
    cache: SlideCache,
    *,
    most: int,
    masks: MaskSettings,
    tile_px: int,
    seed: int,
    left_out: LeftOut | None = None,
) -> HeldOut:
    """At most `most` regions, about as many of each slide, and their masks without token dropout.

    With `left_out` a slide that cannot be read is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    gathered, left_out = [], left_out or LeftOut(strict=True)
    left = most
    # The smallest slides first: what they do not use is left to the others.
    for place, number in enumerate(sorted(range(len(parts)), key=lambda i: len(parts[i].regions))):
        part = parts[number]
        quota = min(len(part.regions), left // (len(parts) - place))
        chosen = torch.randperm(len(part.regions), generator=generator)[:quota].sort().values.numpy()
        if quota:
            with left_out.reading(part.slide):
                gathered.append(cache.gather(part, part.regions[chosen], number=number))
                left -= quota
    left_out.refuse_none_left([part.slide for part in parts], f"the held-out slides of {cache.tiles.name}")
    regions = RegionBatch.join(gathered)
    hidden = {}
    for pattern in PATTERNS:
        only = masks.model_copy(
            update={"token_dropout": 0.0} | {f"mask_{name}": float(name == pattern) for name in PATTERNS}
        )
        drawn = draw_masks(regions.xy_um, regions.mpp, regions.present, only, tile_px=tile_px, generator=generator)
        # Where a pattern was impossible and another took its place, nothing is hidden: each column is one pattern.
        hidden[pattern] = drawn.hidden & (drawn.pattern == PATTERNS.index(pattern))[:, None]
    return HeldOut(regions, hidden)


@torch.no_grad()
def look(
    trainee: Trainee, held_out: HeldOut, *, device: torch.device, autocast: bool, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Every number of a look by its column of `metrics.csv`, and the largest possible rank of each rank.

    What an objective does not predict is not in it.
    """
    was_training = trainee.training
    trainee.eval()
    is_latent = trainee.settings.targets == "latent"
    sums, through_cls = R2Sums(about_own_mean=is_latent), R2Sums(about_own_mean=is_latent)
    seen: dict[str, list[Tensor]] = {name: [] for name in ("cls", "tokens", "view", "given")}
    regions = held_out.regions
    for rows in torch.split(torch.arange(len(regions)), _BATCH):
        some = regions.take(rows).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            encoded = trainee.encode(some, some.present)
            seen["cls"].append(encoded.cls.float().cpu())
            seen["tokens"].append(encoded.tokens.float().cpu())
            seen["given"].append(trainee.standardise(some).float().cpu())
            if trainee.settings.contrasts:
                visible = some.present & ~held_out.hidden["random"][rows].to(device)
                seen["view"].append(trainee.encode(some, visible).cls.float().cpu())
    if trainee.settings.predicts_tokens:
        patterns, masks = list(held_out.hidden), torch.stack(list(held_out.hidden.values()))
        # Each case is a region with what a pattern hides in it; a few regions of all patterns are asked about at once.
        for cases in torch.split(masks.any(dim=2).nonzero(), _BATCH):
            pattern, rows = cases.unbind(dim=1)
            some, hidden = regions.take(rows).to(device), masks[pattern, rows].to(device)
            visible = some.present & ~hidden
            whole = (pattern == patterns.index("whole")).nonzero().flatten().to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                encoded = trainee.encode(some, visible)
                found = trainee.predict(some, encoded, visible, hidden, bottleneck=False)
                _count(sums, trainee, found, [patterns[k] for k in pattern.tolist()])
                if len(whole):
                    asked = some.take(whole), encoded.take(whole), visible[whole], hidden[whole]
                    _count(through_cls, trainee, trainee.predict(*asked, bottleneck=True), ["whole"] * len(whole))
    trainee.train(was_training)
    values = _r2_columns(sums, through_cls, trainee.mpps)
    joined = {name: torch.cat(parts) for name, parts in seen.items() if parts}
    more, most = _monitor_columns(joined, regions, trainee, seed)
    return values | more, most


def _count(into: R2Sums, trainee: Trainee, found: HiddenTokens, pattern: Sequence[str]) -> None:
    """Add what was said of hidden tokens; `pattern` is that of each region."""
    predicted, target = trainee.in_standard_space(found)
    for name in dict.fromkeys(pattern):
        own = torch.tensor([one == name for one in pattern], device=found.region.device)[found.region]
        for k, mpp in enumerate(trainee.mpps):
            mine = own & (found.level == k)
            if mine.any():
                dims = trainee.used[k] if predicted.shape[1] == trainee.used.shape[1] else slice(None)
                into.add(name, mpp, predicted[mine][:, dims], target[mine][:, dims])


def _r2_columns(sums: R2Sums, through_cls: R2Sums, mpps: Sequence[float]) -> dict[str, float]:
    values = {"r2": sums.of()}
    for mpp in mpps:
        values[f"r2_{format_mpp(mpp)}"] = sums.of(mpp=mpp)
        values[f"r2_bottleneck_{format_mpp(mpp)}"] = through_cls.of(mpp=mpp)
        for pattern in PATTERNS:
            values[f"r2_{pattern}_{format_mpp(mpp)}"] = sums.of(pattern=pattern, mpp=mpp)
    return values | {f"r2_{pattern}": sums.of(pattern=pattern) for pattern in PATTERNS}


def _monitor_columns(
    seen: dict[str, Tensor], regions: RegionBatch, trainee: Trainee, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    cls, tokens = seen["cls"], seen["tokens"]
    level = trainee.level_of(regions.mpp)
    values = {"rank_me_cls": rank_me(cls)}
    dims = trainee.used.sum(dim=1).tolist()
    most = {"rank_me_cls": _most(cls, sum(dims))}
    for k, mpp in enumerate(trainee.mpps):
        mine = tokens[regions.present & (level == k)]
        # Enough rows for a rank: four for each dim; tokens beyond that cost time only.
        mine = mine[:: max(1, len(mine) // (4 * mine.shape[1]))]
        name = f"rank_me_tokens_{format_mpp(mpp)}"
        values[name], most[name] = rank_me(mine), _most(mine, dims[k])
    values["token_cosine"] = intra_region_cosine(tokens, regions.present, level)
    generator = torch.Generator().manual_seed(seed)
    values["slide_probe"], values["slide_probe_chance"] = slide_probe(cls, regions.slide, generator=generator)
    finest = regions.present & (level == len(trainee.mpps) - 1)
    place = finest.nonzero()
    place = place[:: max(1, len(place) // _PROBE_ROWS)]
    fit = halves_by_slide(regions.slide[place[:, 0]], regions.region[place[:, 0]])
    # With fewer rows a ridge regression of so many inputs says more about itself than about the tokens.
    if int(fit.sum()) >= 2 * cls.shape[1] and not fit.all():
        row, column = place.unbind(dim=1)
        given = seen["given"][row, column][:, trainee.used[-1].cpu()]
        # Low values mean that context has replaced what only this tile shows.
        values["retention_r2"] = ridge_r2(tokens[row, column], given, fit)
    if "view" in seen:
        values["contrast_top1"], values["contrast_top1_same_slide"] = contrast_accuracy(
            cls, seen["view"], regions.slide
        )
    return values, most


def _most(rows: Tensor, n_inputs: int) -> float:
    """The rank that one may ask for: no more than rows, dims, or numbers that went in."""
    return float(max(1, min(len(rows) - 1, rows.shape[1], n_inputs)))
