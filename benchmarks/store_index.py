"""What questions about a slide cost: each of a set opened for it, and of one open set, which has read the index.

Run: python benchmarks/store_index.py [--regions 60 2000] [--repeats 20]
CPU milliseconds of this process, the best of several; files are in the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

SIDE_UM, DIM = 448.0, 64
PER_REGION = {2.0: 1, 1.0: 4, 0.5: 16}
QUESTIONS: dict[str, Callable[[EmbeddingSet], object]] = {
    "number of tiles": lambda opened: opened.n_tiles("slide"),
    "attributes": lambda opened: opened.attributes("slide"),
    "places": lambda opened: opened.places("slide"),
    "all embeddings": lambda opened: opened.read("slide"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, nargs="+", default=[60, 2000])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{'regions':<9}{'question':<17}{'set opened anew ms':>20}{'one open set ms':>17}{'ratio':>8}")
    for n_regions in arguments.regions:
        with tempfile.TemporaryDirectory() as folder:
            path = _store(Path(folder), n_regions)
            opened, opening = open_set(path), _best(lambda path=path: open_set(path), arguments.repeats)
            for name, ask in QUESTIONS.items():
                anew = _best(lambda path=path, ask=ask: ask(open_set(path)), arguments.repeats) - opening
                again = _best(lambda opened=opened, ask=ask: ask(opened), arguments.repeats)
                print(f"{n_regions:<9}{name:<17}{anew:>20.3f}{again:>17.3f}{anew / again:>8.1f}")


def _store(folder: Path, n_regions: int) -> Path:
    rng, columns = np.random.default_rng(0), int(np.ceil(n_regions**0.5))
    path = create_set(
        folder,
        "toy",
        "tiles",
        region_um=SIDE_UM,
        dims=dict.fromkeys(PER_REGION, DIM),
        settings={"encoder": "toy"},
        encoder_digests=dict.fromkeys(PER_REGION, "toy"),
        tile_px=224,
    )
    region, center_um, features = {}, {}, {}
    for mpp, count in PER_REGION.items():
        side = round(count**0.5)
        step = (np.arange(side) + 0.5) * SIDE_UM / side - SIDE_UM / 2
        inside = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
        region[mpp] = np.repeat(np.arange(n_regions, dtype=np.int32), count)
        center_um[mpp] = np.tile(inside, (n_regions, 1)).astype(np.float32)
        features[mpp] = rng.standard_normal((n_regions * count, DIM)).astype(np.float16)
    place = np.arange(n_regions)
    xy_um = np.stack([place % columns, place // columns], axis=1) * SIDE_UM
    write_tokens(path, SlideTokens("slide", SIDE_UM, 0.25, xy_um, features, region, center_um))
    return path


def _best(ask: Callable[[], object], repeats: int) -> float:
    ask()
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        ask()
        taken.append(time.process_time() - begin)
    return 1000 * min(taken)


if __name__ == "__main__":
    main()
