"""A night on one store: four shards at once, one of which is killed, with a slide that crashes and one that hangs.

    python benchmarks/night.py [--slides 24] [--timeout 20]

Small slides are drawn, of which one ends the process that encodes it, and one never comes back from it. Four commands
`parfocal embed --shard I/4 --timeout S` write to one store at the same time; one of them is killed by SIGKILL while it
is at work, and then given again. The store is compared with that of one run over the other slides, dataset by dataset.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ray_cluster import datasets

from parfocal import read_status
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.run.failures import read_failures
from parfocal.run.shards import Shard

CRASHES, HANGS = "crashes", "hangs"
ENCODER = """
import os, signal, time

def encode(tiles):
    colour = tuple(tiles[0, 0, 0])
    if colour == (200, 0, 0):
        os.kill(os.getpid(), signal.SIGSEGV)
    if colour == (0, 0, 200):
        time.sleep(3600)
    return tiles.mean((1, 2)).astype("float32")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--timeout", type=float, default=20.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "toy.py").write_text(ENCODER)
        names = [f"slide-{number:03d}" for number in range(asked.slides)]
        draw(here / "scans", names)
        embed = [sys.executable, "-m", "parfocal", "embed", str(here / "scans"), "--workers", "1", "--no-qc"]
        embed += ["--encoder", f"python:{here / 'toy.py'}:encode,tile_px=64", "--tile-px", "64", "--region-um", "128"]
        embed += ["--tissue", "none", "--timeout", f"{asked.timeout:g}"]
        shared, single = here / "shared", here / "single"
        killed = max(range(4), key=lambda one: sum(map(Shard(one, 4).holds, names)))
        started = time.monotonic()
        runs = [start([*embed, "-o", str(shared), "--shard", f"{one}/4"]) for one in range(4)]
        done = wait_for_a_slide(shared, [name for name in names if Shard(killed, 4).holds(name)])
        runs[killed].send_signal(signal.SIGKILL)
        print(f"shards ended with {[run.wait() for run in runs]} after {time.monotonic() - started:.0f} s;", end=" ")
        print(f"shard {killed} was killed when {done} was done")
        again = start([*embed, "-o", str(shared), "--shard", f"{killed}/4"])
        print(f"shard {killed} given again ended with {again.wait()}")
        write_whole(here / "scans", embed, single)
        (status,) = read_status(shared, slides=[here / "scans"]).sets
        print(f"done {len(status.done)} of {len(names) + 2}, missing {len(status.missing)}; failed:")
        for one in read_failures(shared):
            print(f"  {one.slide}: {one.error}: {one.message}")
        same = datasets(shared / status.name) == datasets(single / status.name)
        print(f"the store of the shards {'equals' if same else 'IS NOT'} that of one run, dataset by dataset")


def draw(scans: Path, names: Sequence[str]) -> None:
    """Slides of noise, and two of one colour each."""
    scans.mkdir()
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).integers(60, 200, (512, 1024, 3))
        write_pyramid(scans / f"{name}.tif", noise.astype(np.uint8), mpp=0.5, n_levels=1)
    for name, colour in ((CRASHES, (200, 0, 0)), (HANGS, (0, 0, 200))):
        plain = np.full((512, 1024, 3), colour, np.uint8)
        write_pyramid(scans / f"{name}.tif", plain, mpp=0.5, n_levels=1)


def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_a_slide(store: Path, names: Sequence[str]) -> str:
    """The first of some slides that is in the store."""
    while True:
        for index in store.glob("*/index/*.h5"):
            if index.stem in names:
                return index.stem
        time.sleep(0.01)


def write_whole(scans: Path, embed: Sequence[str], store: Path) -> None:
    """One run over the slides that neither crash nor hang."""
    listed = [path for path in sorted(scans.glob("*.tif")) if path.stem not in {CRASHES, HANGS}]
    subprocess.run(
        [*embed[:4], *map(str, listed), *embed[5:], "-o", str(store)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    main()
