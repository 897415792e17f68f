"""Each layout of features that other tools write, at 20x, 10x and 5x, indexed beside what `embed` makes of the slide.

    python benchmarks/layouts.py SLIDE [--encoder filterbank] [--layouts trident clam ...] [--mpp 0.2525]

First on our own coordinates: the regions and rows of `parfocal embed`, written in the layout and indexed again, must be
those of the store. Then on the tool's own lattice: where its tiler would have laid tiles over the same tissue, by its
origin (the corner of the slide, or that of each piece of tissue) and its rounding of sides, on a slide of `--mpp`,
whose level 0 is no whole part of the magnifications. The rows are noise there; what is measured is the geometry.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ParfocalWarning
from parfocal.store import EmbeddingSet, FeaturesToWrite, index_features, open_set
from parfocal.store.formats.format import FORMATS
from parfocal.store.index import IndexedSlide

MPPS = (2.0, 1.0, 0.5)
TILE_PX = 224


@dataclass(frozen=True)
class Tiler:
    """How a tool lays its tiles: from the corner of the slide or of each piece of tissue, and how it rounds a side."""

    by_piece: bool
    side_l0px: Callable[[float, float], int]  # of mpp and the slide's


def nominal(mpp: float, slide_mpp: float) -> int:
    """By the magnification that a resolution is called."""
    power = 40 if slide_mpp < 0.3 else 20
    return round(TILE_PX * power / (10 / mpp))


TILERS = {
    "atlaspatch": Tiler(by_piece=True, side_l0px=nominal),
    "clam": Tiler(by_piece=True, side_l0px=nominal),
    "slide2vec": Tiler(by_piece=True, side_l0px=lambda mpp, slide_mpp: round(TILE_PX * mpp / slide_mpp)),
    "stamp": Tiler(by_piece=False, side_l0px=lambda mpp, slide_mpp: int(np.ceil(TILE_PX * mpp / slide_mpp))),
    "trident": Tiler(by_piece=False, side_l0px=nominal),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--layouts", nargs="+", default=sorted(TILERS))
    parser.add_argument("--mpp", type=float, default=0.2525, help="of the slide whose tiles the tools lay")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ParfocalWarning)
    with tempfile.TemporaryDirectory() as folder:
        settings = EmbedSettings(grid=GridConfig(mpps=MPPS), encoder=arguments.encoder, coarse="native", qc=False)
        made = embed_slides([arguments.slide], Path(folder) / "store", settings)
        tiles = open_set(made.set_path)
        print(
            "| layout | regions of `embed` | the same after indexing | rows in the same place | off by at most (um) |"
        )
        print("|---|---|---|---|---|")
        for layout in arguments.layouts:
            print(own_coordinates(layout, tiles, arguments.slide, Path(folder) / "own" / layout), flush=True)
        print(f"\nOn the lattice of each tool, over the same tissue, on a slide of {arguments.mpp:g} um per pixel:\n")
        print("| layout | regions | tiles in regions (5x, 10x, 20x) | left out | off by at most (um) | why |")
        print("|---|---|---|---|---|---|")
        for layout in arguments.layouts:
            print(own_lattice(layout, tiles, arguments.mpp, Path(folder) / "theirs" / layout), flush=True)


def own_coordinates(layout: str, tiles: EmbeddingSet, slide: Path, folder: Path) -> str:
    """A row of the first table."""
    [name] = tiles.slides
    tokens, known = tiles.read(name), tiles.attributes(name)
    size = (int(known["level0_width"]), int(known["level0_height"]))
    for mpp in tokens.mpps:
        side_l0px = TILE_PX * mpp / tokens.slide_mpp
        corner_um = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp]
        corner_um -= TILE_PX * mpp / 2
        write(layout, folder, name, tokens.features[mpp], corner_um / tokens.slide_mpp, side_l0px, mpp, tokens, size)
    summary = index_features([folder], folder.parent / f"{layout}-store", slides=[slide], ids="name")
    again = summary.embeddings.read(summary.slides[0].slide)
    same = {tuple(xy) for xy in np.rint(again.region_xy_um / tokens.slide_mpp).tolist()}
    ours = [tuple(xy) for xy in np.rint(tokens.region_xy_um / tokens.slide_mpp).tolist()]
    places = {tuple(xy): number for number, xy in enumerate(np.rint(again.region_xy_um / tokens.slide_mpp).tolist())}
    equal, total = 0, 0
    for mpp in tokens.mpps:
        theirs = {
            (int(region), *slot): row
            for region, slot, row in zip(
                again.region[mpp],
                np.floor((again.center_um[mpp] + again.region_um / 2) / (TILE_PX * mpp)).astype(int).tolist(),
                again.features[mpp],
                strict=True,
            )
        }
        slots = np.floor((tokens.center_um[mpp] + tokens.region_um / 2) / (TILE_PX * mpp)).astype(int).tolist()
        for region, slot, row in zip(tokens.region[mpp], slots, tokens.features[mpp], strict=True):
            found = theirs.get((places.get(ours[region], -1), *slot))
            equal += found is not None and bool(np.allclose(found, row, rtol=1e-3, atol=1e-3))
            total += 1
    off_um = summary.slides[0].largest_misalignment_um
    return f"| {layout} | {len(ours)} | {sum(one in same for one in ours)} | {equal} of {total} | {off_um:.3f} |"


def own_lattice(layout: str, tiles: EmbeddingSet, slide_mpp: float, folder: Path) -> str:
    """A row of the second table."""
    [name] = tiles.slides
    tokens, tiler = tiles.read(name), TILERS[layout]
    # The same tissue, counted in the pixels of a slide of the other resolution.
    corners = np.rint(tokens.region_xy_um / tokens.region_um).astype(int)
    tissue = np.zeros(corners.max(axis=0)[::-1] + 1, bool)
    tissue[corners[:, 1], corners[:, 0]] = True
    pieces, n_pieces = ndimage.label(tissue)
    rng, region_l0px = np.random.default_rng(0), tokens.region_um / slide_mpp
    size = tuple(int((side + 1) * region_l0px) for side in corners.max(axis=0))
    for mpp in MPPS:
        side = tiler.side_l0px(mpp, slide_mpp)
        found = []
        for piece in range(1, n_pieces + 1) if tiler.by_piece else [0]:
            held = tissue if piece == 0 else pieces == piece
            rows, columns = np.nonzero(held)
            # A piece begins where its outline does, which lies somewhere within its first region.
            jitter = rng.uniform(0, 0.9, 2) * region_l0px if tiler.by_piece else np.zeros(2)
            start = np.rint(np.array([columns.min(), rows.min()]) * region_l0px + jitter) if piece else np.zeros(2)
            end = np.array([columns.max() + 1, rows.max() + 1]) * region_l0px
            steps = [np.arange(first, last, side) for first, last in zip(start, end, strict=True)]
            xy = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)
            cell = np.floor((xy + side / 2) / region_l0px).astype(int)
            inside = (cell < tissue.shape[::-1]).all(axis=1)
            found.append(xy[inside][held[cell[inside, 1], cell[inside, 0]]])
        xy = np.concatenate(found)
        write(layout, folder, name, rng.normal(size=(len(xy), 8)), xy, side, mpp, tokens, size, slide_mpp)
    summary = index_features([folder], folder.parent / f"{layout}-store", slide_mpp=slide_mpp)
    one: IndexedSlide = summary.slides[0]
    counts = ", ".join(str(count) for count in one.n_tiles.values())
    off = ", ".join(f"{off:.1f}" for off in one.misalignment_um.values())
    why = "; ".join(one.remarks).replace("|", "/")
    return f"| {layout} | {one.n_regions} | {counts} | {sum(one.n_left_out.values())} | {off} | {why} |"


def write(layout, folder, name, rows, xy, side, mpp, tokens, size, slide_mpp=None) -> None:
    """The tiles of one magnification, as the tool's run at it leaves them."""
    target = folder / f"{10 / mpp:g}x"
    if layout == "trident":
        target = folder / f"{10 / mpp:g}x_{TILE_PX}px_0px_overlap"
    writer = FORMATS.get(layout).write
    assert writer is not None
    writer(
        target,
        FeaturesToWrite(
            slide=name,
            rows=np.asarray(rows),
            xy_l0px=np.rint(xy).astype(np.int64),
            tile_px=TILE_PX,
            tile_l0px=round(side),
            stride_l0px=round(side),
            mpp=mpp if slide_mpp is None else side * slide_mpp / TILE_PX,
            slide_mpp=slide_mpp or tokens.slide_mpp,
            size_l0px=size,
            encoder="filterbank",
        ),
    )


if __name__ == "__main__":
    main()
