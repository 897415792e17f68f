"""Which instances of a slide a training step looks at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["Draw", "draw_instances", "shares_of"]


@dataclass(frozen=True, eq=False)
class Draw:
    """The instances of one training step: of each table the row numbers and which of them are real, for every slide.

    `rows` is None where a table has one row for each slide, which is then not copied.
    """

    rows: tuple[Int64[Tensor, "slide _drawn"] | None, ...]
    real: tuple[Bool[Tensor, "slide _drawn"], ...]

    def of(self, tables: Sequence[Float[Tensor, "fold _row _kept"]]) -> list[Float[Tensor, "fold slide _drawn _kept"]]:
        """The drawn rows of each table."""
        return [
            table[:, :, None] if drawn is None else table[:, drawn.reshape(-1)].view(len(table), *drawn.shape, -1)
            for table, drawn in zip(tables, self.rows, strict=True)
        ]


def shares_of(starts: Sequence[Int64[np.ndarray, " bound"]], instances: int) -> list[int]:
    """How many instances of each table are drawn: its share of all, at least one, and no more than a slide has."""
    counts = [np.diff(start) for start in starts]
    sizes = np.array([one.mean() for one in counts])
    shares = np.maximum(1, np.rint(instances * sizes / max(sizes.sum(), 1e-12)))
    return [max(1, min(int(share), int(one.max()))) for share, one in zip(shares, counts, strict=True)]


def draw_instances(
    starts: Sequence[Int64[np.ndarray, " bound"]],
    slides: Int64[np.ndarray, " slide"],
    n_slides: int,
    *,
    instances: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Draw]:
    """Draws without end.

    A small slide is taken whole, a larger one with repetition: among hundreds, a double changes nothing. What is drawn
    of a slide does not depend on which other slides are there.

    Args:
        starts: where the rows of each slide begin in each table, and the end.
        slides: their numbers.
        n_slides: how many slides there are in all.
        instances: how many are drawn of a slide, from all tables together.
        rng: decides.
        device: where the networks are.
    """
    shares = shares_of(starts, instances)
    while True:
        numbers, real = [], []
        for start, share in zip(starts, shares, strict=True):
            counts = np.diff(start)[:, None]
            order = np.arange(share)[None]
            random = (rng.random((n_slides, share))[slides] * counts).astype(np.int64)
            drawn = start[:-1, None] + np.where(counts <= share, np.minimum(order, counts - 1), random)
            there = (order < counts) | (counts > share)
            single = share == 1 and bool((counts == 1).all())
            numbers.append(None if single else torch.from_numpy(np.where(there, drawn, 0)).to(device))
            real.append(torch.from_numpy(there).to(device))
        yield Draw(tuple(numbers), tuple(real))
