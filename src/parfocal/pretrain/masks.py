"""Which tokens of a region are hidden and have to be predicted, and which are left out without being a target.

Everything is computed from magnifications and footprints, so that any layout of tiles works. Random masks alone are
solved by looking at the same place at another magnification; whole magnifications and subtrees take that away.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from parfocal.config import Settings
from parfocal.region_encoder.batch import Centres, Mpps, TokenMask

PATTERNS = ("random", "whole", "subtree", "coarse_only")
"""Random tokens; one or two whole magnifications; a tile with all finer ones in it; all but the coarsest."""

ANCESTOR_SHARE = 0.3
"""How often a subtree takes the coarser tiles over its root along."""


class MaskSettings(Settings):
    """How often each pattern of hidden tokens is drawn, and how much it hides."""

    mask_random: float = Field(0.30, ge=0, description="Share of regions where random tokens are hidden.")
    mask_whole: float = Field(0.35, ge=0, description="Share of regions where one or two magnifications are hidden.")
    mask_subtree: float = Field(
        0.25, ge=0, description="Share of regions where a tile is hidden with all finer tiles inside it."
    )
    mask_coarse_only: float = Field(
        0.10, ge=0, description="Share of regions where only the coarsest magnification is visible."
    )
    mask_rate: tuple[float, float] = Field(
        (0.3, 0.75), description="Smallest and largest share of tokens that the random pattern hides."
    )
    token_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the visible tokens that are left out without being a target."
    )

    @model_validator(mode="after")
    def _possible(self) -> "MaskSettings":
        if not sum(self.mix) > 0:
            raise ValueError("all shares of mask patterns are 0, so nothing would be hidden. Give one of them a share.")
        low, high = self.mask_rate
        if not 0 < low <= high < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not a rising pair between 0 and 1, such as 0.3 0.75.")
        return self

    @property
    def mix(self) -> tuple[float, ...]:
        """The shares in the order of `PATTERNS`; they need not sum to 1."""
        return self.mask_random, self.mask_whole, self.mask_subtree, self.mask_coarse_only


@dataclass(frozen=True, eq=False)
class Masks:
    """What was drawn for the regions of a batch.

    Attributes:
        hidden: the targets; always present tokens, at least one in each usable region.
        dropped: present tokens that are neither visible nor targets.
        pattern: index into `PATTERNS`, what was really used; -1 where the region is not usable.
    """

    hidden: TokenMask
    dropped: TokenMask
    pattern: Int[Tensor, " region"]

    @property
    def n_skipped(self) -> int:
        """How many regions have a single token or none, so that nothing can be hidden from anything."""
        return int((self.pattern < 0).sum())

    def visible(self, present: TokenMask) -> TokenMask:
        """What the encoder may see."""
        return present & ~self.hidden & ~self.dropped


def draw_masks(
    xy_um: Centres,
    mpp: Mpps,
    present: TokenMask,
    settings: MaskSettings,
    *,
    tile_px: int,
    generator: torch.Generator,
) -> Masks:
    """Draw a pattern for each region, the tokens that it hides, and token dropout among the rest.

    A pattern that is impossible in a region (one magnification only, say) becomes the random one, which is possible
    wherever two tokens are present. At least one token stays visible.

    Args:
        xy_um: tile centres about the region's centre.
        mpp: magnification of each token; values of absent tokens are not read.
        present: which tokens there are.
        settings: the mix.
        tile_px: side of a tile in pixels, the same at every magnification.
        generator: the only source of randomness, on the CPU.
    """
    n_regions = len(present)
    mix = torch.tensor(settings.mix, dtype=torch.float64)
    pattern = torch.multinomial(mix, max(n_regions, 1), replacement=True, generator=generator)[:n_regions]
    hidden = torch.zeros_like(present)
    for index, name in enumerate(PATTERNS):
        chosen = (pattern == index).nonzero().flatten()
        if len(chosen):
            hidden[chosen] = hide(
                name,
                xy_um[chosen],
                mpp[chosen],
                present[chosen],
                tile_px=tile_px,
                rate=settings.mask_rate,
                generator=generator,
            )
    usable = present.sum(dim=1) >= 2
    impossible = usable & ~(hidden.any(dim=1) & (present & ~hidden).any(dim=1))
    if impossible.any():
        rows = impossible.nonzero().flatten()
        hidden[rows] = _random(present[rows], settings.mask_rate, generator)
        pattern[rows] = PATTERNS.index("random")
    hidden &= usable[:, None]
    pattern = torch.where(usable, pattern, -1)
    dropped = _dropout(present & ~hidden, settings.token_dropout, generator) & usable[:, None]
    return Masks(hidden, dropped, pattern)


def hide(
    pattern: str,
    xy_um: Centres,
    mpp: Mpps,
    present: TokenMask,
    *,
    tile_px: int,
    rate: tuple[float, float],
    generator: torch.Generator,
) -> TokenMask:
    """The present tokens that one pattern hides; where it is impossible in a region, all of its tokens or none."""
    if pattern == "random":
        return _random(present, rate, generator)
    if pattern == "whole":
        return _whole(mpp, present, generator)
    if pattern == "subtree":
        return _subtree(xy_um, mpp, present, tile_px, generator)
    if pattern == "coarse_only":
        return present & ~_is_coarsest(mpp, present)
    raise ValueError(f"there is no mask pattern {pattern!r}; choose one of {PATTERNS}")


def _random(present: TokenMask, rate: tuple[float, float], generator: torch.Generator) -> TokenMask:
    n_regions = len(present)
    count = present.sum(dim=1)
    share = rate[0] + (rate[1] - rate[0]) * torch.rand(n_regions, generator=generator)
    wanted = (share * count).round().long().clamp(min=1)
    wanted = torch.minimum(wanted, count - 1)  # (region,), below 1 where nothing can be hidden
    return _smallest(torch.rand(present.shape, generator=generator), present, wanted)


def _whole(mpp: Mpps, present: TokenMask, generator: torch.Generator) -> TokenMask:
    levels, level = torch.unique(mpp, return_inverse=True)
    held = torch.zeros(len(present), len(levels), dtype=torch.long)
    held.scatter_add_(1, level, present.long())
    has = held > 0  # (region, level)
    one_or_two = torch.randint(1, 3, (len(present),), generator=generator)
    wanted = torch.minimum(one_or_two, has.sum(dim=1) - 1)
    hidden_levels = _smallest(torch.rand(has.shape, generator=generator), has, wanted)
    return present & hidden_levels.gather(1, level)


def _subtree(xy_um: Centres, mpp: Mpps, present: TokenMask, tile_px: int, generator: torch.Generator) -> TokenMask:
    # A root is a tile of a middle magnification; with two magnifications, one of the coarser.
    finest = mpp.masked_fill(~present, torch.inf).amin(dim=1, keepdim=True)
    above_finest = present & (mpp > finest)
    middle = above_finest & ~_is_coarsest(mpp, present)
    candidate = torch.where(middle.any(dim=1, keepdim=True), middle, above_finest)
    score = torch.rand(present.shape, generator=generator).masked_fill(~candidate, 2.0)
    root = score.argmin(dim=1, keepdim=True)  # (region, 1)
    root_mpp = mpp.gather(1, root)
    offset = (xy_um - xy_um.gather(1, root[..., None].expand(-1, -1, 2))).abs().amax(dim=2)  # (region, token)
    # Half a thousandth of a tile: stored centres are float32.
    reach = tile_px * (mpp - root_mpp).abs() / 2 + 5e-4 * tile_px * root_mpp
    nested = offset <= reach
    inside = nested & (mpp < root_mpp)
    over = nested & (mpp > root_mpp) & (torch.rand(len(present), 1, generator=generator) < ANCESTOR_SHARE)
    hidden = (inside | over).scatter(1, root, value=True)
    # Where the ancestor was the last visible token, it stays.
    last = ~(present & ~hidden).any(dim=1, keepdim=True)
    hidden &= ~(over & last)
    return hidden & present & candidate.any(dim=1, keepdim=True)


def _is_coarsest(mpp: Mpps, present: TokenMask) -> TokenMask:
    coarsest = mpp.masked_fill(~present, -torch.inf).amax(dim=1, keepdim=True)
    return present & (mpp >= coarsest)


def _dropout(visible: TokenMask, rate: float, generator: torch.Generator) -> TokenMask:
    score = torch.rand(visible.shape, generator=generator).masked_fill(~visible, -1.0)
    dropped = visible & (score < rate)
    # The visible token with the highest score stays, whatever the rate.
    kept = score.argmax(dim=1, keepdim=True)
    return dropped.scatter(1, kept, value=False)


def _smallest(
    score: Float[Tensor, "region item"], candidate: Bool[Tensor, "region item"], wanted: Int[Tensor, " region"]
) -> Bool[Tensor, "region item"]:
    """The `wanted` candidates of each row with the smallest scores."""
    rank = score.masked_fill(~candidate, 2.0).argsort(dim=1).argsort(dim=1)
    return candidate & (rank < wanted[:, None])
