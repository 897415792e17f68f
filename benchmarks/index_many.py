"""How long `index` takes over many slides and how much memory it holds: generated files, of a tile a row.

    python benchmarks/index_many.py [--slides 250 2000] [--tiles 10000] [--dim 8]

Each slide has so many tiles at 20x, a fourth at 10x and a sixteenth at 5x, in TRIDENT's layout. Rows are short, as it
is the places that are joined; with rows of 1,536 numbers the time to read them once from the disk is added. Each number
of slides is indexed in a process of its own, whose peak memory is printed.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from parfocal.store import index_features

SIDES = {5: 1792, 10: 896, 20: 448}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[250, 2000])
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--index", type=Path, help="index this folder and print what it took; for the script itself")
    arguments = parser.parse_args()
    if arguments.index is not None:
        index(arguments.index)
        return
    print("| slides | tiles | seconds | slides a second | peak memory (MiB) |\n|---|---|---|---|---|", flush=True)
    for n_slides in arguments.slides:
        with tempfile.TemporaryDirectory() as folder:
            n_tiles = generate(Path(folder) / "job", n_slides, arguments.tiles, arguments.dim)
            said = subprocess.run(
                [sys.executable, __file__, "--index", folder], check=True, capture_output=True, text=True
            ).stdout
            seconds, peak = map(float, said.split()[-2:])
            print(f"| {n_slides} | {n_tiles:,} | {seconds:.0f} | {n_slides / seconds:.1f} | {peak:.0f} |", flush=True)


def generate(job: Path, n_slides: int, n_tiles: int, dim: int) -> int:
    """The files of a job; how many tiles they have."""
    rng, total = np.random.default_rng(0), 0
    for number in range(n_slides):
        side = int(np.sqrt(n_tiles * rng.uniform(0.8, 1.2)) / 4)
        for power, side_l0px in SIDES.items():
            per = 1792 // side_l0px
            places = np.stack(np.meshgrid(np.arange(side * per), np.arange(side * per)), axis=-1).reshape(-1, 2)
            path = job / f"{power}x_224px_0px_overlap" / "features_toy" / f"slide-{number:05d}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["features"] = rng.standard_normal((len(places), dim)).astype(np.float16)
                file["coords"] = places * side_l0px
                file["coords"].attrs.update(
                    patch_size=224, patch_size_level0=side_l0px, overlap=0, target_magnification=power
                )
            total += len(places)
    return total


def index(folder: Path) -> None:
    started = time.monotonic()
    summary = index_features([folder / "job"], folder / "store", slide_mpp=0.25, on_event=lambda _: None)
    assert not summary.failed, summary.failed[:2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.monotonic() - started, peak)


if __name__ == "__main__":
    main()
