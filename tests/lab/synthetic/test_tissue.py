"""The leaks of the rendered cohort, in pixels: what each magnification can know of A and C."""

from collections import Counter

import numpy as np
import pytest

from parfocal.lab.synthetic.rendered import halve
from parfocal.lab.synthetic.tissue import (
    RegionAttributes,
    Stain,
    arrange_blocks,
    draw_stain,
    render_region,
    stain_to_rgb,
)

STAIN = Stain(haematoxylin=(0.68, 0.67, 0.28), eosin=(0.1, 0.95, 0.25), glass=243)


def _region(*, diagonal: bool = True, checkerboard: bool = True, solid: bool = False, seed: int = 4) -> np.ndarray:
    attributes = RegionAttributes(diagonal=diagonal, checkerboard=checkerboard, solid=solid)
    return render_region(attributes, STAIN, np.random.default_rng(seed), chromatin=12)


@pytest.mark.parametrize("solid", [False, True])
def test_chromatin_is_seen_at_level_0_only(solid: bool) -> None:
    one, other = (_region(checkerboard=value, solid=solid) for value in (True, False))

    differing = (one != other).any(axis=2)
    assert 0.02 < differing.mean() < 0.4  # half of the nuclear pixels
    assert np.array_equal(halve(one), halve(other))
    # The sums of the 2 x 2 cells are equal, so no rounding hides a difference from any later average.
    assert np.array_equal(*(x.reshape(448, 2, 448, 2, 3).astype(int).sum(axis=(1, 3)) for x in (one, other)))


def test_blocks_do_not_know_the_arrangement() -> None:
    n = 4000
    counts = {}
    for diagonal in (False, True):
        layouts = [arrange_blocks(diagonal, np.random.default_rng(seed)) for seed in range(n)]
        assert all(layout.sum() == 2 for layout in layouts)  # the unordered four are the same
        counts[diagonal] = np.mean(layouts, axis=0)
        diagonals_equal = [bool(layout[0, 0] == layout[1, 1]) for layout in layouts]
        assert all(value == diagonal for value in diagonals_equal)
    for share in counts.values():
        assert np.abs(share - 0.5).max() < 4 * 0.5 / np.sqrt(n)  # four standard errors


def test_a_block_is_drawn_without_knowing_the_arrangement() -> None:
    def blocks(diagonal: bool, seed: int) -> Counter:
        rgb = _region(diagonal=diagonal, seed=seed)[::4, ::4]
        found: Counter = Counter()
        for row in range(2):
            for column in range(2):
                block = rgb[row * 112 : (row + 1) * 112, column * 112 : (column + 1) * 112].astype(float).mean(axis=2)
                # Which way do the glands run? Along them, means of lines differ most.
                found["y" if block.mean(axis=0).var() > block.mean(axis=1).var() else "x"] += 1
        return found

    for seed in range(4):
        assert blocks(True, seed) == blocks(False, seed) == {"x": 2, "y": 2}


def test_the_arrangement_is_seen_from_the_whole_region() -> None:
    assert not np.array_equal(_region(diagonal=True), _region(diagonal=False))


def test_stain_follows_beer_and_lambert() -> None:
    density = np.arange(0, 250, 10, dtype=np.uint8)
    haematoxylin, eosin = np.meshgrid(density, density)

    rgb = stain_to_rgb(haematoxylin, eosin, STAIN)

    optical = haematoxylin[..., None] * np.array(STAIN.haematoxylin) + eosin[..., None] * np.array(STAIN.eosin)
    expected = STAIN.glass * np.exp(-0.01 * optical)
    assert np.abs(rgb - expected).max() < 1.6  # two roundings of at most half a grey level and their product's


def test_stains_differ_between_slides_and_stay_plausible() -> None:
    stains = [draw_stain(np.random.default_rng(seed)) for seed in range(50)]

    assert len(set(stains)) == 50
    # Haematoxylin is the bluer one: it takes more red away than eosin does.
    assert all(stain.haematoxylin[0] > 2 * stain.eosin[0] for stain in stains)
