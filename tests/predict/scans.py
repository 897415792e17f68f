"""Small slides with one colour a class, embedded by a quick encoder: the way from pixels to a prediction in seconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parfocal.config import GridConfig
from parfocal.heads import ProbeSettings
from parfocal.predict import FitSettings

N_TRAIN, N_NEW = 16, 4
SIDE_PX = 112  # of a region at level 0, 0.5 mpp
GRID = GridConfig(region_um=56.0, mpps=(2.0, 0.5), tile_px=28, min_tissue=0.5)
QUICK = FitSettings(
    folds=3,
    repeats=2,
    probes=ProbeSettings(
        components=(2,), lifted=(), attention_steps=8, attention_validation=1, mlp_steps=8, growth=1, inner_folds=3
    ),
)
# For heads of which no number is asked.
LEAN = QUICK.model_copy(
    update={
        "folds": 2,
        "repeats": 1,
        "probes": QUICK.probes.model_copy(update={"sharpen": False, "inner_folds": 2, "attention_steps": 4}),
    }
)

ENCODER = '''
import numpy as np

def quick(tiles):
    """Mean colour of the halves of a tile, and its spread."""
    pixels = tiles.astype(np.float32) / 255
    halves = np.concatenate([pixels[:, :14].mean((1, 2)), pixels[:, 14:].mean((1, 2))], 1)
    return np.concatenate([halves, pixels.std((1, 2))], 1)
'''


@dataclass(frozen=True, eq=False)
class Scanned:
    """A cohort with everything that `fit` takes, and slides that it has not seen."""

    folder: Path
    encoder: str
    labels: Path
    store: Path
    new_slides: Path
    new_is_red: dict[str, bool]
    new_store: Path
    model: Path
    regions: Path


@dataclass(frozen=True, eq=False)
class Native:
    """The slides of `Scanned`, read whole and with coarse tiles from levels of their own.

    Attributes:
        store: of the labelled slides.
        new: of the new ones.
        model: pretrained on the labelled ones for two steps.
    """

    store: Path
    new: Path
    model: Path


def draw_slide(rng: np.random.Generator, *, is_red: bool, shift: float = 0.0) -> np.ndarray:
    """A slide of 3 x 2 regions with a margin of glass: each region has a colour of its own about that of the slide."""
    picture = np.full((2 * SIDE_PX + 160, 3 * SIDE_PX + 248, 3), 245.0)
    own = np.array([170.0, 90.0, 150.0]) + rng.normal(0, 6, 3) + shift
    for row in range(2):
        for column in range(3):
            colour = own + rng.normal(0, 8, 3) + np.array([60.0 if is_red else 0.0, 0.0, 0.0])
            texture = rng.normal(0, 14, (SIDE_PX, SIDE_PX, 1))
            y, x = row * SIDE_PX, column * SIDE_PX
            picture[y : y + SIDE_PX, x : x + SIDE_PX] = colour + texture
    return np.clip(picture, 0, 255).astype(np.uint8)
