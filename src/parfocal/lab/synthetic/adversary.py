"""Adversaries that look for a leak: can late fusion find out which members of two unordered bags belong together?

The theorem of the cohorts says that A and C, read from two unordered bags, know nothing of the label. It holds as far
as nothing else tells which 5x tile belongs to which 20x tiles. Whatever both magnifications of a region show, in pixels
already its mean optical density, can re-pair the bags. So the adversaries are *handed* perfect readers of A and C and
only have to pair; their AUC is the reference beside every late-fusion arm. On rendered slides they pair by mean optical
density and by gland type, which every magnification shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from parfocal.lab.synthetic.rendered import RenderedCohort, SlideDesign
from parfocal.lab.synthetic.tissue import REGION_PX
from parfocal.run.jobs import each_in_process
from parfocal.slides import open_slide
from parfocal.stats.auc import auc

_FINE_PX = 224
_COARSE_LEVEL = 2
_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


@dataclass(frozen=True, eq=False)
class UnorderedBags:
    """What late fusion holds of one slide: a coarse and a fine bag, whose order says nothing.

    Attributes:
        coarse_sign: reading of A for each coarse member, -1 to 1.
        coarse_nuisance: what each coarse member shows that fine ones may show too.
        fine_sign: reading of C for each fine member, -1 to 1.
        fine_nuisance: the same quantities as `coarse_nuisance`, in units of their own.
    """

    coarse_sign: Float[np.ndarray, " coarse"]
    coarse_nuisance: Float[np.ndarray, "coarse k"]
    fine_sign: Float[np.ndarray, " fine"]
    fine_nuisance: Float[np.ndarray, "fine k"]


def match_bags(
    coarse: Float[np.ndarray, "coarse k"], fine: Float[np.ndarray, "fine k"], rng: np.random.Generator
) -> Int[np.ndarray, "fine"]:
    """For each fine member, the coarse member it most likely belongs to: a one-to-many optimal assignment.

    Each quantity is standardised within its bag, and the sum of squared differences is the smallest possible. Both bags
    are shuffled first: the solver would break ties by position, and position is what the adversary must not know.

    Raises:
        ValueError: the fine bag is not a whole number of times as large as the coarse one.
    """
    n_coarse, n_fine = len(coarse), len(fine)
    if n_fine % n_coarse:
        raise ValueError(f"{n_fine} fine members cannot be shared evenly by {n_coarse} coarse ones")
    slots = rng.permutation(np.repeat(np.arange(n_coarse), n_fine // n_coarse))
    order = rng.permutation(n_fine)
    difference = _standardised(fine)[order][:, None] - _standardised(coarse)[slots][None]  # (fine, slot, k)
    rows, columns = linear_sum_assignment((difference**2).sum(axis=2))
    match = np.empty(n_fine, dtype=np.int64)
    match[order[rows]] = slots[columns]
    return match


def repairing_auc(
    slides: Sequence[UnorderedBags], positive: Bool[np.ndarray, "slide"], *, n_draws: int = 1, seed: int = 0
) -> float:
    """The AUC of the adversary that re-pairs each slide's bags by their nuisances and asks whether A and C agree.

    Args:
        slides: the bags of each slide.
        positive: the label.
        n_draws: how often it is repeated with ties broken anew; the mean is returned. One is enough where the
            nuisances are continuous.
        seed: breaks the ties.
    """
    aucs = []
    for draw in range(n_draws):
        scores = []
        for number, bags in enumerate(slides):
            match = match_bags(bags.coarse_nuisance, bags.fine_nuisance, np.random.default_rng([seed, draw, number]))
            scores.append(float(np.mean(bags.coarse_sign[match] * bags.fine_sign)))
        aucs.append(auc(positive, np.array(scores)))
    return float(np.mean(aucs))


@dataclass(frozen=True)
class PixelAdversary:
    """AUC for `pairing` of an adversary with perfect readers of A (5x) and C (20x), by what it re-pairs with.

    Attributes:
        by_density: mean optical density of a region at 5x, and of its sixteen 20x tiles together.
        by_density_of_tiles: mean optical density, all 20x tiles of the slide in one unordered bag.
        by_gland_type: whether the glands are solid.
    """

    by_density: float
    by_density_of_tiles: float
    by_gland_type: float


def measure_densities(
    path: Path, design: SlideDesign
) -> tuple[Float[np.ndarray, "region"], Float[np.ndarray, "region 16"]]:
    """Mean optical density of each region's 5x tile, from the slide's own level, and of its sixteen 20x tiles."""
    cv2.setNumThreads(1)
    per_side = REGION_PX // _FINE_PX
    coarse_px = REGION_PX >> _COARSE_LEVEL
    coarse, fine = [], []
    with open_slide(path) as slide:
        for region in design.regions:
            x, y = region.column, region.row
            tile = slide.read_level(_COARSE_LEVEL, x * coarse_px, y * coarse_px, coarse_px, coarse_px)
            coarse.append(float(cv2.LUT(tile, _DENSITY).mean()))
            whole = cv2.LUT(slide.read_level(0, x * REGION_PX, y * REGION_PX, REGION_PX, REGION_PX), _DENSITY)
            fine.append(cv2.resize(whole, (per_side, per_side), interpolation=cv2.INTER_AREA).mean(axis=2).ravel())
    return np.array(coarse), np.array(fine, dtype=np.float64)


def _densities_of(
    slide: tuple[Path, SlideDesign],
) -> tuple[Float[np.ndarray, "region"], Float[np.ndarray, "region 16"]]:
    return measure_densities(*slide)


def pixel_adversary(cohort: RenderedCohort, *, workers: int = 2, seed: int = 0) -> PixelAdversary:
    """Measure how well late fusion could do on `pairing` by re-pairing alone; printed beside the late arms."""
    slides = list(zip(cohort.slides, cohort.design, strict=True))
    densities = {path: one for (path, _), one in each_in_process(slides, _densities_of, workers=workers)}
    regions, tiles, types = [], [], []
    for path, design in slides:
        coarse, fine = densities[path]
        truth = [region.attributes for region in design.regions]
        a = np.array([1.0 if one.diagonal else -1.0 for one in truth])
        c = np.array([1.0 if one.checkerboard else -1.0 for one in truth])
        solid = np.array([float(one.solid) for one in truth])[:, None]
        regions.append(UnorderedBags(a, coarse[:, None], c, fine.mean(axis=1)[:, None]))
        tiles.append(UnorderedBags(a, coarse[:, None], np.repeat(c, fine.shape[1]), fine.reshape(-1, 1)))
        types.append(UnorderedBags(a, solid, c, solid))
    positive = np.array([design.pairing for design in cohort.design])
    return PixelAdversary(
        by_density=repairing_auc(regions, positive, seed=seed),
        by_density_of_tiles=repairing_auc(tiles, positive, seed=seed),
        by_gland_type=repairing_auc(types, positive, n_draws=50, seed=seed),
    )


def _standardised(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
