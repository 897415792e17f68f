"""The re-pairing adversary on rendered slides: mean optical density and gland type, which every magnification shows."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from parfocal.lab.synthetic.adversary import UnorderedBags, repairing_auc
from parfocal.lab.synthetic.rendered import RenderedCohort, SlideDesign
from parfocal.lab.synthetic.tissue import REGION_PX
from parfocal.run.jobs import each_in_process
from parfocal.slides import open_slide

_FINE_PX = 224
_COARSE_LEVEL = 2
_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


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
