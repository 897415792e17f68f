"""What the filter bank reads of a rendered cohort, what the adversary can re-pair, and what rendering costs.

python benchmarks/rendered_cohort.py FOLDER [--slides 48] [--seed 1] [--omega 3]
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from parfocal.config import GridConfig
from parfocal.encoders import FilterBank
from parfocal.lab.synthetic import RenderSettings, attribute_readability, pixel_adversary, render_cohort
from parfocal.regions import plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import open_slide
from parfocal.store import SlideTokens


def embed(path: Path, bank: FilterBank, grid: GridConfig) -> SlideTokens:
    with open_slide(path) as slide:
        plan = plan_regions(slide, grid)
        rows: dict[float, list[np.ndarray]] = {mpp: [] for mpp in grid.mpps}
        for region in iter_tiles(slide, plan):
            for mpp, tiles in region.tiles.items():
                rows[mpp].append(bank.encode(tiles))
        planned = {mpp: plan.tiles(mpp) for mpp in grid.mpps}
        return SlideTokens(
            slide=path.stem,
            region_um=grid.region_um,
            slide_mpp=slide.mpp,
            region_xy_um=plan.region_xy_um(),
            features={mpp: np.concatenate(own) for mpp, own in rows.items()},
            region={mpp: own.region for mpp, own in planned.items()},
            center_um={mpp: own.center_um for mpp, own in planned.items()},
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--omega", type=float, default=None)
    given = parser.parse_args()
    settings = RenderSettings(n_slides=given.slides, seed=given.seed, omega=given.omega)

    start = time.perf_counter()
    cohort = render_cohort(given.folder, settings, workers=2)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(path.stat().st_size for path in cohort.slides) / 1e9
    print(f"rendered in {time.perf_counter() - start:.1f} s by 2 processes of up to {children.ru_maxrss / 1e3:.0f} MB")
    print(f"(user {children.ru_utime:.0f} s, system {children.ru_stime:.0f} s); {size:.2f} GB")

    start = time.perf_counter()
    print(pixel_adversary(cohort), f"in {time.perf_counter() - start:.1f} s")

    bank, grid = FilterBank(), GridConfig()
    slides = [embed(path, bank, grid) for path in cohort.slides]
    start = time.perf_counter()
    for one in attribute_readability(slides, cohort.design):
        print(f"{one.attribute:5s} {one.mpp:g} mpp, {one.unit:6s} {one.auc:.3f} [{one.low:.3f}, {one.high:.3f}]")
    print(f"read in {time.perf_counter() - start:.1f} s, {len(slides)} slides, {slides[0].n_regions} regions each")


if __name__ == "__main__":
    main()
