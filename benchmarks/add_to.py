"""20x features of a slide gain 10x and 5x: do they nest, are they what `embed` gives, and what does `--verify` refuse?

    python benchmarks/add_to.py SLIDE [--encoder filterbank] [--regions 60]

The 20x tiles of some regions of the slide are encoded and written as TRIDENT does, indexed, and added to. Beside it the
cosines by which `--verify` decides, for rows of the same encoder on pixels that are altered as other readers alter
them, and for rows of another normalisation, place or size.
"""

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.embed.reading import TileRows
from parfocal.embed.verify import agreement
from parfocal.encoders import TileEncoder, load_tile_encoder
from parfocal.errors import ParfocalWarning
from parfocal.geometry import Box
from parfocal.regions import plan_regions
from parfocal.slides import open_slide, read_tile
from parfocal.store import FeaturesToWrite, index_features, open_set
from parfocal.store.formats.format import FORMATS

TILE_PX, FINE, ADDED, BATCH, AGAIN = 224, 0.5, (2.0, 1.0), 32, 32
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def encoded(encoder: TileEncoder, tiles: np.ndarray) -> np.ndarray:
    return np.concatenate([encoder.encode(tiles[start : start + BATCH]) for start in range(0, len(tiles), BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--regions", type=int, default=60)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ParfocalWarning)
    encoder = load_tile_encoder(arguments.encoder)
    grid = GridConfig(mpps=(*ADDED, FINE))
    with tempfile.TemporaryDirectory() as name, open_slide(arguments.slide) as slide:
        folder, plan = Path(name), plan_regions(slide, grid)
        first = max((plan.n_regions - arguments.regions) // 2, 0)
        some = slice(first, first + arguments.regions)
        kept = {mpp: slots[some] for mpp, slots in plan.kept.items()}
        plan = replace(plan, lattice=plan.lattice[some], kept=kept, tissue_share=plan.tissue_share[some])
        settings = EmbedSettings(grid=grid, encoder=arguments.encoder, dtype="float32", qc=False)
        expected: dict[float, list[np.ndarray]] = {mpp: [] for mpp in grid.mpps}
        for mpp, rows in TileRows(slide, plan, dict.fromkeys(grid.mpps, encoder), settings, None).read():
            expected[mpp].append(rows)
        own = {mpp: np.concatenate(rows) for mpp, rows in expected.items()}
        planned = {mpp: plan.tiles(mpp) for mpp in grid.mpps}
        side_l0px = round(TILE_PX * FINE / slide.mpp)
        FORMATS.get("trident").write(  # type: ignore[misc]
            folder / "job",
            FeaturesToWrite(
                arguments.slide.stem, own[FINE], planned[FINE].coords_l0px, TILE_PX, side_l0px, side_l0px, FINE,
                slide.mpp, (slide.width_px, slide.height_px), encoder.name,
            ),
        )  # fmt: skip
        index = index_features([folder / "job"], folder / "store", slides=[arguments.slide]).embeddings
        before = {path: path.read_bytes() for path in (folder / "job").rglob("*.h5")}
        started = time.perf_counter()
        adding = settings.model_copy(update={"grid": GridConfig(mpps=ADDED), "add_to": index.path, "verify": AGAIN})
        counted, kind = list[int](), type(encoder)
        plain = kind.encode

        def count(self: TileEncoder, tiles: np.ndarray) -> np.ndarray:
            counted.append(len(tiles))
            return plain(self, tiles)

        kind.encode = count  # type: ignore[method-assign]
        summary = embed_slides([arguments.slide], folder / "store", adding)
        kind.encode = plain  # type: ignore[method-assign]
        seconds = time.perf_counter() - started
        made = open_set(summary.set_path).read(arguments.slide.stem)
        n_new = sum(len(made.features[mpp]) for mpp in ADDED)
        print(f"{len(own[FINE])} tiles at {FINE:g} mpp in {made.n_regions} regions of {made.region_um:g} um")
        print(f"{n_new} tiles added, {sum(counted) - n_new} encoded again, {seconds:.1f} s; {summary.done[0].remark}")
        same = all(path.read_bytes() == content for path, content in before.items())
        print(f"source files as before: {same}")
        for mpp in ADDED:
            print(compared(mpp, made, plan, own[mpp], slide.mpp))
        print("\n| rows | median cosine | worst | below 0.9 | `--verify` |\n|---|---|---|---|---|")
        step = np.unique(np.linspace(0, len(own[FINE]) - 1, AGAIN).round().astype(int))
        for what, tiles in altered(slide, planned[FINE].xy_um, step):
            found = agreement(own[FINE], encoded(encoder, tiles), step)
            verdict = "accepts" if found.is_same else "refuses"
            below = f"{found.n_below} of {found.n_tiles}"
            print(f"| {what} | {found.median:.3f} | {found.worst:.3f} | {below} | {verdict} |", flush=True)


def compared(mpp, made, plan, own, slide_mpp) -> str:
    """How many added tiles are those that `embed` makes, and how far their rows are."""
    side_um = TILE_PX * mpp
    corners = made.region_xy_um[made.region[mpp]] + made.region_um / 2 + made.center_um[mpp] - side_um / 2
    at = {tuple(xy): row for xy, row in zip(plan.tiles(mpp).coords_l0px.tolist(), own, strict=True)}
    pairs = [
        (row, at[tuple(place)])
        for row, place in zip(made.features[mpp], np.rint(corners / slide_mpp).astype(int).tolist(), strict=True)
        if tuple(place) in at
    ]
    off = max(float(np.abs(one - other).max()) for one, other in pairs)
    nest = np.abs(corners / (TILE_PX * FINE) - np.rint(corners / (TILE_PX * FINE))).max() * TILE_PX * FINE
    return (
        f"{mpp:g} mpp: {len(made.features[mpp])} tiles, of {len(own)} of `embed` {len(pairs)} are there, rows differ "
        f"by at most {off:.2g}; off the lattice of the 20x tiles by at most {nest:.2g} um"
    )


def altered(slide, xy_um, step):
    """The tiles again, as other readers and other settings show them."""

    def read(*, off_px: float = 0.0, mpp: float = FINE) -> np.ndarray:
        side_um, grows = TILE_PX * mpp, TILE_PX * (mpp - FINE) / 2
        corners = xy_um[step] + off_px * slide.mpp - grows
        return np.stack([read_tile(slide, Box(x, y, side_um, side_um), mpp=mpp) for x, y in corners.tolist()])

    def jpeg(tile: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=80)
        return np.asarray(Image.open(file))

    def resampled(tile: np.ndarray) -> np.ndarray:
        large = cv2.resize(tile, (2 * TILE_PX, 2 * TILE_PX), interpolation=cv2.INTER_CUBIC)
        return np.asarray(Image.fromarray(large).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS))

    def normalised(tiles: np.ndarray, mean: float, std: float) -> np.ndarray:
        # What the encoder, which takes away ImageNet's, has to see.
        return np.clip(((tiles / 255 - mean) / std * IMAGENET[1] + IMAGENET[0]) * 255, 0, 255).round().astype(np.uint8)

    same = read()
    yield "the same", same
    yield "the same through JPEG of quality 80", np.stack([jpeg(tile) for tile in same])
    yield "the same enlarged twice and shrunk (Lanczos)", np.stack([resampled(tile) for tile in same])
    yield "shifted by 1 px", read(off_px=1)
    yield "shifted by 8 px", read(off_px=8)
    yield "shifted by half a tile", read(off_px=TILE_PX / 2)
    yield "normalised by 0.5 and 0.5 in place of ImageNet's", normalised(same, 0.5, 0.5)
    yield "not normalised", normalised(same, 0.0, 1.0)
    yield "blue and red exchanged", np.ascontiguousarray(same[..., ::-1])
    yield "of 10x", read(mpp=1.0)
    yield "of other tiles", np.roll(same, 5, axis=0)


if __name__ == "__main__":
    main()
