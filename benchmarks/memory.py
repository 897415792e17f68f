"""Peak memory of embedding a slide, at 15,000 and at 100,000 px: it must not grow with the slide.

Run: python benchmarks/memory.py [--widths 15000 100000] [--height 8000] [--folder DIR]
Slides are tiled JPEG pyramids that repeat one stained tile over three quarters of the slide; each is embedded whole
with the filter bank, in a process of its own, whose peak resident memory the operating system reports.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

TILE_PX = 256
MPP = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[15_000, 100_000])
    parser.add_argument("--height", type=int, default=8_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.embed:
        embed_one(arguments.embed)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        heads = (("px", 18), ("GPx", 7), ("file MB", 9), ("regions", 9), ("tiles", 9), ("s", 8), ("tiles/s", 9))
        print("".join(f"{head:>{width}}" for head, width in (*heads, ("MiB at 1/4", 11), ("peak MiB", 10))))
        for width in arguments.widths:
            path = Path(folder) / f"wide-{width}.tif"
            write_slide(path, width, arguments.height)
            command = [sys.executable, __file__, "--embed", str(path)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            regions, tiles, (seconds, quarter, peak) = int(answer[0]), int(answer[1]), map(float, answer[2:])
            size = f"{width} x {arguments.height}"
            pixels, megabytes = width * arguments.height / 1e9, path.stat().st_size / 1e6
            print(
                f"{size:>18}{pixels:>7.2f}{megabytes:>9.0f}{regions:>9}{tiles:>9}{seconds:>8.1f}"
                f"{tiles / seconds:>9.0f}{quarter:>11.0f}{peak:>10.0f}",
                flush=True,
            )


def embed_one(path: Path) -> None:
    """Embed a slide here; print regions, tiles, seconds, and the peak in MiB after a quarter of it and at the end."""
    from parfocal.embed import EmbedSettings, embed_slides
    from parfocal.run.events import Event, Progress

    quarter = 0.0

    def look(event: Event) -> None:
        nonlocal quarter
        if isinstance(event, Progress) and event.stage == "tiles" and event.done <= (event.total or 0) / 4:
            quarter = _peak_mib()

    started = time.monotonic()
    done = embed_slides([path], path.with_suffix(".store"), EmbedSettings(encoder="filterbank"), on_event=look).done[0]
    print(done.n_regions, sum(done.n_tiles.values()), time.monotonic() - started, quarter, _peak_mib())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_slide(path: Path, width: int, height: int) -> None:
    """A pyramid of levels 1, 4 and 16 whose tiles are one stained picture, or glass in every fourth row of tiles."""
    rng = np.random.default_rng(0)
    speckle = cv2.GaussianBlur(rng.normal(size=(TILE_PX, TILE_PX)).astype(np.float32), (0, 0), 2)
    speckle = (speckle / speckle.std())[..., None]
    tissue = np.clip(np.array([185, 115, 170]) - 35 * speckle, 0, 255).astype(np.uint8)
    glass = np.full_like(tissue, 243)

    def tiles(width: int, height: int) -> Iterator[np.ndarray]:
        for row in range(-(-height // TILE_PX)):
            for _ in range(-(-width // TILE_PX)):
                # Bands that stand still from level to level: a quarter of the height is glass.
                yield glass if row * TILE_PX > 0.75 * height else tissue

    resolution = (1e4 / MPP, 1e4 / MPP)
    with tifffile.TiffWriter(path, bigtiff=True) as slide:
        for level, shrink in enumerate((1, 4, 16)):
            size = (width // shrink, height // shrink)
            slide.write(
                tiles(*size),
                shape=(size[1], size[0], 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                resolution=(resolution[0] / shrink, resolution[1] / shrink),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
            )


if __name__ == "__main__":
    main()
