"""Open a slide, find its tissue and regions, and look at one region at three magnifications.

    python examples/first_slide.py out [SLIDE]

Writes `regions.jpg` (the slide with its tissue and regions) and `one_region.png` (the same 448 um at 5x, 10x and 20x).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from parfocal import GridConfig, iter_tiles, open_slide, plan_regions
from parfocal.lab.synthetic import RenderSettings, design_cohort, render_slide
from parfocal.regions import write_qc


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles of a square region, in reading order, as one picture."""
    side = int(len(tiles) ** 0.5)
    rows = [np.concatenate(list(tiles[n * side : (n + 1) * side]), axis=1) for n in range(side)]
    return np.concatenate(rows, axis=0)


def main(out: Path, slide_path: Path | None = None) -> None:
    """Draw the regions of a slide, and one of them; without a slide a small one is rendered."""
    out.mkdir(parents=True, exist_ok=True)
    if slide_path is None:
        slide_path = out / "rendered.tif"
        settings = RenderSettings(n_slides=4)
        render_slide(design_cohort(settings)[0], settings, slide_path)

    with open_slide(slide_path) as slide:
        plan = plan_regions(slide, GridConfig(mpps=(2.0, 1.0, 0.5)))
        print(f"{slide.name}: {slide.mpp:g} um per pixel, {plan.n_regions} regions of {plan.grid.region_um:g} um")
        write_qc(out / "regions.jpg", slide, plan)
        region = next(region for region in iter_tiles(slide, plan) if len(region.tiles[0.5]) == 16)

    views = [mosaic(region.tiles[mpp]) for mpp in (2.0, 1.0, 0.5)]
    enlarged = [np.asarray(Image.fromarray(view).resize((448, 448))) for view in views]
    Image.fromarray(np.concatenate(enlarged, axis=1)).save(out / "one_region.png")
    print(f"look at {out / 'regions.jpg'} and {out / 'one_region.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
