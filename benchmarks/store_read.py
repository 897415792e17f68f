"""How fast a slide's features are read back: our chunks, TRIDENT's one-row chunks, and no chunks.

Run: python benchmarks/store_read.py [--rows 20000] [--dim 1536] [--repeats 7]
Files are in the page cache (local disk, warm), so the numbers are HDF5's own work.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from parfocal.store.layout import chunk_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        print(f"{arguments.rows} x {arguments.dim}, median of {arguments.repeats}, warm page cache")
        print(f"{'layout':<34}{'MiB':>8}{'all ms':>10}{'region ms':>11}{'write ms':>10}")
        for dtype in ("float32", "float16"):
            rows = rng.normal(size=(arguments.rows, arguments.dim)).astype(dtype)
            ours = chunk_rows(len(rows), arguments.dim, rows.dtype.itemsize)
            for name, chunks in (
                ("one row (TRIDENT)", (1, arguments.dim)),
                (f"{ours} rows, 1 MiB (ours)", (ours, arguments.dim)),
                ("contiguous", None),
            ):
                path = Path(folder) / f"{dtype}-{chunks}.h5"
                write_ms = _milliseconds(lambda path=path, rows=rows, chunks=chunks: _write(path, rows, chunks), 1)
                all_ms = _milliseconds(lambda path=path: _read_all(path), arguments.repeats)
                region_ms = _milliseconds(lambda path=path: _read_region(path), arguments.repeats)
                size = path.stat().st_size / 2**20
                print(f"{dtype + ', ' + name:<34}{size:>8.1f}{all_ms:>10.1f}{region_ms:>11.2f}{write_ms:>10.1f}")


def _write(path: Path, rows: np.ndarray, chunks: tuple[int, int] | None) -> None:
    with h5py.File(path, "w", rdcc_nbytes=4 << 20) as file:
        maxshape = (None, rows.shape[1]) if chunks else None
        features = file.create_dataset("features", rows.shape, rows.dtype, chunks=chunks, maxshape=maxshape)
        for start in range(0, len(rows), 64):
            features[start : start + 64] = rows[start : start + 64]


def _read_all(path: Path) -> None:
    with h5py.File(path) as file:
        file["features"][...]


def _read_region(path: Path) -> None:
    """The sixteen fine tiles of one region in the middle of the file."""
    with h5py.File(path) as file:
        middle = len(file["features"]) // 2
        file["features"][middle : middle + 16]


def _milliseconds(call, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
