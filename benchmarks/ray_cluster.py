"""A Ray cluster of several nodes on this machine, some of whose workers and one of whose nodes are killed meanwhile.

    python benchmarks/ray_cluster.py [--slides 200] [--nodes 4] [--cores 5] [--kills 20] [--seed 0]

Small slides are generated and embedded by filterbank three times: in one process, in two (`--workers 2`), and on a
cluster of `--nodes` nodes with `--cores` workers each. While the last is at work, so many workers are killed at random
moments, and one node is. Printed: the wall clocks, what was killed, what failed, whether a second call of the same run
completed it, and whether every dataset of the store is that of the first.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import tifffile

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, EmbedSummary, embed_slides

GRID = GridConfig(region_um=128.0, tile_px=64)
SETTINGS = EmbedSettings(grid=GRID, encoder="filterbank,tile_px=64", qc=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cores", type=int, default=5, help="workers of a node")
    parser.add_argument("--kills", type=int, default=20, help="workers that are killed")
    parser.add_argument("--width", type=int, default=3000, help="of a slide, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        generate(here / "slides", asked.slides, asked.width)
        serial = run(here, "serial", SETTINGS)
        run(here, "two", SETTINGS.model_copy(update={"workers": 2}))
        killed = on_cluster(here, asked)
        print(f"killed: {killed['workers']} workers at work, {killed['nodes']} node", flush=True)
        again = run(here, "ray", SETTINGS)
        same = datasets(serial.set_path) == datasets(again.set_path)
        print(f"the store on the cluster {'equals' if same else 'IS NOT'} the serial one, dataset by dataset")


def run(here: Path, name: str, settings: EmbedSettings) -> EmbedSummary:
    started = time.monotonic()
    summary = embed_slides([here / "slides"], here / name, settings, on_event=lambda event: None)
    kept = sum(one.kept for one in summary.done)
    failed = {one.slide: one.error for one in summary.failed}
    how = settings.executor or (f"--workers {settings.workers}" if settings.workers else "serial")
    print(
        f"{name} ({how}): {time.monotonic() - started:.1f} s, {len(summary.done)} done ({kept} of them before), "
        f"{len(failed)} failed {failed or ''}",
        flush=True,
    )
    return summary


def on_cluster(here: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Embed on a cluster whose processes are killed; how many were."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # The head has no worker: it is the driver's own node, and the run ends with it.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=asked.cores) for _ in range(asked.nodes)]
    cluster.wait_for_nodes()
    killed, ended = {"workers": 0, "nodes": 0}, threading.Event()
    draw = random.Random(asked.seed)

    def kill() -> None:
        node_at = draw.randrange(asked.kills + 1)
        while killed["workers"] < asked.kills and not ended.wait(draw.uniform(0.2, 1.0)):
            if killed["workers"] >= node_at and not killed["nodes"]:
                cluster.remove_node(nodes[draw.randrange(len(nodes))], allow_graceful=False)
                killed["nodes"] += 1
            # A process of Ray says what it is at: ray::serve while it has a slide, ray::IDLE while it has none.
            serving = [
                one.pid for one in psutil.process_iter(["name"]) if (one.info["name"] or "").startswith("ray::s")
            ]
            if serving:
                os.kill(draw.choice(serving), signal.SIGKILL)
                killed["workers"] += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run(here, "ray", SETTINGS.model_copy(update={"executor": "ray", "address": cluster.address}))
    finally:
        ended.set()
        killer.join()
        cluster.shutdown()
    return killed


def generate(folder: Path, n_slides: int, width: int) -> None:
    """Slides with tissue, each with its own."""
    folder.mkdir(parents=True)
    height = width * 3 // 4
    for number in range(n_slides):
        rng = np.random.default_rng(number)
        pixels = np.full((height, width, 3), 243, np.uint8)
        tissue = pixels[height // 8 : -height // 8, width // 8 : -width // 8]
        tissue[:] = np.clip(rng.normal((190, 120, 175), 25, tissue.shape), 0, 255).astype(np.uint8)
        resolution = {"resolution": (1e4 / 0.4985, 1e4 / 0.4985), "resolutionunit": "CENTIMETER"}
        path = folder / f"slide-{number:04d}.tif"
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", **resolution)


def datasets(set_path: Path) -> dict[str, bytes]:
    """Every dataset of a set, by file and name."""
    found: dict[str, bytes] = {}
    for file in sorted(set_path.rglob("*.h5")):
        with h5py.File(file) as opened:

            def keep(name: str, item: h5py.HLObject, file: Path = file) -> None:
                if isinstance(item, h5py.Dataset):
                    shown = f"{item.dtype} {item.shape} ".encode()
                    found[f"{file.relative_to(set_path)}:{name}"] = shown + item[()].tobytes()

            opened.visititems(keep)
    return found


if __name__ == "__main__":
    main()
