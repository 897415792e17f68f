"""Features as TRIDENT writes them, for tests that index them."""

from pathlib import Path

import h5py
import numpy as np

TILE_PX = 224
# Pixels of a 40x slide under a tile of 224 px at 5x, 10x and 20x, as TRIDENT counts them.
SIDES = {5: 1792, 10: 896, 20: 448}
DIM = 6


def trident_file(path: Path, coords: np.ndarray, *, power: int, side_l0px: float, features: np.ndarray) -> None:
    """As TRIDENT's save_h5 does it: one-row chunks, attributes on the datasets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dim = features.shape[1]
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("features", data=features, chunks=(1, dim), maxshape=(None, dim))
        rows.attrs["encoder"], rows.attrs["savetodir"] = "toy", "None"
        places = file.create_dataset("coords", data=coords.astype(np.int64), maxshape=(None, 2))
        places.attrs.update(
            {
                "patch_size": TILE_PX,
                "patch_size_level0": side_l0px,
                "level0_magnification": 40,
                "target_magnification": power,
                "overlap": 0,
                "name": path.stem,
                "savetodir": str(path.parent),
                "level0_width": 9 * 1792 + 100,
                "level0_height": 5 * 1792 + 30,
            }
        )


def trident_job(
    root: Path,
    slide: str,
    *,
    shift_l0px: int = 0,
    sides: dict[int, int] = SIDES,
    encoder: str = "toy",
    seed: int = 0,
    coarse: tuple[int, int] = (9, 5),
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """One run a magnification, over so many coarse tiles; some are absent, and each file has an order of its own."""
    rng = np.random.default_rng(seed)
    written = {}
    for power, side in sides.items():
        columns, rows = (n * 1792 // side for n in coarse)
        coords = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * side
        coords = coords[rng.permutation(len(coords))[: len(coords) * 3 // 4]] + (shift_l0px if power == 20 else 0)
        features = rng.normal(size=(len(coords), DIM)).astype(np.float32)
        path = root / f"{power}x_224px_0px_overlap" / f"features_{encoder}" / f"{slide}.h5"
        trident_file(path, coords, power=power, side_l0px=float(side), features=features)
        written[power] = (coords, features)
    return written
