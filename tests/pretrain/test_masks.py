"""Masks hide what they say, leave something to see, and never touch an absent token."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from parfocal.pretrain.masks import PATTERNS, MaskSettings, draw_masks, hide

TILE_PX = 224
RATE = (0.3, 0.75)


def layout(mpps: tuple[float, ...], region_um: float) -> tuple[Tensor, Tensor]:
    """Centres about the region's centre and magnifications of every tile of a region, coarse to fine."""
    xy, mpp = [], []
    for value in mpps:
        side = TILE_PX * value
        n = round(region_um / side)
        for row, column in itertools.product(range(n), repeat=2):
            xy.append((column * side + side / 2 - region_um / 2, row * side + side / 2 - region_um / 2))
            mpp.append(value)
    return torch.tensor(xy, dtype=torch.float32), torch.tensor(mpp)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    mpps, region_um = draw(
        st.sampled_from(
            [
                ((2.0, 1.0, 0.5), 448.0),
                ((2.0, 1.0, 0.5), 896.0),
                ((2.0, 0.5), 448.0),
                ((1.5, 0.75), 336.0),
                ((1.0,), 448.0),
            ]
        )
    )
    xy, mpp = layout(mpps, region_um)
    n_regions = draw(st.integers(0, 6))
    seed = draw(st.integers(0, 2**31))
    share = draw(st.floats(0, 1))
    present = torch.rand(n_regions, len(mpp), generator=torch.Generator().manual_seed(seed)) < share
    return xy.expand(n_regions, -1, -1), mpp.expand(n_regions, -1), present, seed


@given(batches(), st.floats(0, 0.99))
@settings(max_examples=150)
def test_only_present_tokens_are_hidden_and_something_stays_visible(
    batch: tuple[Tensor, Tensor, Tensor, int], dropout: float
) -> None:
    xy_um, mpp, present, seed = batch
    masks = draw_masks(
        xy_um,
        mpp,
        present,
        MaskSettings(token_dropout=dropout),
        tile_px=TILE_PX,
        generator=torch.Generator().manual_seed(seed),
    )

    usable = present.sum(dim=1) >= 2
    assert not (masks.hidden & ~present).any()
    assert not (masks.dropped & (~present | masks.hidden)).any()
    assert torch.equal(masks.hidden.any(dim=1), usable)
    assert masks.visible(present)[usable].any(dim=1).all()
    assert torch.equal(masks.pattern >= 0, usable)
    assert masks.n_skipped == int((~usable).sum())
    assert not masks.dropped[~usable].any()


def test_the_same_generator_draws_the_same_masks() -> None:
    xy, mpp = layout((2.0, 1.0, 0.5), 448.0)
    first, second, other = (
        draw_masks(
            xy.expand(64, -1, -1),
            mpp.expand(64, -1),
            torch.ones(64, 21, dtype=torch.bool),
            MaskSettings(),
            tile_px=TILE_PX,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (3, 3, 4)
    )

    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.dropped, second.dropped)
    assert not torch.equal(first.hidden, other.hidden)


def hidden_of(
    pattern: str, mpps: tuple[float, ...] = (2.0, 1.0, 0.5), n_regions: int = 400
) -> tuple[Tensor, Tensor, Tensor]:
    xy, mpp = layout(mpps, 448.0)
    present = torch.ones(n_regions, len(mpp), dtype=torch.bool)
    hidden = hide(
        pattern,
        xy.expand(n_regions, -1, -1),
        mpp.expand(n_regions, -1),
        present,
        tile_px=TILE_PX,
        rate=RATE,
        generator=torch.Generator().manual_seed(0),
    )
    return xy, mpp, hidden


def test_random_hides_shares_over_the_whole_range_of_rates() -> None:
    _, _, hidden = hidden_of("random")

    counts = hidden.sum(dim=1)
    assert counts.min() >= math.floor(0.3 * 21)
    assert counts.max() <= math.ceil(0.75 * 21)
    # The mean of 400 uniform shares has a standard error of .0065.
    assert counts.float().mean() / 21 == pytest.approx(0.525, abs=0.03)
    assert hidden.float().mean(dim=0).min() > 0.4


def test_whole_hides_magnifications_entirely_one_or_two_of_them() -> None:
    _, mpp, hidden = hidden_of("whole")

    per_level = torch.stack([hidden[:, mpp == value].float().mean(dim=1) for value in (2.0, 1.0, 0.5)], dim=1)
    assert set(per_level.flatten().tolist()) == {0.0, 1.0}
    combinations = {tuple(row) for row in per_level.int().tolist()}
    assert combinations == {c for c in itertools.product((0, 1), repeat=3) if sum(c) in {1, 2}}


def test_subtree_hides_a_middle_tile_with_its_four_children_and_sometimes_the_parent() -> None:
    xy, mpp, hidden = hidden_of("subtree")

    # By hand: a middle tile is 224 um, so the children's centres lie 56 um from its own in both directions.
    with_parent = 0
    for row in hidden:
        roots = (row & (mpp == 1.0)).nonzero().flatten()
        assert len(roots) == 1
        children = {tuple(xy[i].tolist()) for i in (row & (mpp == 0.5)).nonzero().flatten()}
        x, y = xy[roots[0]].tolist()
        assert children == {(x + dx, y + dy) for dx in (-56, 56) for dy in (-56, 56)}
        with_parent += int(row[0])
    assert 0.2 < with_parent / len(hidden) < 0.4


def test_subtree_with_two_magnifications_has_roots_among_the_coarser() -> None:
    _, mpp, hidden = hidden_of("subtree", mpps=(1.0, 0.5))

    assert (hidden.sum(dim=1) == 5).all()
    assert (hidden[:, mpp == 1.0].sum(dim=1) == 1).all()


def test_coarse_only_leaves_the_coarsest_that_the_region_has() -> None:
    xy, mpp = layout((2.0, 1.0, 0.5), 448.0)
    present = torch.ones(2, 21, dtype=torch.bool)
    present[1, 0] = False
    hidden = hide(
        "coarse_only",
        xy.expand(2, -1, -1),
        mpp.expand(2, -1),
        present,
        tile_px=TILE_PX,
        rate=RATE,
        generator=torch.Generator().manual_seed(0),
    )

    assert torch.equal(hidden[0], mpp < 2.0)
    assert torch.equal(hidden[1], mpp < 1.0)


def test_the_mix_is_followed() -> None:
    xy, mpp = layout((2.0, 1.0, 0.5), 448.0)
    masks = draw_masks(
        xy.expand(4000, -1, -1),
        mpp.expand(4000, -1),
        torch.ones(4000, 21, dtype=torch.bool),
        MaskSettings(),
        tile_px=TILE_PX,
        generator=torch.Generator().manual_seed(1),
    )

    shares = torch.bincount(masks.pattern, minlength=len(PATTERNS)) / 4000
    # Four standard errors of a share of .35 in 4,000 draws.
    assert shares.tolist() == pytest.approx([0.30, 0.35, 0.25, 0.10], abs=0.031)


def test_impossible_mixes_are_refused() -> None:
    with pytest.raises(ValidationError, match="Give one of them a share"):
        MaskSettings(mask_random=0, mask_whole=0, mask_subtree=0, mask_coarse_only=0)
    with pytest.raises(ValidationError, match="rising pair"):
        MaskSettings(mask_rate=(0.8, 0.2))
