"""A slide of 100,000 x 100,000 px: how much memory reading takes, and whether two threads read twice as fast as one.

    python benchmarks/huge_slide.py [--side 100000] [--regions 1500] [--repeats 3] [--folder DIR]

The slide is a pyramid of JPEG tiles with tissue on its upper part. A few compressed tiles stand in the file once and
all tiles of all levels name them, so that it takes a few megabytes of disk; each is decoded like any other.

1. Every region is read by the pipe of `embed` (a thread that reads ahead, batches, a queue of two), in a process of its
   own for each size of batch; what takes the batches hesitates once, long enough to fill any queue. The peak of memory
   when tissue has been found is printed beside the peak at a quarter of the tiles and at the end.
2. Some regions are read by one thread, and half of them each by two threads with an open slide each, and by two
   processes, which show what the machine has to give; in turns, and the best of each counts.
"""

import argparse
import json
import multiprocessing
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from parfocal.config import GridConfig
from parfocal.embed.reading import batches
from parfocal.regions import RegionPlan, plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.run.jobs import prefetched
from parfocal.slides import open_slide

MPP, TILE_PX, PICTURES = 0.5, 256, 16
GRID = GridConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--regions", type=int, default=1_500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    if asked.read:
        print(json.dumps(read_whole(asked.read, asked.batches[0])))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path = Path(folder) / "huge.tif"
        write_slide(path, asked.side)
        print(f"{asked.side:,} x {asked.side:,} px, {path.stat().st_size / 1e6:.1f} MB on disk")
        print(
            "| tiles in a batch | MiB of a batch | regions | tiles | MiB before | at a quarter | at the end | tiles/s |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for size in asked.batches:
            command = [sys.executable, __file__, "--read", str(path), "--batches", str(size)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            one = json.loads(answer.splitlines()[-1])
            print(
                f"| {size} | {size * GRID.tile_px**2 * 3 / 2**20:.1f} | {one['regions']:,} | {one['tiles']:,} | "
                f"{one['before']:.0f} | {one['quarter']:.0f} | {one['end']:.0f} | {one['rate']:,.0f} |",
                flush=True,
            )
        threads(path, asked.regions, asked.repeats)


def read_whole(path: Path, size: int) -> dict[str, float]:
    """Read every tile of a slide by the pipe of `embed`; the peaks of memory in MiB."""
    with open_slide(path) as slide:
        plan = plan_regions(slide, GRID)
        total = sum(plan.n_tiles(mpp) for mpp in GRID.mpps)
        found = {"regions": plan.n_regions, "tiles": total, "before": peak_mib()}
        done, started = 0, time.monotonic()
        with prefetched(batches(iter_tiles(slide, plan), dict.fromkeys(GRID.mpps, size))) as ready:
            for _, tiles in ready:
                if not done:
                    time.sleep(3)
                done += len(tiles)
                if done <= total / 4:
                    found["quarter"] = peak_mib()
    assert done == total
    return {**found, "end": peak_mib(), "rate": total / (time.monotonic() - started - 3)}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def threads(path: Path, n_regions: int, repeats: int) -> None:
    """The same regions by one thread, and by two at a time."""
    with open_slide(path) as slide:
        plan = part(plan_regions(slide, GRID), 0, n_regions)
    halves = [part(plan, 0, n_regions // 2), part(plan, n_regions // 2, n_regions)]
    ways = {
        "one thread": partial(together, threading.Thread, path, [plan]),
        "two threads": partial(together, threading.Thread, path, halves),
        "two processes": partial(together, multiprocessing.get_context("fork").Process, path, halves),
    }
    best = dict.fromkeys(ways, np.inf)
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.monotonic()
            way()
            best[name] = min(best[name], time.monotonic() - started)
    n_tiles = sum(plan.n_tiles(mpp) for mpp in GRID.mpps)
    for name, seconds in best.items():
        print(f"{name}: {n_tiles / seconds:,.0f} tiles/s, {best['one thread'] / seconds:.2f} times one thread")


def together(kind: Callable[..., Any], path: Path, plans: list[RegionPlan]) -> None:
    """Read plans at the same time, each in a thread or process of its own."""
    readers = [kind(target=read, args=(path, one)) for one in plans]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def read(path: Path, plan: RegionPlan) -> None:
    with open_slide(path) as slide:
        for _ in iter_tiles(slide, plan):
            pass


def part(plan: RegionPlan, first: int, beyond: int) -> RegionPlan:
    """Some regions of a plan, in its order."""
    kept = {mpp: mask[first:beyond] for mpp, mask in plan.kept.items()}
    return replace(plan, lattice=plan.lattice[first:beyond], kept=kept, tissue_share=plan.tissue_share[first:beyond])


def write_slide(path: Path, side: int) -> None:
    """A BigTIFF of levels 1, 4, 16 and 64 whose tiles share the bytes of a few pictures, the first of them of glass."""
    band = max(1, round(0.75 * side / (64 * TILE_PX))) * 64 * TILE_PX  # whole tiles at every level
    rng = np.random.default_rng(0)
    pictures = [np.full((TILE_PX, TILE_PX, 3), 243, np.uint8)]
    # The last one is for coarser levels, on which the speckle averages out.
    for contrast in (*[35] * PICTURES, 2):
        speckle = cv2.GaussianBlur(rng.normal(size=(TILE_PX, TILE_PX)).astype(np.float32), (0, 0), 2)
        speckle = (speckle / speckle.std())[..., None]
        pictures.append(np.clip(np.array([185, 115, 170]) - contrast * speckle, 0, 255).astype(np.uint8))
    streams = [cv2.imencode(".jpg", one[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes() for one in pictures]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        places = []
        for stream in streams:
            places.append((file.tell(), len(stream)))
            file.write(stream + bytes(-len(stream) % 8))
        link = 8  # where the place of the next directory is written
        for shrink in (1, 4, 16, 64):
            size = side // shrink
            across = -(-size // TILE_PX)
            chosen = (
                rng.integers(1, 1 + PICTURES, (across, across))
                if shrink == 1
                else np.full((across, across), 1 + PICTURES)
            )
            chosen[np.arange(across) * TILE_PX * shrink >= band] = 0
            listed = np.array(places, np.uint64)[chosen.ravel()]
            arrays = []
            for column in (0, 1):
                arrays.append(file.tell())
                file.write(np.ascontiguousarray(listed[:, column]).tobytes())
            resolution = struct.pack("<II", round(1e4 / MPP), shrink)
            many = len(listed)
            tags = [
                entry(254, 4, 1, struct.pack("<I", int(shrink > 1))),
                entry(256, 4, 1, struct.pack("<I", size)),
                entry(257, 4, 1, struct.pack("<I", size)),
                entry(258, 3, 3, struct.pack("<HHH", 8, 8, 8)),
                entry(259, 3, 1, struct.pack("<H", 7)),  # JPEG
                entry(262, 3, 1, struct.pack("<H", 6)),  # YCbCr
                entry(277, 3, 1, struct.pack("<H", 3)),
                entry(282, 5, 1, resolution),
                entry(283, 5, 1, resolution),
                entry(284, 3, 1, struct.pack("<H", 1)),
                entry(296, 3, 1, struct.pack("<H", 3)),  # centimetres
                entry(322, 4, 1, struct.pack("<I", TILE_PX)),
                entry(323, 4, 1, struct.pack("<I", TILE_PX)),
                entry(324, 16, many, struct.pack("<Q", arrays[0])),
                entry(325, 16, many, struct.pack("<Q", arrays[1])),
                entry(530, 3, 2, struct.pack("<HH", 2, 2)),
            ]
            directory = file.tell()
            file.write(struct.pack("<Q", len(tags)) + b"".join(tags))
            after = file.tell()
            file.write(struct.pack("<Q", 0))
            file.seek(link)
            file.write(struct.pack("<Q", directory))
            file.seek(0, 2)
            link = after


def entry(code: int, kind: int, count: int, value: bytes) -> bytes:
    """A tag of a BigTIFF."""
    return struct.pack("<HHQ", code, kind, count) + value.ljust(8, b"\0")


if __name__ == "__main__":
    main()
