"""Every policy takes slides of which coarser magnifications were read in part, and coarser ones that are to be read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from parfocal.embed.glance import known_first
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, Glance, HeadOfBags, is_order

from ...region_encoder.toy import DIM
from ..bound import bound
from ..glances import DIM as FEW_NUMBERS
from ..glances import drawn, glance_of
from .test_contrast import contrast_of, term_of

# The first example of a policy fits its head, which takes longer than the others.
FEW = settings(max_examples=8, deadline=None)
BY_LEVELS = sorted(name for name in POLICIES.ours if POLICIES.get(name).by_levels)


def read_in_part(glance: Glance, share: float) -> Glance:
    """The glance with some regions of the last coarser magnification alone, at least one tile of it."""
    coarse, mpp = glance.coarse, min(glance.coarse.mpps)
    rng = np.random.default_rng(len(coarse.region[mpp]))
    kept = (rng.random(coarse.n_regions) < share)[coarse.region[mpp]]
    kept[:1] = True
    parts = {
        name: {**getattr(coarse, name), mpp: getattr(coarse, name)[mpp][kept]}
        for name in ("features", "region", "center_um")
    }
    return replace(glance, coarse=replace(coarse, **parts))


def before_middle(glance: Glance) -> Glance:
    """The same slide before tiles at 1 mpp are read."""
    coarse = glance.coarse
    alone = SlideTokens(
        coarse.slide, coarse.region_um, coarse.slide_mpp, coarse.region_xy_um,
        *({2.0: one[2.0]} for one in (coarse.features, coarse.region, coarse.center_um)),
    )  # fmt: skip
    n_tiles = len(coarse.region[1.0])
    return Glance(alone, coarse.region[1.0], coarse.center_um[1.0], 1.0, np.ones(n_tiles), glance.seed)


@pytest.mark.parametrize("name", sorted(POLICIES.ours))
@FEW
@given(slide=drawn())
def test_regions_of_which_nothing_is_known_at_a_level_break_no_order(name: str, slide: dict[str, Any]) -> None:
    glance = glance_of(**slide, dim=DIM)
    if not all(map(len, glance.coarse.features.values())):
        return  # the coarsest has no tile: no head can be asked
    part = read_in_part(glance, 0.3)
    ranked = bound(name, dim=DIM).ranked(part)

    assert is_order(ranked.order, part.n_tiles)
    assert ranked.worth is None or not np.isnan(ranked.worth).any()
    first = known_first(ranked.order, part, 1.0)
    assert is_order(first, part.n_tiles)
    is_known = np.isin(part.region[first], part.coarse.region[1.0])
    assert not np.any(np.diff(is_known.astype(int)) > 0)  # never an opened region after one that is not
    for group in (True, False):
        assert np.array_equal(first[is_known == group], ranked.order[np.isin(ranked.order, first[is_known == group])])


@pytest.mark.parametrize("name", BY_LEVELS)
@FEW
@given(slide=drawn())
def test_a_coarser_magnification_can_be_chosen_first(name: str, slide: dict[str, Any]) -> None:
    glance = before_middle(glance_of(**slide, dim=DIM))
    if not len(glance.coarse.features[2.0]):
        return
    assert is_order(bound(name, dim=DIM)(glance), glance.n_tiles)


def test_the_one_that_cannot_is_named() -> None:
    assert {*POLICIES.ours} - {*BY_LEVELS} == {"value"}


def test_contrast_reads_first_what_opens_most() -> None:
    rng = np.random.default_rng(5)
    glance = before_middle(glance_of(15, absent=0.0))
    u, w, v = (rng.standard_normal((FEW_NUMBERS, 1)) for _ in range(3))
    # The first is paired with the last alone, which the second opens; what these two add together is not known before.
    terms = (term_of(u, v, np.eye(1), second=2), term_of(w, v, 9 * np.eye(1), first=1, second=2))
    policy = POLICIES.get("contrast").bound(HeadOfBags(contrast_of(*terms, bags=3), ("2", "1", "0.5")))
    x = glance.coarse.features[2.0].astype(np.float64)  # one tile a region

    assert np.array_equal(glance.region[policy(glance)][::4], np.argsort(-np.abs((x - x.mean(axis=0)) @ u[:, 0])))


def test_contrast_without_a_pair_that_is_known_reads_a_stride() -> None:
    rng = np.random.default_rng(6)
    glance = before_middle(glance_of(15))
    w, v = rng.standard_normal((FEW_NUMBERS, 1)), rng.standard_normal((FEW_NUMBERS, 1))
    head = HeadOfBags(contrast_of(term_of(w, v, np.eye(1), first=1, second=2), bags=3), ("2", "1", "0.5"))

    for name in ("contrast", "contrast-tiles"):
        assert np.array_equal(POLICIES.get(name).bound(head)(glance), POLICIES.get("stride")(glance))
