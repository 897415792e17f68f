"""The weakest and the strongest colour of every pixel; numpy reduces an axis of three twenty times slower."""

import numpy as np
from jaxtyping import UInt8


def weakest(rgb: UInt8[np.ndarray, "*places 3"]) -> UInt8[np.ndarray, "*places"]:
    """The smallest of the three values of each pixel."""
    return np.asarray(np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]))


def strongest(rgb: UInt8[np.ndarray, "*places 3"]) -> UInt8[np.ndarray, "*places"]:
    """The largest of the three values of each pixel."""
    return np.asarray(np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]))
