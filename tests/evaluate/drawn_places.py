"""A store at places and its table of targets, drawn so that it is known which tile knows which target."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from parfocal.pretrain.setup import start_weights
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

N, DIM = 60, 6
MPPS = (2.0, 1.0, 0.5)


def draw_places(folder: Path, slides: Sequence[str], *, seed: int = 0, encoder: str = "drawn") -> EmbeddingSet:
    """Write `store` and `spots.csv` into a folder: places in a row on each slide, and what is known of them."""
    set_path = create_set(
        folder / "store", "drawn-00000000", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, DIM), settings={},
        encoder_digests=dict.fromkeys(MPPS, encoder), tile_px=224, dtype="float32",
    )  # fmt: skip
    rows = [row for number, slide in enumerate(slides) for row in _write_slide(set_path, slide, seed + number)]
    with (folder / "spots.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return open_set(set_path)


def _write_slide(set_path: Path, slide: str, seed: int) -> list[dict[str, object]]:
    """Fine tiles show one factor each, and coarse tiles one of their own.

    The first number of a fine tile is its own factor; that of a coarse tile is known to no fine tile.
    """
    rng = np.random.default_rng(seed)
    features: dict[float, list[np.ndarray]] = {mpp: [] for mpp in MPPS}
    region: dict[float, list[int]] = {mpp: [] for mpp in MPPS}
    center: dict[float, list[tuple[float, float]]] = {mpp: [] for mpp in MPPS}
    rows: list[dict[str, object]] = []
    for place in range(N):
        coarse, here, fine = rng.normal(), rng.normal(), rng.normal(size=16)
        for mpp in MPPS:
            side = round(2 / mpp)
            tile = 448 / side
            values = {2.0: [coarse], 1.0: rng.normal(size=4), 0.5: fine}[mpp]
            spots = [((c + 0.5) * tile - 224, (r + 0.5) * tile - 224) for r in range(side) for c in range(side)]
            if mpp < 2:
                values, spots = [*values, here], [*spots, (0.0, 0.0)]
            for value, spot in zip(values, spots, strict=True):
                features[mpp].append(np.array([value, *rng.normal(size=DIM - 1)]))
                region[mpp].append(place)
                center[mpp].append(spot)
        rows.append(
            {"slide": slide, "x_um": 224 + 100 * place, "y_um": 300, "coarse": coarse, "around": fine.mean(),
             "here": here, "kind": "high" if fine.mean() > 0 else "low", "patient": slide[0]}
        )  # fmt: skip
    tokens = SlideTokens(
        slide,
        448.0,
        0.5,
        np.array([(100.0 * place, 76.0) for place in range(N)]),
        {mpp: np.array(rows_, np.float32) for mpp, rows_ in features.items()},
        {mpp: np.array(numbers, np.int32) for mpp, numbers in region.items()},
        {mpp: np.array(spots, np.float32) for mpp, spots in center.items()},
    )
    write_tokens(set_path, tokens)
    return rows


def write_predicting_model(folder: Path) -> Path:
    """A model of random weights that mixes what it is given, for the magnifications of the drawn slides."""
    torch.manual_seed(0)
    model = RegionModel(
        RegionEncoderConfig(
            width=16, depth=1, heads=2, mpps=MPPS, dims=(DIM,) * 3, encoders=("drawn",) * 3, layer_scale=1.0
        )
    )
    start_weights(model)
    model.save_pretrained(folder)
    return folder
