"""How fast tiles come off a slide, beside OpenSlide and beside the least that any reader must do.

    python benchmarks/read_tiles.py SLIDE [--regions 150] [--slide-mpp 0.5]

Scattered tissue regions are read at 5x, 10x and 20x (2, 1 and 0.5 mpp) in three ways, each three times, in turn, in
this one process and thread; the best CPU time of each counts. The regions are scattered, so that no way gains from
tiles that neighbours share.

- floor: decode every level-0 tile under the regions once, and nothing else;
- one pass: `parfocal.regions.tiles`, the coarser magnifications derived, and again from the slide's own levels;
- tile by tile: OpenSlide's `read_region` at the nearest finer level and Pillow's resize, as tile extractors do.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile
from PIL import Image

from parfocal.config import GridConfig
from parfocal.regions import RegionPlan, plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import open_slide


def scattered(plan: RegionPlan, n_regions: int) -> RegionPlan:
    """A part of a plan: every kth region, all tiles of it kept, in the plan's order."""
    chosen = np.unique(np.linspace(0, plan.n_regions - 1, min(n_regions, plan.n_regions)).astype(int))
    kept = {mpp: np.ones_like(mask[chosen]) for mpp, mask in plan.kept.items()}
    return replace(plan, lattice=plan.lattice[chosen], kept=kept, tissue_share=plan.tissue_share[chosen])


def one_pass(path: Path, plan: RegionPlan, coarse: str) -> int:
    with open_slide(path, slide_mpp=plan.slide_mpp) as slide:
        return sum(len(t) for region in iter_tiles(slide, plan, coarse=coarse) for t in region.tiles.values())


def tile_by_tile(path: Path, plan: RegionPlan) -> int:
    slide = openslide.OpenSlide(str(path))
    count = 0
    for mpp in plan.grid.mpps:
        side_l0 = plan.grid.tile_um(mpp) / plan.slide_mpp
        level = slide.get_best_level_for_downsample(mpp / plan.slide_mpp * 1.01)
        read_px = round(side_l0 / slide.level_downsamples[level])
        for x, y in plan.tiles(mpp).coords_l0px.tolist():
            tile = slide.read_region((x, y), level, (read_px, read_px)).convert("RGB")
            if read_px != plan.grid.tile_px:
                tile = tile.resize((plan.grid.tile_px, plan.grid.tile_px), Image.Resampling.BILINEAR)
            np.asarray(tile)
            count += 1
    return count


def floor(path: Path, plan: RegionPlan) -> int:
    """Decode each level-0 tile under the regions once."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page = tiff.pages.first
        across = -(-page.imagewidth // page.tilewidth)
        needed = set()
        for region in range(plan.n_regions):
            left, top, right, bottom = plan.window_l0px(region)
            right, bottom = min(right, page.imagewidth), min(bottom, page.imagelength)
            for row in range(top // page.tilelength, (bottom - 1) // page.tilelength + 1):
                for column in range(left // page.tilewidth, (right - 1) // page.tilewidth + 1):
                    needed.add(row * across + column)
        for index in sorted(needed):
            file.seek(page.dataoffsets[index])
            page.decode(file.read(page.databytecounts[index]), index, jpegtables=page.jpegtables)
    return sum(plan.n_tiles(mpp) for mpp in plan.grid.mpps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--regions", type=int, default=150)
    parser.add_argument("--slide-mpp", type=float)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with open_slide(arguments.slide, slide_mpp=arguments.slide_mpp) as slide:
        whole = plan_regions(slide, GridConfig())
    plan = scattered(whole, arguments.regions)
    ways: dict[str, Callable[[], int]] = {
        "floor (decode only)": lambda: floor(arguments.slide, plan),
        "one pass, derived": lambda: one_pass(arguments.slide, plan, "derived"),
        "one pass, native": lambda: one_pass(arguments.slide, plan, "native"),
        "OpenSlide, tile by tile": lambda: tile_by_tile(arguments.slide, plan),
    }
    best = dict.fromkeys(ways, float("inf"))
    tiles = {}
    for _ in range(3):
        for name, way in ways.items():
            start = time.process_time()
            tiles[name] = way()
            best[name] = min(best[name], time.process_time() - start)
    least = best["floor (decode only)"]
    print(f"{arguments.slide.name}: {plan.n_regions} of {whole.n_regions} regions, one thread, best of 3")
    for name, seconds in best.items():
        rate = tiles[name] / seconds
        print(f"{name:24} {tiles[name]:6} tiles  {rate:7.0f} per CPU second  {seconds / least:5.2f} x floor")


if __name__ == "__main__":
    main()
