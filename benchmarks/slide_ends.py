"""How long a device waits between one slide and the next, with one and with several processes that read for it.

    python benchmarks/slide_ends.py SLIDE [--slide-mpp 0.5] [--slides 8] [--side 4096] [--rate 600] [--workers 0 1 2]

Small slides are cut out of a slide where it has most tissue, and embedded; with --side 0 whole copies of it are. In
place of a device stands a lock: who holds it waits as long as a device of that rate needs for a batch, and uses no
core. So the cores read, as beside a GPU, and only one process at a time has the device. Printed is which part of the
time nobody had it, from its first batch to its last. Nothing of a slide is begun before the one before it is written:
several workers for one device fill the gaps.
"""

import argparse
import csv
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.geometry import Box
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.regions import find_tissue
from parfocal.slides import open_slide

DEVICE = """
import fcntl, os, time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LOCK = os.open(HERE / "lock", os.O_CREAT | os.O_RDWR)
RATE = float((HERE / "rate").read_text())

def encode(tiles):
    fcntl.flock(LOCK, fcntl.LOCK_EX)
    began = time.time()
    time.sleep(len(tiles) / RATE)
    with (HERE / "batches.csv").open("a") as file:
        file.write(f"{began},{time.time()},{os.getpid()},{len(tiles)}\\n")
    fcntl.flock(LOCK, fcntl.LOCK_UN)
    return np.zeros((len(tiles), 8), np.float32)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=600.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cut_slides(asked, folder / "scans")
        (folder / "device.py").write_text(DEVICE)
        (folder / "rate").write_text(str(asked.rate))
        print("| workers | tiles | seconds | device idle | what embed says |")
        print("|---|---|---|---|---|")
        for repeat in range(asked.repeats):
            for workers in asked.workers:
                (folder / "batches.csv").write_text("")
                settings = EmbedSettings(
                    encoder=f"python:{folder / 'device.py'}:encode,tile_px=224", slide_mpp=0.5, workers=workers
                )
                started = time.monotonic()
                summary = embed_slides([folder / "scans"], folder / f"store-{workers}-{repeat}", settings)
                seconds = time.monotonic() - started
                tiles, idle = device_idle(folder / "batches.csv")
                print(f"| {workers} | {tiles:,} | {seconds:.1f} | {idle:.1%} | {summary.pace} |", flush=True)


def cut_slides(asked: argparse.Namespace, scans: Path) -> None:
    """Squares of the slide with most tissue, as slides of their own, or copies of the whole slide."""
    scans.mkdir()
    if not asked.side:
        for number in range(asked.slides):
            shutil.copy(asked.slide, scans / f"whole-{number}{asked.slide.suffix}")
        return
    with open_slide(asked.slide, slide_mpp=asked.slide_mpp) as slide:
        tissue, side_um = find_tissue(slide), asked.side * slide.mpp
        corners = [
            (x, y)
            for y in range(0, slide.height_px - asked.side, asked.side)
            for x in range(0, slide.width_px - asked.side, asked.side)
        ]
        shares = tissue.share([Box(x * slide.mpp, y * slide.mpp, side_um, side_um) for x, y in corners])
        for number, at in enumerate(np.argsort(-shares, kind="stable")[: asked.slides].tolist()):
            pixels = slide.read_window(0, *corners[at], asked.side, asked.side).pixels
            write_pyramid(scans / f"small-{number}.tif", pixels, mpp=0.5, n_levels=4)


def device_idle(path: Path) -> tuple[int, float]:
    """Tiles, and the share of the time between its first and its last batch in which nobody had the device."""
    # The first batch of each process, of one tile, asks for the width of its rows.
    rows = [row for row in csv.reader(path.read_text().splitlines()) if row[3] != "1"]
    spans = sorted((float(began), float(ended)) for began, ended, _, _ in rows)
    busy = sum(ended - began for began, ended in spans)
    return sum(int(row[3]) for row in rows), 1 - busy / (spans[-1][1] - spans[0][0])


if __name__ == "__main__":
    main()
