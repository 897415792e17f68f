"""What is usual of a term among the training slides, which slides that are read in part are scored with (`partly`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from parfocal.bags import Bag
from parfocal.heads.base import Bags, Slides
from parfocal.heads.contrast.expected import expect
from parfocal.heads.contrast.terms import PairTerm, Usual, project

_SLIDES_AT_A_TIME = 256
_MOST_SLIDES, _MOST_DIRECTIONS = 64, 4
"""That the noise of tiles is taken from: slides at even steps, and the directions along which regions differ most."""

_MOST_NOISE = 10.0


def with_usual(
    term: PairTerm,
    offset: Sequence[Float64[np.ndarray, " _dim"] | None],
    bags: Bags,
    train: Slides,
    means: Sequence[Float64[np.ndarray, "train _dim"]],
    seed: int,
) -> PairTerm:
    """The term with what is usual among the training slides; one of a single bag stays as it is.

    Args:
        term: without it.
        offset: what regions of each bag are centred on; None: their slide's mean.
        bags: of all slides.
        train: numbers of the training slides.
        means: of every bag the means of the training slides' regions.
        seed: of what is expected.
    """
    if term.first == term.second:
        return term
    sides = ((term.first, term.second, term.u, term.lift_u), (term.second, term.first, term.v, term.lift_v))
    found = []
    for side, (own, other, onto, lifted) in enumerate(sides):
        given, weight = _given(term, side, bags[own], offset[own], train)
        mean = weight @ given
        size = (given - mean).T @ ((given - mean) * weight[:, None])
        to = onto if lifted is None else lifted
        expected = expect(means[other], means[own] @ to, seed)
        found.append(Usual(mean, size, noise_of_tiles(bags[own], to, train), expected))
    return replace(term, usual=(found[0], found[1]))


def _given(
    term: PairTerm, side: int, bag: Bag, offset: Float64[np.ndarray, " dim"] | None, train: Slides
) -> tuple[Float64[np.ndarray, "region rank"], Float64[np.ndarray, " region"]]:
    """What one side of a term gives of the present regions, and their weights, with which slides count alike."""
    onto, lifted = (term.v, term.lift_v) if side else (term.u, term.lift_u)
    parts, weights = [], []
    for begin in range(0, len(train), _SLIDES_AT_A_TIME):
        some = train[begin : begin + _SLIDES_AT_A_TIME]
        along, there = project(bag, offset, onto, some, lifted)
        of_slide = np.repeat(np.arange(len(some)), np.diff(bag.region_start)[some])[there]
        parts.append(term.squashed(along[there], side))
        weights.append(1.0 / np.bincount(of_slide)[of_slide])
    weight = np.concatenate(weights)
    return np.concatenate(parts), weight / weight.sum()


def noise_of_tiles(bag: Bag, onto: Float64[np.ndarray, "dim direction"], train: Slides) -> float:
    """The noise of a region's mean over what its tiles have in common, from tiles and means of regions within slides.

    Of a region of n tiles the mean has the variance s + t / n, with s that of regions and t that of tiles about their
    region; single tiles have s + t. 0 where a region is one tile.
    """
    some = train[:: -(-len(train) // _MOST_SLIDES)]
    of_tiles, of_regions, n_tiles = [], [], []
    for slide in some:
        own = bag.regions_of(int(slide))
        regions = bag.region_mean[own][bag.region_present[own]]
        if len(regions) < 2:
            continue
        of_regions.append((regions @ onto).var(axis=0))
        of_tiles.append((bag.rows_of(int(slide)) @ onto).var(axis=0))
        n_tiles.append(bag.n_instances[slide] / len(regions))
    n = float(np.mean(n_tiles)) if n_tiles else 1.0
    if n < 1.5:
        return 0.0
    means, tiles = np.mean(of_regions, axis=0), np.mean(of_tiles, axis=0)
    used = np.argsort(-means)[:_MOST_DIRECTIONS]
    noise = max(float((tiles - means)[used].sum()), 0.0) / (n - 1)  # t / n
    return min(noise / max(float(means[used].sum()) - noise, 1e-300), _MOST_NOISE)
