"""`embed` beside LazySlide on one slide: seconds, CPU time outside the encoder, memory and tiles.

    python benchmarks/beside_lazyslide.py SLIDE [--slide-mpp 0.5] [--lazyslide PYTHON] [--repeats 3]

PYTHON is an interpreter that has LazySlide, such as that of a virtual environment with `pip install lazyslide`; this
one where it is left out. Both find the tissue and give tiles of 224 px at 2, 1 and 0.5 mpp in batches of 64 to an
encoder that returns zeros at once, so that what is counted is what is outside of an encoder; neither normalises tiles,
both write what comes of it. Each run is a process of its own, in turns, with one thread a library. The slide has been
done once before in the process, uncounted, so that imports and compilation are not counted; the peak of memory is that
of the process. The two find tissue and lay tiles in their own ways: what counts is CPU time for a tile.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MPPS, TILE_PX, BATCH, WIDTH = (2.0, 1.0, 0.5), 224, 64, 8

AT_ONCE = """
import numpy as np

def encode(tiles):
    return np.zeros((len(tiles), 8), np.float32)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float, default=0.5)
    parser.add_argument("--lazyslide", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measured(WAYS[asked.only], asked.slide, asked.slide_mpp)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    print("| | tiles | seconds | CPU seconds | CPU ms a tile | peak MiB | of it before the slide |")
    print("|---|---|---|---|---|---|---|")
    for _ in range(asked.repeats):
        for name, python in (("embed", sys.executable), ("LazySlide", asked.lazyslide)):
            one = in_a_process(python, name, asked)
            found[name].append(one)
            print(
                f"| {name} | {one['tiles']:,.0f} | {one['seconds']:.1f} | {one['cpu']:.2f} | "
                f"{1e3 * one['cpu'] / one['tiles']:.2f} | {one['peak']:.0f} | {one['before']:.0f} |",
                flush=True,
            )
    ours, theirs = ([one["cpu"] / one["tiles"] for one in found[name]] for name in WAYS)
    whole = [min(one["cpu"] for one in found[name]) for name in WAYS]
    print(f"CPU time, LazySlide to embed, best of {asked.repeats}: {whole[1] / whole[0]:.1f}, ", end="")
    print(f"for a tile {min(theirs) / min(ours):.1f}")


def in_a_process(python: str, name: str, asked: argparse.Namespace) -> dict[str, float]:
    """What a process of its own measures."""
    command = [python, "-W", "ignore", __file__, str(asked.slide), "--slide-mpp", str(asked.slide_mpp), "--only", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return answer


def measured(way: Callable[[Path, float, Path], int], slide: Path, mpp: float) -> dict[str, float]:
    """Seconds, CPU seconds, tiles, and MiB before and at the peak, of the second time that the slide is done."""
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        way(slide, mpp, Path(folder) / "first")
        started, worked = time.monotonic(), time.process_time()
        tiles = way(slide, mpp, Path(folder) / "second")
        seconds, cpu = time.monotonic() - started, time.process_time() - worked
    return {"tiles": tiles, "seconds": seconds, "cpu": cpu, "peak": peak_mib(), "before": before}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def embed(slide: Path, mpp: float, store: Path) -> int:
    from parfocal.embed import EmbedSettings, embed_slides

    store.mkdir()
    (store / "at_once.py").write_text(AT_ONCE)
    encoder = f"python:{store / 'at_once.py'}:encode,tile_px={TILE_PX}"
    settings = EmbedSettings(encoder=encoder, slide_mpp=mpp, batch=BATCH)
    (done,) = embed_slides([slide], store / "store", settings).done
    return sum(done.n_tiles.values())


def lazyslide(slide: Path, mpp: float, store: Path) -> int:
    import lazyslide
    import torch
    from wsidata import open_wsi

    class AtOnce:
        def __call__(self, tiles: "torch.Tensor") -> "torch.Tensor":
            return torch.zeros(len(tiles), WIDTH)

    wsi = open_wsi(str(slide), store=f"{store}.zarr")
    wsi.set_mpp(mpp)
    lazyslide.pp.find_tissues(wsi)
    count = 0
    for one in MPPS:
        tiles = f"tiles_{one:g}"
        lazyslide.pp.tile_tissues(wsi, TILE_PX, mpp=one, key_added=tiles)
        lazyslide.tl.feature_extraction(
            wsi, AtOnce(), tile_key=tiles, key_added=f"rows_{one:g}", batch_size=BATCH, device="cpu", pbar=False
        )
        count += len(wsi.shapes[tiles])
    wsi.write()
    return count


WAYS: dict[str, Callable[[Path, float, Path], int]] = {"embed": embed, "LazySlide": lazyslide}


if __name__ == "__main__":
    main()
