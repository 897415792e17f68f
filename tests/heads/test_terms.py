"""A term says of a slide's embeddings what its directions said of whitened regions, products and powers included."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, ProbeState, fit_contrast, load_probe
from parfocal.heads.contrast.candidates import Part
from parfocal.heads.contrast.moments import centred_regions, fit_region_map, is_partly_read, lift, pair_up
from parfocal.heads.contrast.terms import make_term, project

SETTINGS = ProbeSettings(components=(4, 8), inner_folds=3, lifted=(3,))


def test_lifted_rows_are_components_and_their_products_about_their_slides_mean() -> None:
    rng = np.random.default_rng(0)
    rows, present = rng.standard_normal((7, 2)), np.array([True, True, False, True, True, True, True])
    rows[2] = np.nan
    a, b = rows[:, 0], rows[:, 1]
    products = np.stack([a * a / np.sqrt(2), a * b, b * b / np.sqrt(2)], axis=1)
    expected = np.concatenate([rows, products], axis=1)
    for slide in (slice(0, 3), slice(3, 7)):
        expected[slide, 2:] -= np.nanmean(products[slide], axis=0)

    found = lift(rows, present, np.array([3, 0, 4]), by_slide=True)
    apart = lift(rows, present, np.array([3, 0, 4]), by_slide=False)

    np.testing.assert_allclose(found, expected)
    # White rows have products of mean one with themselves and zero with others.
    np.testing.assert_allclose(apart[:, 2:], products - np.array([1, 0, 1]) / np.sqrt([2, 1, 2]))


@pytest.mark.parametrize("unread", [0.0, 0.4])
@pytest.mark.parametrize("lifted", [0, 3])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_term_gives_the_moments_score(
    unread: float, lifted: int, power: float, draw_numbers: Callable[..., Any]
) -> None:
    drawn = draw_numbers(n=12, unread=unread)
    # Slides of other sizes: the second half keeps its first nine regions.
    bags = [first_regions(bag, [16] * 6 + [9] * 6) for bag in (drawn.coarse, drawn.fine)]
    (fold, *_) = drawn.folds(drawn.pairing)
    by_slide = [not is_partly_read(bag, fold.train) for bag in bags]
    rows = [centred_regions(bag, by_slide=own) for bag, own in zip(bags, by_slide, strict=True)]
    maps = [
        fit_region_map(bag, one, fold, SETTINGS, by_slide=own)
        for bag, one, own in zip(bags, rows, by_slide, strict=True)
    ]
    *_, (pair,) = pair_up(bags, rows, maps, fold, lifted=[lifted] if lifted else [])
    rng = np.random.default_rng(1)
    u, v = (rng.standard_normal((width, 2)) for width in pair.moments.shape[1:])
    expected = 3 * np.einsum("nab,ar,br->n", pair.moments, u, v) * pair.n_regions**power

    term = make_term(0, pair, Part(u, v), power, 3.0, maps)

    first, there = project(bags[0], maps[0].mean, term.u, fold.train, term.lift_u)
    second, also = project(bags[1], maps[1].mean, term.v, fold.train, term.lift_v)
    of_region = np.where(there & also, term.score(first, second), 0)
    of_slide = np.repeat(np.arange(len(fold.train)), pair.n_regions)
    total = np.bincount(of_slide, of_region) / pair.n_regions ** (1 - term.power)
    # Moments are in float32, and a projection is a sum of dozens of products.
    np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def first_regions(bag: Bag, counts: list[int]) -> Bag:
    """The bag with as many regions of each slide, and their means alone."""
    numbers = np.concatenate([bag.region_start[slide] + np.arange(count) for slide, count in enumerate(counts)])
    means = bag.region_mean[numbers]
    start = np.cumsum([0, *counts])
    return replace(
        bag,
        mean=np.stack([np.nanmean(means[a:b], axis=0) for a, b in pairwise(start)]),
        region_mean=means,
        region_start=start,
        region_present=bag.region_present[numbers],
    )


def test_what_a_probe_is_kept_as_gives_its_scores_again(draw_numbers: Callable[..., Any]) -> None:
    drawn = draw_numbers(n=40)
    counts = [16, 8] * 20
    bags = [first_regions(bag, counts) for bag in (drawn.coarse, drawn.fine)]
    (fold, *_) = drawn.folds(drawn.pairing)
    (probe,) = fit_contrast(bags, Outcome.binary(drawn.pairing), [fold], SETTINGS)
    state = probe.state()

    again = load_probe(ProbeState(state.probe, state.facts, state.arrays))
    old = {**state.facts, "terms": [{k: v for k, v in one.items() if k != "power"} for one in state.facts["terms"]]}

    np.testing.assert_array_equal(again.score(bags, fold.test), probe.score(bags, fold.test))
    # Heads of the first kind have no power: their terms are means over regions.
    kept = load_probe(ProbeState(state.probe, old, state.arrays)).state().facts["terms"]
    assert [one["power"] for one in kept] == [0.0] * len(kept)
