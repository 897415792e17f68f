"""Colours of a rendered slide: two stains, absorbing light by the law of Beer and Lambert.

The stain vectors and strengths are drawn once for each slide. They are its nuisance: every tile of a slide shares them,
no label knows them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

__all__ = ["CONCENTRATION_STEP", "Stain", "draw_stain", "stain_to_rgb"]

CONCENTRATION_STEP = 0.01
"""Optical density of one grey level in the concentration pictures, along a stain vector of length 1."""

# Ruifrok and Johnston 2001 for haematoxylin; their eosin is close to magenta, so some blue absorption is added.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.09, 0.95, 0.24])


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and lit: stain vectors with their strengths, and the grey level of empty glass."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    glass: int


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw the stain of a slide: directions vary by a few degrees, strengths by about a tenth."""

    def vary(vector: np.ndarray) -> tuple[float, float, float]:
        direction = np.clip(vector + rng.normal(0.0, 0.025, 3), 0.02, None)
        direction = direction / np.linalg.norm(direction) * rng.uniform(0.9, 1.12)
        return float(direction[0]), float(direction[1]), float(direction[2])

    return Stain(haematoxylin=vary(_HAEMATOXYLIN), eosin=vary(_EOSIN), glass=int(rng.integers(240, 248)))


def stain_to_rgb(
    haematoxylin: UInt8[np.ndarray, "y x"], eosin: UInt8[np.ndarray, "y x"], stain: Stain
) -> UInt8[np.ndarray, "y x 3"]:
    """The picture of two concentration maps, in steps of `CONCENTRATION_STEP`.

    The exponential of a sum is the product of two tables of 256 entries, which costs a tenth of computing it per pixel.
    """
    density = np.arange(256)[:, None] * CONCENTRATION_STEP
    tables = [
        np.rint(scale * np.exp(-density * np.asarray(vector))).astype(np.uint8)[None]
        for vector, scale in ((stain.haematoxylin, 255.0), (stain.eosin, float(stain.glass)))
    ]
    parts = [
        cv2.LUT(cv2.merge([plane, plane, plane]), table)
        for plane, table in zip((haematoxylin, eosin), tables, strict=True)
    ]
    rgb: UInt8[np.ndarray, "y x 3"] = cv2.multiply(parts[0], parts[1], scale=1 / 255)
    return rgb
