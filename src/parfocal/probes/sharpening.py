"""From a direction that labels gave to the nearest one along which the regions fall into groups.

A state that a region either has or has not, such as an architecture, splits the regions in two, so its direction
stands out in the vectors alone, without a label. Independent component analysis finds such directions (Hyvarinen 1999,
fixed point with tanh); a contrast of few slides is a noisy start near the right one, and the regions of these slides,
a hundred times as many, then place it. Where vectors are normal along every direction the result is arbitrary: it is
offered beside the direction as it was, and chosen or not by the held-out loss.
"""

import numpy as np
from jaxtyping import Float32, Float64

__all__ = ["sharpen"]

_ITERATIONS = 20
_MOST_ROWS = 512
"""For each component; the direction is then known to a few per cent of its length."""


def sharpen(
    rows: Float32[np.ndarray, "row component"], start: Float64[np.ndarray, "component direction"], seed: int
) -> Float64[np.ndarray, "component direction"]:
    """The independent direction nearest to each start, of norm one and with its sign.

    Where there are no more rows than components, every direction fits them, and the starts come back.

    Args:
        rows: about white, mean zero.
        start: of norm one.
        seed: of the part of the rows that is used where there are very many.
    """
    if len(rows) <= rows.shape[1]:
        return start
    most = max(4096, _MOST_ROWS * rows.shape[1])
    if len(rows) > most:
        rows = rows[np.sort(np.random.default_rng([seed, 6]).choice(len(rows), most, replace=False))]
    # Exactly white: what is left of a covariance in a part of the rows is as large as what tells groups apart.
    x = rows.astype(np.float64)
    whiten = np.linalg.inv(np.linalg.cholesky(x.T @ x / len(x) + 1e-9 * np.eye(x.shape[1])))
    white = (x @ whiten.T).astype(np.float32)
    direction = np.linalg.solve(whiten.T, start)
    direction /= np.linalg.norm(direction, axis=0)
    for _ in range(_ITERATIONS):
        squashed = np.tanh(white @ direction.astype(np.float32))
        slope = 1 - (squashed**2).mean(axis=0, dtype=np.float64)
        direction = (white.T @ squashed).astype(np.float64) / len(white) - direction * slope
        direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-300)
    direction = whiten.T @ direction
    direction = direction * np.where((direction * start).sum(axis=0) < 0, -1.0, 1.0)
    return np.asarray(direction / np.linalg.norm(direction, axis=0))
