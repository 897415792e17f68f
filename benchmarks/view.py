"""The viewer's server on one core: how long a tile of a real slide takes, what memory it holds, and large cohorts.

Run: python benchmarks/view.py tiles SLIDE [--requests 10000]     tiles of SLIDE at random places of all its levels
     python benchmarks/view.py regions [--regions 50000]          the columns of a slide of so many regions
     python benchmarks/view.py similar [--regions 200000]         the search over so many region embeddings

`tiles` starts the command itself on one core, in a process of its own, and asks it over one connection from another
core, as a browser would.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from parfocal.geometry import lattice_um
from parfocal.similar import RegionSearch
from parfocal.slides import open_slide
from parfocal.store import (
    SlideOrigin,
    SlideRegions,
    SlideTokens,
    create_set,
    open_set,
    write_regions,
    write_tokens,
)
from parfocal.view import open_viewer
from parfocal.view.plain import as_json

_REGION_UM, _MPPS = 448.0, (2.0, 1.0, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tiles = commands.add_parser("tiles")
    tiles.add_argument("slide", type=Path)
    tiles.add_argument("--requests", type=int, default=10_000)
    for name, n in (("regions", 50_000), ("similar", 200_000)):
        commands.add_parser(name).add_argument("--regions", type=int, default=n)
    commands.choices["similar"].add_argument("--dim", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "tiles":
            measure_tiles(Path(folder), given.slide, given.requests)
        elif given.command == "regions":
            measure_regions(Path(folder), given.regions)
        else:
            measure_similar(Path(folder), given.regions, given.dim)


def tokens(n_regions: int, dim: int = 8) -> SlideTokens:
    """A slide of a square of regions, each with all of its tiles."""
    rng, side = np.random.default_rng(0), round(n_regions**0.5 + 0.5)
    y, x = np.divmod(np.arange(n_regions), side)
    rows, region, centers = {}, {}, {}
    for mpp in _MPPS:
        lattice = lattice_um(_REGION_UM, round(_MPPS[0] / mpp))
        region[mpp] = np.repeat(np.arange(n_regions, dtype=np.int32), len(lattice))
        centers[mpp] = np.tile(lattice, (n_regions, 1)).astype(np.float32)
        rows[mpp] = rng.normal(size=(len(region[mpp]), dim)).astype(np.float16)
    return SlideTokens("slide", _REGION_UM, 0.5, np.column_stack([x, y]) * _REGION_UM, rows, region, centers)


def write_store(store: Path, one: SlideTokens, origin: SlideOrigin | None = None) -> None:
    """A store of one slide."""
    dims = {mpp: rows.shape[1] for mpp, rows in one.features.items()}
    digests = dict.fromkeys(_MPPS, "11111111")
    how = {"region_um": _REGION_UM, "dims": dims, "settings": {"encoder": "drawn"}, "encoder_digests": digests}
    write_tokens(create_set(store, "drawn-1", "tiles", tile_px=224, **how), one, origin=origin)


def measure_tiles(folder: Path, path: Path, n: int) -> None:
    """Time requests for tiles, and look at the server's memory in between."""
    with open_slide(path) as slide:
        size = slide.width_px, slide.height_px
    write_store(folder / "store", tokens(4), SlideOrigin(path=str(path.resolve()), size_l0px=size))
    call = [sys.executable, "-m", "parfocal", "view", str(folder / "store"), "--no-browser"]
    cores = sorted(os.sched_getaffinity(0))
    pin = partial(os.sched_setaffinity, 0, {cores[0]})
    server = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
    os.sched_setaffinity(0, {cores[-1]})
    assert server.stdout is not None
    host, token = server.stdout.readline().strip().removeprefix("http://").strip("/").split("/")
    connection = http.client.HTTPConnection(host)

    def get(address: str) -> bytes:
        connection.request("GET", f"/{token}{address}")
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (address, body)
        return body

    about = json.loads(get("/api/slides/0"))
    places = [
        (number, column, row)
        for number, level in enumerate(about["levels"])
        for row in range(-(-level["h"] // about["tile_size"]))
        for column in range(-(-level["w"] // about["tile_size"]))
    ]
    rng, took, process = np.random.default_rng(0), list[float](), psutil.Process(server.pid)
    busy = sum(process.cpu_times()[:2])
    steps = {round(n * share): share for share in (0.1, 0.25, 0.5, 0.75, 1.0)}
    print(f"{path.name}: {size[0]} x {size[1]} px, {len(places)} tiles of {about['tile_size']} px on one core")
    for number in range(1, n + 1):
        level, column, row = places[int(rng.integers(len(places)))]
        began = time.perf_counter()
        get(f"/slides/0/tiles/{level}/{column}_{row}.jpg")
        took.append(1000 * (time.perf_counter() - began))
        if number in steps:
            late, own = statistics.quantiles(took, n=20)[18], 1000 * (sum(process.cpu_times()[:2]) - busy) / number
            print(
                f"{number:>7} requests: median {statistics.median(took):.1f} ms, 95th percentile {late:.1f}; "
                f"{own:.1f} ms of processor each; memory {process.memory_info().rss / 2**20:.0f} MiB",
                flush=True,
            )
    server.terminate()
    server.wait()


def measure_regions(folder: Path, n: int) -> None:
    """Time what a page asks of a slide with many regions."""
    write_store(folder / "store", tokens(n))
    with open_viewer(folder / "store") as viewer:
        for name, answer in (
            ("columns", lambda: viewer.regions(0)),
            ("the same again", lambda: viewer.regions(0)),
            ("overlay at 20x", lambda: viewer.overlay(0, "differs-0.5")),
            ("one region", lambda: viewer.region(0, n // 2)),
            ("similar, first", lambda: viewer.similar(0, n // 2, 12)),
            ("similar, then", lambda: viewer.similar(0, n // 2 + 1, 12)),
        ):
            began = time.perf_counter()
            body = as_json(answer())
            print(
                f"{n} regions, {name:<15} {time.perf_counter() - began:6.2f} s {len(body) / 2**20:8.2f} MiB", flush=True
            )


def measure_similar(folder: Path, n: int, dim: int) -> None:
    """Time the search over region embeddings of many slides."""
    per_slide, rng = 2000, np.random.default_rng(0)
    made = create_set(
        folder / "store",
        "made-1",
        "regions",
        region_um=_REGION_UM,
        dims=dim,
        settings={"readout": "cls", "model": "drawn"},
        encoder_digests=dict.fromkeys(_MPPS, "11111111"),
    )
    xy_um = np.column_stack([np.arange(per_slide) % 50, np.arange(per_slide) // 50]) * _REGION_UM
    for number in range(n // per_slide):
        rows = rng.normal(size=(per_slide, dim)).astype(np.float16)
        write_regions(made, SlideRegions(f"s{number:05d}", _REGION_UM, 0.5, xy_um, rows))
    process = psutil.Process()
    with RegionSearch(open_set(made)) as search:
        for name in ("first", "second", "third"):
            began, busy = time.perf_counter(), time.process_time()
            search.nearest("s00000", 7, 12)
            took, busy, own = time.perf_counter() - began, time.process_time() - busy, process.memory_info()
            print(
                f"{n} regions of {dim} numbers, {name} question: {took:.2f} s ({busy:.2f} of processor); memory "
                f"{(own.rss - own.shared) / 2**20:.0f} MiB, with pages of the file {own.rss / 2**20:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
