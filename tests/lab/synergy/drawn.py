"""Cohorts that the tests of `synergy` draw: a factor A at 2 mpp, C at 0.5 mpp, tissue types, stain."""

import numpy as np

from parfocal.lab.synergy.moments import CohortRows, Units, read_rows
from parfocal.store import SlideTokens

MPPS = (2.0, 0.5)
REGION_UM = 56.0


def draw_slide(
    rng: np.random.Generator, world: np.ndarray, name: str, *, pairing: float = 0.0, tilt: float = 0.0, n: int = 24
) -> tuple[SlideTokens, np.ndarray, np.ndarray]:
    """One slide with a factor A at 2 mpp and C at 0.5; `pairing` of the regions have A = C, `tilt` shifts the types.

    `world` holds the directions of the cohort: types of both magnifications (3 each), A and C.
    """
    dim = world.shape[1]
    share = np.exp(tilt * np.array([-1.0, 0.0, 1.0]))
    types = rng.choice(3, n, p=rng.dirichlet(12 * share / share.sum()))
    a = np.arange(n) % 2 == 0
    c = np.where(rng.random(n) < 0.5 + pairing / 2, a, ~a)
    stain = 2 * rng.standard_normal((2, dim))
    side = {2.0: 1, 0.5: 4}
    features = {}
    for m, mpp in enumerate(MPPS):
        factor = (a if m == 0 else c) * 2.0 - 1
        mean = 1.5 * world[3 * m + types] + 1.5 * np.outer(factor, world[6 + m]) + stain[m]
        tiles = mean[:, None] + rng.standard_normal((n, 1, dim)) + 0.3 * rng.standard_normal((n, side[mpp] ** 2, dim))
        features[mpp] = tiles.reshape(-1, dim).astype(np.float32)
    at = {mpp: ((np.arange(s) + 0.5) / s - 0.5) * REGION_UM for mpp, s in side.items()}
    centres = {mpp: np.stack(np.meshgrid(one, one), axis=-1).reshape(-1, 2) for mpp, one in at.items()}
    tokens = SlideTokens(
        slide=name,
        region_um=REGION_UM,
        slide_mpp=0.5,
        region_xy_um=REGION_UM * np.column_stack([np.arange(n) % 6, np.arange(n) // 6]).astype(np.float64),
        features=features,
        region={mpp: np.repeat(np.arange(n, dtype=np.int32), s * s) for mpp, s in side.items()},
        center_um={mpp: np.tile(one, (n, 1)).astype(np.float32) for mpp, one in centres.items()},
    )
    return tokens, a, c


def draw(kind: str, *, n: int = 70, dim: int = 10, seed: int = 0) -> tuple[list[SlideTokens], np.ndarray, np.ndarray]:
    """A cohort, its label, and A of all regions."""
    rng = np.random.default_rng(seed)
    world = rng.standard_normal((8, dim))
    world[6:] /= np.linalg.norm(world[6:], axis=1, keepdims=True)
    label = (np.arange(n) % 2).astype(float)
    slides, attributes = [], []
    for number, sign in enumerate(2 * label - 1):
        pairing = 0.5 * sign if kind == "pairing" else 0.0
        tilt = 0.8 * sign if kind == "composition" else 0.0
        tokens, a, _ = draw_slide(rng, world, f"s{number:03d}", pairing=pairing, tilt=tilt)
        slides.append(tokens)
        attributes.append(a)
    return slides, label, np.concatenate(attributes)


def rows_of(slides: list[SlideTokens], components: int = 8) -> CohortRows:
    by_name = {tokens.slide: tokens for tokens in slides}
    return read_rows(by_name.__getitem__, MPPS, sorted(by_name), components=components)


def each_alone(n: int) -> Units:
    return Units(tuple(f"s{number:03d}" for number in range(n)), np.arange(n))


def without_tiles(one: SlideTokens, keep: np.ndarray) -> SlideTokens:
    """The slide with some of its fine tiles only."""
    return SlideTokens(
        slide=one.slide,
        region_um=one.region_um,
        slide_mpp=one.slide_mpp,
        region_xy_um=one.region_xy_um,
        features={2.0: one.features[2.0], 0.5: one.features[0.5][keep]},
        region={2.0: one.region[2.0], 0.5: one.region[0.5][keep]},
        center_um={2.0: one.center_um[2.0], 0.5: one.center_um[0.5][keep]},
    )
