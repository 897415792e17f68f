"""What the places of tiles say of the lattice that they lie on, where a file does not say it."""

import numpy as np
from jaxtyping import Float64

# A hundredth of a pixel or micrometre; float32 leaves no more of places in micrometres.
_DECIMALS = 2


def step_of(xy: Float64[np.ndarray, "tile 2"]) -> float | None:
    """The distance from one tile to the next; None where there is no telling.

    Tools that begin a lattice anew in each piece of tissue have as many lattices as pieces, so only tiles of one row or
    one column are compared, and the distance that most neighbours have is taken.
    """
    values, counts = np.unique(np.round(distances_on_lines(xy), _DECIMALS), return_counts=True)
    if len(values) == 0 or 2 * counts.max() < counts.sum():
        return None
    return float(values[counts.argmax()])


def distances_on_lines(xy: Float64[np.ndarray, "tile 2"]) -> Float64[np.ndarray, " pair"]:
    """The distances of neighbours that lie in one row or one column exactly; those in one place do not count."""
    return np.concatenate([_neighbours(xy[:, 0], xy[:, 1]), _neighbours(xy[:, 1], xy[:, 0])])


def _neighbours(
    along: Float64[np.ndarray, " tile"], line: Float64[np.ndarray, " tile"]
) -> Float64[np.ndarray, " pair"]:
    """The distances of neighbours that lie on one line."""
    order = np.lexsort((along, line))
    same = np.diff(line[order]) == 0
    distances = np.diff(along[order])[same]
    above: np.ndarray = distances[distances > 0]
    return above
