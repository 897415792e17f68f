"""The tile that a person would look at first to guess a hidden one: its parent, else its children, else its sisters."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.studies.proof.layout import Layout

__all__ = ["nearest_relatives", "relation"]


def relation(layout: Layout, step: int) -> Bool[np.ndarray, "slot slot"]:
    """Which slots (second axis) lie `step` magnifications finer than a slot (first axis), inside or over it.

    A negative step gives what lies over it; 0 the other tiles of its own magnification.
    """
    apart = layout.level[None] - layout.level[:, None]
    nested = layout.contains | layout.contains.T
    if step == 0:
        same: Bool[np.ndarray, "slot slot"] = (apart == 0) & ~np.eye(layout.n_slots, dtype=bool)
        return same
    related: Bool[np.ndarray, "slot slot"] = (apart == step) & nested
    return related


def nearest_relatives(
    tokens: Float32[np.ndarray, "region slot dim"],
    visible: Bool[np.ndarray, "region slot"],
    layout: Layout,
) -> tuple[Float32[np.ndarray, "region slot dim"], Int64[np.ndarray, "region slot"]]:
    """For every slot the mean of its nearest visible relatives, and their magnification; -1 where it has none.

    The finest visible tile over it; else the visible tiles inside it, of the coarsest magnification that has one; else
    the visible others of its own magnification.
    """
    source = np.zeros_like(tokens)
    level = np.full(visible.shape, -1, dtype=np.int64)
    for step in _steps(len(layout.mpps)):
        weight = (visible[:, None] & relation(layout, step)[None]).astype(np.float32)  # (region, slot, source)
        count = weight.sum(axis=2)
        taken = (level < 0) & (count > 0)
        if not taken.any():
            continue
        mean = (weight / np.maximum(count, 1)[..., None]) @ tokens
        source[taken] = mean[taken]
        level[taken] = np.broadcast_to(layout.level + step, level.shape)[taken]
    return source, level


def _steps(n_levels: int) -> Iterator[int]:
    yield from range(-1, -n_levels, -1)
    yield from range(1, n_levels)
    yield 0
