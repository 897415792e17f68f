"""How fast tiles come off a slide, beside OpenSlide and beside the least that any reader must do.

    python benchmarks/read_tiles.py SLIDE [--regions 150] [--slide-mpp 0.5]

Scattered tissue regions are read at 5x, 10x and 20x (2, 1 and 0.5 mpp) in several ways, each three times, in turn,
in this one process and thread; the best CPU time of each counts. The regions are scattered, so that no way gains from
tiles that neighbours share.

- floor: decode every level-0 tile under the regions once, and nothing else;
- one pass: `parfocal.regions.tiles`, the coarser magnifications derived, and again from the slide's own levels;
- tile by tile: OpenSlide's `read_region` at the nearest finer level and Pillow's resize, as tile extractors do;
- cuCIM and fastslide, where they are installed, tile by tile in the same way, and by region: one read at the nearest
  finer level for each region and magnification, from which its tiles are cut. Before anything is timed their pixels are
  compared with OpenSlide's. `pip install cucim-cu12 fastslide`, or into a folder of PYTHONPATH with --target.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
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


Read = Callable[[int, int, int, int], np.ndarray]
"""Pixels of a square: x and y of its corner in level-0 pixels, level, side in pixels of the level."""


def openslide_read(path: Path) -> Read:
    slide = openslide.OpenSlide(str(path))
    return lambda x, y, level, side: np.asarray(slide.read_region((x, y), level, (side, side)).convert("RGB"))


def cucim_read(path: Path) -> Read:
    from cucim import CuImage

    slide = CuImage(str(path))
    return lambda x, y, level, side: np.asarray(slide.read_region((x, y), (side, side), level=level))


def fastslide_read(path: Path) -> Read:
    from fastslide import FastSlide

    slide = FastSlide.from_file_path(str(path))

    def read(x: int, y: int, level: int, side: int) -> np.ndarray:
        place = slide.convert_level0_to_level_native(x, y, level)
        width, height = slide.level_dimensions[level]
        if place[0] >= width or place[1] >= height:  # which it refuses, and the others read as white or black
            return np.full((side, side, 3), 255, np.uint8)
        pixels = slide.read_region(location=place, level=level, size=(side, side)).numpy()
        missing = side - pixels.shape[0], side - pixels.shape[1]  # it ends where the level does
        return (
            np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=255) if any(missing) else pixels
        )

    return read


PEERS = {"cuCIM": ("cucim", cucim_read), "fastslide": ("fastslide", fastslide_read)}


def tile_by_tile(path: Path, plan: RegionPlan, opened: Callable[[Path], Read]) -> int:
    """Read every tile by itself."""
    read, sizes = opened(path), levels_of(path, plan)
    count = 0
    for mpp in plan.grid.mpps:
        level, downsample = sizes[mpp]
        side = round(plan.grid.tile_um(mpp) / plan.slide_mpp / downsample)
        for x, y in plan.tiles(mpp).coords_l0px.tolist():
            shrunk(read(x, y, level, side), plan.grid.tile_px)
            count += 1
    return count


def by_region(path: Path, plan: RegionPlan, opened: Callable[[Path], Read]) -> int:
    """Read every region once at each magnification, and cut its tiles."""
    read, sizes = opened(path), levels_of(path, plan)
    corners = np.round(plan.region_xy_um() / plan.slide_mpp).astype(int).tolist()
    count = 0
    for mpp in plan.grid.mpps:
        level, downsample = sizes[mpp]
        side = round(plan.grid.region_um / plan.slide_mpp / downsample)
        per_side, tile_px = plan.grid.tiles_per_side(mpp), plan.grid.tile_px
        for x, y in corners:
            picture = shrunk(read(x, y, level, side), per_side * tile_px)
            slots = picture.reshape(per_side, tile_px, per_side, tile_px, 3).swapaxes(1, 2)
            count += len(np.ascontiguousarray(slots).reshape(-1, tile_px, tile_px, 3))
    return count


def levels_of(path: Path, plan: RegionPlan) -> dict[float, tuple[int, float]]:
    """The level that each magnification is read from, and its downsample."""
    slide = openslide.OpenSlide(str(path))
    levels = {mpp: slide.get_best_level_for_downsample(mpp / plan.slide_mpp * 1.01) for mpp in plan.grid.mpps}
    return {mpp: (level, slide.level_downsamples[level]) for mpp, level in levels.items()}


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """A square picture of the side."""
    if len(pixels) == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def check_peer(name: str, opened: Callable[[Path], Read], path: Path, plan: RegionPlan) -> None:
    """Say how far its pixels are from OpenSlide's, at a place of every level that is read."""
    x, y = plan.tiles(min(plan.grid.mpps)).coords_l0px[plan.n_tiles(min(plan.grid.mpps)) // 2].tolist()
    mine, reference = opened(path), openslide_read(path)
    levels = {level for level, _ in levels_of(path, plan).values()}
    off = [np.abs(mine(x, y, one, 224).astype(int) - reference(x, y, one, 224)).max() for one in sorted(levels)]
    print(f"{name}: grey levels from OpenSlide's at one place of levels {sorted(levels)}: at most {max(off)}")


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
        "OpenSlide, tile by tile": lambda: tile_by_tile(arguments.slide, plan, openslide_read),
    }
    for name, (module, opened) in PEERS.items():
        if find_spec(module) is None:
            print(f"{name} is not installed")
            continue
        check_peer(name, opened, arguments.slide, plan)
        ways[f"{name}, tile by tile"] = partial(tile_by_tile, arguments.slide, plan, opened)
        ways[f"{name}, by region"] = partial(by_region, arguments.slide, plan, opened)
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
