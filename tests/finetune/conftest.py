"""A small cohort of slides with what is known of them, for all tests of this folder."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from parfocal.config import GridConfig
from parfocal.lab.synthetic.rendered import write_pyramid

from ..region_encoder.toy import tiny_models

TILE_PX = 32
GRID = GridConfig(region_um=64.0, mpps=(2.0, 1.0), tile_px=TILE_PX, min_tissue=0.5)
NAMES = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True)
class Drawn:
    """Slides, labels and places.

    Attributes:
        slides: the folder of the slides.
        labels: slide, patient, striped, amount.
        places: slide, x_um, y_um, share.
    """

    slides: Path
    labels: Path
    places: Path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Six slides of 4 x 3 regions, in half of which fine stripes run down; at every place a share of them."""
    folder = tmp_path_factory.mktemp("finetune")
    rng = np.random.default_rng(0)
    side = 64  # of a region at 1 mpp, level 0
    labels, places = [], []
    for number, name in enumerate(NAMES):
        striped = number % 2 == 0
        picture = np.full((3 * side + 52, 4 * side + 36, 3), 245.0)
        for row in range(3):
            for column in range(4):
                share = float(np.clip(0.5 * striped + rng.random() / 2, 0, 1))
                stripes = 40 * share * np.sign(np.sin(np.arange(side) * 1.6))[None, :, None]
                y, x = row * side, column * side
                picture[y : y + side, x : x + side] = (
                    np.array([170, 90, 150]) + stripes + rng.normal(0, 6, (side, side, 1))
                )
                places.append([name, x + side / 2, y + side / 2, f"{share:.4f}", f"{rng.random():.4f}"])
        write_pyramid(folder / "slides" / f"{name}.tif", np.clip(picture, 0, 255).astype(np.uint8), mpp=1.0, n_levels=1)
        labels.append([name, f"p{number}", "yes" if striped else "no", f"{number / 7:.3f}"])
    for file, header, rows in (
        ("labels.csv", ["slide", "patient", "striped", "amount"], labels),
        ("places.csv", ["slide", "x_um", "y_um", "share", "chance"], places),
    ):
        with (folder / file).open("w", newline="") as table:
            csv.writer(table).writerows([header, *rows])
    return Drawn(folder / "slides", folder / "labels.csv", folder / "places.csv")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_models():
        yield
