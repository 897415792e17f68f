"""Uniform stride, as an order: every prefix is spread evenly over the tissue.

The tiles are strung along a Hilbert curve, which keeps what is near on the curve near on the slide, and are taken in
the order of the fractional parts of k times the golden ratio, k being the place on the curve. The k whose fractional
part is below b lie at most three different distances apart, the largest of which is the sum of the other two (Sos 1958,
three-distance theorem), so the share b is a stride of about 1 / b for any b and not only for whole strides.
"""

import numpy as np
from jaxtyping import Float64, Int64

from parfocal.embed.glance import Glance, TileOrder
from parfocal.zoom.policies.policy import Policy

_GOLDEN = (np.sqrt(5) - 1) / 2
_BITS = 16  # of each coordinate: 65,536 steps over the longer side of the tissue, finer than a tile


def stride_order(glance: Glance) -> TileOrder:
    """All tiles, each prefix of which is spread evenly; the seed does not matter."""
    along = np.argsort(hilbert_place(glance.xy_um), kind="stable")
    return along[np.argsort(np.arange(glance.n_tiles) * _GOLDEN % 1.0, kind="stable")]


def hilbert_place(xy: Float64[np.ndarray, "point 2"]) -> Int64[np.ndarray, " point"]:
    """How far along a Hilbert curve over their square each point lies.

    Args:
        xy: of points; the square begins at the least of each coordinate.
    """
    if not len(xy):
        return np.zeros(0, dtype=np.int64)
    from_corner = xy - xy.min(axis=0)
    cell = np.floor(from_corner / max(float(from_corner.max()), 1e-300) * (2**_BITS - 1)).astype(np.int64)
    x, y = cell.T
    place = np.zeros(len(xy), dtype=np.int64)
    for bit in reversed(range(_BITS)):
        right, below = (x >> bit) & 1, (y >> bit) & 1
        place += ((3 * right) ^ below) << (2 * bit)
        # The curve inside a quarter is the whole one, mirrored on a diagonal in two of the four.
        turned = (below == 0) & (right == 1)
        x, y = np.where(turned, ~x, x), np.where(turned, ~y, y)
        x, y = np.where(below == 0, y, x), np.where(below == 0, x, y)
    return place


STRIDE = Policy("stride", stride_order)
